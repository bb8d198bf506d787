"""Scores of distorted images against the same steps by hand, and their figure."""

import sys

import numpy as np
import pandas as pd
import pytest
from image_files import photo
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import FixedThresholdClassifier
from test_examples import run

from sklearn_dfd import make_deepfake_pipeline, robustness
from sklearn_dfd._core.images.distortions import DISTORTIONS
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.metrics import bootstrap_interval
from sklearn_dfd.robustness import RobustnessDisplay, distort, evaluate_robustness


class Grain(ClassifierMixin, BaseEstimator):
    """Calls images spliced if they are grainier than `limit`: quick, with nothing to learn."""

    def __init__(self, limit=3.0):
        self.limit = limit

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X):
        grains = []
        for image in X:
            pixels = np.asarray(Image.open(image) if isinstance(image, str) else image, float)
            grains.append(np.median(np.abs(np.diff(pixels, axis=0))))
        return np.array(grains) - self.limit

    def predict(self, X):
        return self.classes_[(self.decision_function(X) > 0).astype(int)]


@pytest.fixture(scope="module")
def photos():
    return make_spliced_photos(40, random_state=0)


@pytest.fixture(scope="module")
def grain(photos):
    return Grain().fit(photos.data, photos.target)


QUICK = {"n_resamples": 20, "random_state": 0}


def test_a_row_for_each_level_by_hand(photos, grain):
    distortions = {"blur": [2], "jpeg": [90, 40]}
    table = evaluate_robustness(
        grain, photos.data, photos.target, groups=photos.groups, distortions=distortions, **QUICK
    )
    scores = [f"{score}{end}" for score in ("accuracy", "roc_auc") for end in ("", "_low", "_high")]
    assert table.columns.tolist() == ["distortion", "level", *scores]
    assert table["distortion"].tolist() == ["none", "blur", "jpeg", "jpeg"]
    np.testing.assert_array_equal(table["level"], [np.nan, 2, 90, 40])
    seed = np.random.RandomState(0).randint(np.iinfo(np.int32).max)
    for row in table.itertuples():
        images = photos.data
        if row.distortion != "none":
            level = int(row.level)
            images = [distort(image, row.distortion, level) for image in photos.data]
        label, score = grain.predict(images), grain.decision_function(images)
        assert row.accuracy == accuracy_score(photos.target, label)
        assert row.roc_auc == roc_auc_score(photos.target, score)
        options = {"groups": photos.groups, "n_resamples": 20, "random_state": seed}
        interval = bootstrap_interval(roc_auc_score, photos.target, score, **options)
        assert (row.roc_auc_low, row.roc_auc_high) == interval
        interval = bootstrap_interval(accuracy_score, photos.target, label, **options)
        assert (row.accuracy_low, row.accuracy_high) == interval
    assert table["roc_auc"].nunique() > 2


def test_all_distortions_by_default(photos, grain):
    results = evaluate_robustness(grain, photos.data, photos.target, **QUICK)
    expected = [(name, level) for name, d in DISTORTIONS.items() for level in d.levels]
    got = list(zip(results["distortion"], results["level"], strict=True))[1:]
    assert got == expected
    assert str({name: list(d.levels) for name, d in DISTORTIONS.items()}).replace("'", '"') in (
        " ".join(evaluate_robustness.__doc__.split())
    )


@pytest.mark.parametrize(("limit", "value"), [("_CHUNK", 7), ("_CHUNK_PIXELS", 3 * 96 * 96)])
def test_few_images_are_in_memory(photos, grain, limit, value, monkeypatch):
    options = {"distortions": {"noise": [5]}, **QUICK}
    whole = evaluate_robustness(grain, photos.data, photos.target, **options)
    sizes = []

    def counted(estimator, images):
        sizes.append(len(images))
        return judge(estimator, images)

    judge = robustness._judge
    monkeypatch.setattr(robustness, "_judge", counted)
    monkeypatch.setattr(robustness, limit, value)
    parts = evaluate_robustness(grain, photos.data, photos.target, **options)
    pd.testing.assert_frame_equal(parts, whole)
    assert max(sizes) == {"_CHUNK": 7, "_CHUNK_PIXELS": 3}[limit] and sum(sizes) == 80


def test_pipelines_of_paths_and_names_of_classes(photos, tmp_path):
    """What a user has: files, labels in words, and a threshold other than one half."""
    paths = [str(tmp_path / f"{i}.png") for i in range(40)]
    for path, pixels in zip(paths, photos.data, strict=True):
        Image.fromarray(pixels).save(path)
    y = photos.target_names[photos.target]
    pipe = make_deepfake_pipeline(
        weights=None, image_size=32, max_epochs=1, hidden_layer_sizes=(16,), random_state=0
    )
    detector = FixedThresholdClassifier(pipe, threshold=0.0, pos_label="spliced").fit(paths, y)
    table = pd.DataFrame({"path": paths, "label": y})
    results = evaluate_robustness(
        detector, table["path"], table["label"], distortions={"resize": [0.5]}, **QUICK
    )
    assert (results["accuracy"] == 0.5).all()  # everything is called spliced
    untouched = roc_auc_score(photos.target, detector.predict_proba(paths)[:, 1])
    assert results["roc_auc"][0] == pytest.approx(untouched)
    assert results["roc_auc"][1] != results["roc_auc"][0]


def test_unusable_images_are_named_before_anything_is_judged(photos, grain, tmp_path, monkeypatch):
    Image.fromarray(photos.data[0]).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    images = [str(tmp_path / name) for name in ("good.png", "absent.png", "good.png", "bad.png")]
    monkeypatch.setattr(robustness, "_judge", None)
    with pytest.raises(ImageError, match=r"2 of 4 .*row 1 .*absent.png.*row 3 .*bad.png"):
        evaluate_robustness(grain, images, [0, 0, 1, 1], **QUICK)
    images = [*photos.data[:3], photo()[:-300]]  # its header is sound
    with pytest.raises(ImageError, match=r"1 of 4 .*row 3 .*truncated"):
        evaluate_robustness(grain, images, [0, 0, 1, 1], **QUICK)


class Refusing(Grain):
    """Refuses images that are brighter than most, as one that finds no face in them would."""

    def predict(self, X):
        means = [np.asarray(image).mean() for image in X]
        bright = [
            (row, "what is judged", "too bright") for row in np.flatnonzero(np.array(means) > 200)
        ]
        if bright:
            raise ImageError(bright, len(X), hint="Look away.")
        return super().predict(X)


def test_what_the_estimator_refuses_is_named_among_all(photos, monkeypatch):
    monkeypatch.setattr(robustness, "_CHUNK", 4)
    images = [pixels // 2 for pixels in photos.data[:11]]
    y = np.arange(11) % 2
    refusing = Refusing().fit(images, y)
    whole = [*images[:9], np.full((32, 40, 3), 250, np.uint8), images[10]]
    with pytest.raises(ImageError) as caught:
        evaluate_robustness(refusing, whole, y, **QUICK)
    assert str(caught.value) == (
        "1 of 11 images cannot be used: row 9 (array (32, 40, 3)): too bright. Repair them, or "
        "leave them out."
    )
    dim = [*images[:6], np.full((32, 40, 3), 160, np.uint8), *images[7:]]
    with pytest.raises(ImageError, match=r"1 of 11 .* row 6 .*: too bright \(brightness 1\.5\)\."):
        evaluate_robustness(refusing, dim, y, distortions={"brightness": [0.5, 1.5]}, **QUICK)


def test_the_limit_of_pixels_of_the_pipeline_holds(photos, tmp_path, monkeypatch):
    pipe = make_deepfake_pipeline(weights=None, image_size=32, max_epochs=1, max_pixels=64 * 96)
    pipe.fit(photos.data[:8], photos.target[:8])
    images = []
    for row, height in enumerate([32, 64, 64, 96]):
        images.append(tmp_path / f"{row}.png")
        Image.fromarray(photos.data[row, :height]).save(images[-1])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 96)  # of what has no limit of its own
    y = photos.target[[0, 1, 2, 3]]
    y[:2], y[2:] = 0, 1
    frozen = CalibratedClassifierCV(FrozenEstimator(pipe), cv=2)
    frozen.fit(photos.data[:8], photos.target[:8])
    for detector in (pipe, FrozenEstimator(pipe), frozen):
        with pytest.raises(ImageError, match=r"1 of 4 .*row 3 .*3\.png.*max_pixels is 6144"):
            evaluate_robustness(detector, images, y, **QUICK)
    y = y[:3]
    for detector in (pipe, frozen):
        results = evaluate_robustness(detector, images[:3], y, distortions={"jpeg": [50]}, **QUICK)
        assert len(results) == 2


def test_levels_of_numpy(photos, grain):
    kinds = {"blur": np.array([1, 2], np.float32), "noise": [np.float64(5)], "jpeg": np.array([50])}
    plain = {"blur": [1.0, 2.0], "noise": [5.0], "jpeg": [50]}
    results = [
        evaluate_robustness(grain, photos.data, photos.target, distortions=levels, **QUICK)
        for levels in (kinds, plain)
    ]
    pd.testing.assert_frame_equal(*results)


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        ([0, 0, 0, 0], {}, r"labels \[0\] and the detector knows the classes \[0, 1\]"),
        (["a", "b", "a", "b"], {}, r"labels \['a', 'b'\]"),
        ([0, 1], {}, "inconsistent numbers of samples"),
        ([0, 1, 0, 1], {"groups": [0, 1]}, "groups has 2 values for 4 images: pass one for each"),
        ([0, 1, 0, 1], {"groups": [0, 1, 2, None]}, r"groups has no label in row 3 \(None\)"),
        ([0, 1, 0, 1], {"groups": [0, np.nan, 1, 2]}, r"groups has no label in row 1 \(nan\)"),
        ([0, 1, 0, 1], {"groups": [7, 7, 7, 7]}, "All 4 samples are one group"),
        (
            [0, 1, 0, 1],
            {"distortions": {"jpg": [50]}},
            r"has \['jpg'\], which do not .*'jpeg'",
        ),
        ([0, 1, 0, 1], {"distortions": {"jpeg": [0]}}, r"'jpeg' must be an int in the range"),
        ([0, 1, 0, 1], {"distortions": {"jpeg": 50}}, r"distortions\['jpeg'\] is 50: pass a list"),
        ([0, 1, 0, 1], {"confidence_level": 95}, "confidence_level"),
    ],
)
def test_what_cannot_be_evaluated(y, options, message, photos, grain, monkeypatch):
    monkeypatch.setattr(robustness, "_judge", None)  # nothing is computed before
    with pytest.raises(ValueError, match=message):
        evaluate_robustness(grain, photos.data[:4], y, **QUICK, **options)


@pytest.mark.parametrize("kind", ["decision_function", "predict_proba"])
def test_no_class_has_to_be_named(kind, photos, grain):
    """Accuracy and ROC AUC are the same whichever class is the positive one."""
    tables = []
    for names in (["genuine", "spliced"], ["z", "a"]):  # the second pair sorts the other way
        detector = Renamed(grain, names, kind).fit(None, names)
        tables.append(
            evaluate_robustness(
                detector,
                photos.data,
                np.array(names)[photos.target],
                groups=photos.groups,
                distortions={"jpeg": [50], "noise": [10]},
                **QUICK,
            )
        )
    pd.testing.assert_frame_equal(*tables)
    assert tables[0]["roc_auc"].min() < 1


class Renamed(ClassifierMixin, BaseEstimator):
    """Gives another detector's answers, with other names for its two classes."""

    def __init__(self, detector, names, kind):
        self.detector, self.names, self.kind = detector, names, kind

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def __getattr__(self, name):
        if name in ("decision_function", "predict_proba") and name == self.__dict__.get("kind"):
            return self._decide if name == "decision_function" else self._probability
        raise AttributeError(name)

    def _decide(self, X):
        sign = 1 if self.classes_[1] == self.names[1] else -1
        return sign * self.detector.decision_function(X)

    def _probability(self, X):
        p = 1 / (1 + np.exp(-self._decide(X)))
        return np.stack([1 - p, p], axis=1)

    def predict(self, X):
        return np.array(self.names)[self.detector.predict(X)]


def test_progress(photos, grain, capsys):
    options = {"distortions": {"blur": [1]}, **QUICK}
    quiet = evaluate_robustness(grain, photos.data, photos.target, **options)
    assert capsys.readouterr().err == ""
    shown = evaluate_robustness(grain, photos.data, photos.target, verbose=1, **options)
    bars = capsys.readouterr().err
    assert "80/80" in bars and "4/4" in bars  # images, and intervals
    pd.testing.assert_frame_equal(shown, quiet)
    assert quiet.attrs["confidence_level"] == 0.95


def test_labels_are_taken_by_position(photos, grain):
    """The indexes of X and y say nothing about which label belongs to which image."""
    options = {"distortions": {"jpeg": [50]}, **QUICK}
    expected = evaluate_robustness(grain, photos.data, photos.target, **options)
    X = pd.Series(list(photos.data), index=np.random.default_rng(0).permutation(40))
    y = pd.Series(photos.target, index=pd.Index([f"row {i}" for i in range(40)]))
    pd.testing.assert_frame_equal(evaluate_robustness(grain, X, y, **options), expected)


def test_unfitted(photos):
    with pytest.raises(NotFittedError):
        evaluate_robustness(Grain(), photos.data, photos.target)


@pytest.fixture(scope="module")
def results(photos, grain):
    return evaluate_robustness(grain, photos.data, photos.target, **QUICK)


@pytest.fixture
def pyplot():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    yield pyplot
    pyplot.close("all")


def test_display(results, pyplot, tmp_path):
    display = RobustnessDisplay(results).plot()
    labels = ["JPEG quality", "Resizing (factor)", "Blur (std in pixels)"]
    assert [axes.get_xlabel() for axes in display.axes_][:3] == labels
    ticks = [[tick.get_text() for tick in axes.get_xticklabels()] for axes in display.axes_]
    assert ticks[0] == ["as is", "90", "70", "50", "30"]  # from mild to severe
    assert ticks[1] == ["as is", "0.75", "0.5", "0.25"]
    assert ticks[2] == ["as is", "1", "2", "3"]
    assert ticks[4] == ["0.5", "0.75", "as is", "1.25", "1.5"]
    accuracy, auc = display.lines_[0]
    assert (accuracy.get_label(), auc.get_label()) == ("Accuracy", "ROC AUC")
    assert accuracy.get_linestyle() != auc.get_linestyle()  # not told apart by colour alone
    (legend,) = display.figure_.legends
    assert "95 % interval" in [text.get_text() for text in legend.get_texts()]
    np.testing.assert_array_equal(auc.get_ydata(), results["roc_auc"][:5])
    brightness = [*results["roc_auc"][-4:-2], results["roc_auc"][0], *results["roc_auc"][-2:]]
    np.testing.assert_array_equal(display.lines_[4][1].get_ydata(), brightness)
    for axes in display.axes_:
        low, high = axes.get_ylim()
        assert low <= 0.45 and high > 1
    display.figure_.savefig(tmp_path / "robustness.png")


def test_display_from_estimator_on_given_axes(photos, grain, pyplot):
    figure, axes = pyplot.subplots(2)
    display = RobustnessDisplay.from_estimator(
        grain,
        photos.data,
        photos.target,
        ax=axes,
        groups=photos.groups,
        distortions={"jpeg": [50, 90], "blur": [1]},
        **QUICK,
    )
    assert display.figure_ is figure and list(display.axes_) == list(axes)
    ticks = [tick.get_text() for tick in axes[0].get_xticklabels()]
    assert ticks == ["as is", "90", "50"]
    expected = evaluate_robustness(
        grain, photos.data, photos.target, distortions={"jpeg": [50, 90]}, **QUICK
    )
    np.testing.assert_array_equal(display.lines_[0][1].get_ydata(), expected["roc_auc"][[0, 2, 1]])


def test_display_says_what_it_cannot_do(results, pyplot):
    with pytest.raises(
        ValueError, match=r"must hold 5 matplotlib Axes, one for each of .*'jpeg'.*got 1"
    ):
        RobustnessDisplay(results).plot(ax=pyplot.gca())
    with pytest.raises(ValueError, match="no distortion to plot"):
        RobustnessDisplay(results[:1]).plot()


def test_display_without_matplotlib(results, grain, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"RobustnessDisplay.plot needs matplotlib"):
        RobustnessDisplay(results).plot()
    monkeypatch.setattr(robustness, "_judge", None)  # nothing is computed before
    with pytest.raises(ImportError, match=r"from_estimator needs matplotlib"):
        RobustnessDisplay.from_estimator(grain, photos.data, photos.target)


def test_without_pandas(grain, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setattr(robustness, "_judge", None)  # nothing is computed before
    with pytest.raises(ImportError, match="evaluate_robustness needs pandas"):
        evaluate_robustness(grain, photos.data, photos.target)


@pytest.mark.slow
def test_the_example_from_random_weights(tmp_path):
    done = run("robustness.py", tmp_path, DFD_N_SAMPLES=60, DFD_EPOCHS=1, DFD_RESAMPLES=20)
    assert done.returncode == 0, done.stderr
    assert "found at 1 % false alarms" in done.stdout
    assert "brightness" in done.stdout
    assert "not judged: the file does not exist" in done.stdout
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")
