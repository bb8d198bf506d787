"""The table of `detect`: one row per image, in order, unusable images included."""

import copy
import re
import sys

import numpy as np
import pandas as pd
import pytest
from image_files import photo
from joblib import parallel_config
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    GroupKFold,
    TunedThresholdClassifierCV,
)
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_dfd import MobileNetV2Features, detect, make_deepfake_pipeline
from sklearn_dfd._core import extraction
from sklearn_dfd.augmentation import View
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.inspection import _judging as judging


@pytest.fixture(scope="module")
def photos():
    return make_spliced_photos(24, random_state=0)


def make_pipe():
    return make_deepfake_pipeline(
        weights=None, image_size=32, max_epochs=1, hidden_layer_sizes=(16,), random_state=0
    )


@pytest.fixture(scope="module")
def pipe(photos):
    return make_pipe().fit(photos.data, np.array(["real", "fake"])[photos.target])


@pytest.fixture
def files(tmp_path, photos):
    """12 files, of which those in rows 1, 4 and 10 cannot be used."""
    paths = [tmp_path / f"{i:02}.png" for i in range(12)]
    for path, pixels in zip(paths, photos.data, strict=False):
        Image.fromarray(pixels).save(path)
    paths[1].unlink()
    paths[4].write_bytes(b"no image")
    paths[10].write_bytes(photo()[:-300])  # its header is sound
    return paths


BAD = [1, 4, 10]
COLUMNS = ["path", "label", "probability_fake", "reading", "error"]


def test_a_row_for_each_image(pipe, files):
    table = detect(pipe, files, pos_label="fake")
    assert table.columns.tolist() == COLUMNS
    assert table.index.equals(pd.RangeIndex(12))
    assert table["path"].tolist() == [str(path) for path in files]
    good = np.delete(np.arange(12), BAD)
    expected = pipe.predict_proba([files[row] for row in good])[:, 0]
    np.testing.assert_array_equal(table["probability_fake"][good], expected)
    assert table["label"][good].tolist() == ["fake" if p >= 0.5 else "real" for p in expected]
    assert (table["error"][good] == "").all()
    assert table["probability_fake"][BAD].isna().all() and table["label"][BAD].isna().all()
    assert table["error"][1] == "the file does not exist"
    assert table["error"][4] == "the bytes are not in an image format that can be read"
    assert "truncated or damaged" in table["error"][10]
    for row in range(12):
        if row in BAD:
            assert table["reading"][row] == f"not judged: {table['error'][row]}"
        else:
            assert table["reading"][row] == f"called {table['label'][row]}"


def test_views_are_judged_like_images(pipe, files):
    table = detect(pipe, [View(files[0], 0, "mirrored"), View(files[1], 0)], pos_label="real")
    mirrored = np.array(Image.open(files[0]))[:, ::-1]
    assert table["probability_real"][0] == pytest.approx(pipe.predict_proba([mirrored])[0, 1])
    assert table["path"][1] == f"view of '{files[1]}'"
    assert table["reading"][1] == "not judged: the file does not exist"


def test_chunks_change_nothing(pipe, files, monkeypatch):
    whole = detect(pipe, files, pos_label="fake")
    monkeypatch.setattr(judging, "_CHUNK", 5)
    parts = detect(pipe, files, pos_label="fake", verbose=1)
    pd.testing.assert_frame_equal(parts, whole, rtol=0, atol=1e-6)


def test_an_unusable_image_costs_no_other_a_second_pass(pipe, files, monkeypatch):
    passes = []
    run = extraction._run

    def counted(network, sources, *options):
        outcome, rows = run(network, sources, *options)
        passes.append(len(rows))
        return outcome, rows

    monkeypatch.setattr(extraction, "_run", counted)
    detect(pipe, files, pos_label="fake")
    assert sum(passes) == 9


@pytest.mark.parametrize("kind", [lambda pipe: pipe, lambda pipe: AugmentedClassifier(pipe)])
def test_predict_is_not_asked_where_it_is_known_to_call_the_more_probable(
    kind, pipe, photos, monkeypatch
):
    detector = kind(pipe)
    if detector is not pipe:
        detector.set_params(n_views=0).fit(photos.data, photos.target_names[photos.target])
    expected = detector.predict(photos.data)
    monkeypatch.setattr(type(detector), "predict", lambda self, X: pytest.fail("read again"))
    table = detect(detector, photos.data, pos_label=detector.classes_[0])
    np.testing.assert_array_equal(table["label"], expected)


def test_nothing_usable_is_a_table_too(pipe, tmp_path):
    table = detect(pipe, [tmp_path / "a", tmp_path / "b"], pos_label="fake")
    assert table["label"].isna().all()
    assert np.isnan(table["probability_fake"]).all()
    assert table["error"].tolist() == ["the file does not exist"] * 2


def test_threshold(pipe, photos):
    table = detect(pipe, photos.data, pos_label="fake")
    middle = float(np.median(table["probability_fake"]))
    stricter = detect(pipe, photos.data, threshold=middle, pos_label="fake")
    np.testing.assert_array_equal(stricter["probability_fake"], table["probability_fake"])
    np.testing.assert_array_equal(stricter["label"] == "fake", table["probability_fake"] >= middle)
    by_sklearn = FixedThresholdClassifier(
        pipe, threshold=middle, pos_label="fake", response_method="predict_proba"
    )
    by_sklearn.fit(photos.data, np.array(["real", "fake"])[photos.target])
    expected = by_sklearn.estimator_.predict_proba(photos.data)[:, 0]
    labels = by_sklearn.predict(photos.data)
    assert labels.tolist() == ["fake" if p >= middle else "real" for p in expected]
    assert set(detect(pipe, photos.data, threshold=0, pos_label="fake")["label"]) == {"fake"}


def test_without_a_threshold_what_the_estimator_calls_it(pipe, photos):
    middle = float(np.median(detect(pipe, photos.data, pos_label="real")["probability_real"]))
    fixed = FixedThresholdClassifier(FrozenEstimator(pipe), threshold=middle, pos_label="real")
    fixed.fit(photos.data, np.array(["real", "fake"])[photos.target])
    expected = fixed.predict(photos.data)
    assert 0 < np.sum(expected == "real") < 24
    assert (expected != pipe.predict(photos.data)).any()
    for pos_label in ("fake", "real"):
        table = detect(fixed, photos.data, pos_label=pos_label)
        assert table["label"].tolist() == expected.tolist()
    table = detect(pipe, photos.data, pos_label="fake")
    assert table["label"].tolist() == pipe.predict(photos.data).tolist()


def test_the_column_says_whose_probability_it_is(pipe, photos):
    for column, label in enumerate(["fake", "real"]):
        table = detect(pipe, photos.data, pos_label=label)
        expected = pipe.predict_proba(photos.data)[:, column]
        np.testing.assert_array_equal(table[f"probability_{label}"], expected)
        assert [name for name in table if name.startswith("p")] == ["path", f"probability_{label}"]


@pytest.mark.parametrize(
    ("classes", "name"),
    [((0, 1), "1"), ((-1, 1), "1"), ((False, True), "True"), ((0.0, 1.0), "1.0")],
)
def test_numbers_and_booleans_need_no_pos_label(classes, name):
    images = np.zeros((3, 8, 8, 3), np.uint8)
    images[:, 0, 0, 0] = [10, 50, 90]
    table = detect(Says().fit(None, classes), images)
    np.testing.assert_allclose(table[f"probability_{name}"], [0.1, 0.5, 0.9])
    assert table["label"].tolist() == [classes[0], classes[1], classes[1]]


@pytest.mark.parametrize("classes", [("fake", "real"), ("0", "1"), (1, 2), (0, 2), (0.5, 1.0)])
def test_other_labels_need_a_pos_label(classes):
    detector = Says().fit(None, classes)
    images = np.zeros((2, 8, 8, 3), np.uint8)
    shown = re.escape(f"{list(classes)}")
    with pytest.raises(ValueError, match=f"pos_label must be given for the classes {shown}") as e:
        detect(detector, images)
    call = str(e.value).split("for example, ")[1].removesuffix(".")
    table = eval(call, {"detect": detect, "estimator": detector, "X": images})
    assert table[f"probability_{classes[0]}"].tolist() == [1, 1]


def test_images_of_all_kinds_keep_their_names(pipe, photos, files):
    with Image.open(files[0]) as opened:
        assert detect(pipe, [opened], pos_label="fake")["path"].tolist() == [str(files[0])]
    array = photos.data[0]
    images = pd.Series([array, Image.fromarray(array), photo(), b""], name="photo")
    table = detect(pipe, images, pos_label="fake")
    assert table["path"].tolist()[:2] == ["array (96, 96, 3)", "PIL image (RGB, 96x96)"]
    assert table["error"].tolist() == ["", "", "", "there are no bytes in it"]
    assert table["probability_fake"][0] == table["probability_fake"][1]


class Says(ClassifierMixin, BaseEstimator):
    """Reads the first pixel as the probability of the second class, in per cent."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        p = np.array([image[0, 0, 0] for image in X]) / 100
        return np.stack([1 - p, p], axis=1)

    def predict(self, X):
        return self.classes_[(self.predict_proba(X)[:, 1] >= 0.5).astype(int)]


class Calibrated(Says, CalibratedClassifierCV):
    """Gives the same answers, and counts as calibrated."""

    def __init__(self):
        self.estimator = None


def readings(percent, classes=("fake", "real"), kind=Calibrated, pos_label="fake", **options):
    images = np.zeros((len(percent), 8, 8, 3), np.uint8)
    images[:, 0, 0, 0] = percent
    detector = kind().fit(None, classes)
    return detect(detector, images, pos_label=pos_label, **options)["reading"].tolist()


def test_an_uncalibrated_detector_is_never_said_to_be_sure(pipe, photos):
    words = [f"called {label}" for label in ("real", "real", "fake", "fake")]
    assert readings([100, 60, 40, 0], kind=Says) == words
    table = detect(pipe, photos.data, pos_label="fake")
    assert set(table["reading"]) <= {"called fake", "called real"}
    assert "not calibrated" in table.attrs["note"]
    assert "CalibratedClassifierCV" in table.attrs["note"]


def calibrated(pipe, photos):
    detector = CalibratedClassifierCV(FrozenEstimator(pipe))
    return detector.fit(photos.data, np.array(["real", "fake"])[photos.target])


@pytest.mark.parametrize(
    ("wrap", "expected"),
    [
        (lambda inner: inner, True),
        (lambda inner: FrozenEstimator(inner), True),
        (lambda inner: Pipeline([("same", FunctionTransformer()), ("detector", inner)]), True),
        (lambda inner: FixedThresholdClassifier(FrozenEstimator(inner)), True),
        (
            lambda inner: TunedThresholdClassifierCV(
                FrozenEstimator(inner), cv="prefit", refit=False
            ),
            True,
        ),
        (
            lambda inner: GridSearchCV(
                FixedThresholdClassifier(FrozenEstimator(inner)), {"threshold": [0.4]}, cv=2
            ),
            True,
        ),
        # the mean of calibrated probabilities need not be calibrated
        (lambda inner: VotingClassifier([("a", FrozenEstimator(inner))], voting="soft"), False),
    ],
)
def test_a_calibrated_detector_is_found_in_what_is_around_it(wrap, expected, pipe, photos):
    detector = wrap(calibrated(pipe, photos))
    y = np.array(["real", "fake"])[photos.target]
    detector.fit(photos.data, y)
    table = detect(detector, photos.data[:3], pos_label="fake")
    assert table["reading"].str.startswith("called").all() != expected
    assert ("not calibrated" in table.attrs["note"]) != expected


def test_readings_are_no_surer_than_the_probability():
    assert readings([100, 90, 89, 70, 69, 50, 49, 30, 10, 0]) == [
        *["very likely real"] * 2,
        *["likely real"] * 2,
        *["uncertain, leaning to real"] * 2,
        "uncertain, leaning to fake",
        "likely fake",
        *["very likely fake"] * 2,
    ]
    numbers = readings([20, 80], classes=(0, 1), pos_label=None)
    assert numbers == ["likely class 0", "likely class 1"]
    # where only near certainty counts, 60 % of "fake" is called real, and 60 % is not that
    assert readings([40, 5], threshold=0.95) == [
        "uncertain, called real by the threshold",
        "very likely fake",
    ]


def test_without_pandas(pipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        ImportError, match=r'detect needs pandas.*pip install "sklearn-dfd\[table\]"'
    ):
        detect(pipe, ["absent.jpg"])


def test_a_search_detects_and_integers_stay_integers(photos, files):
    search = GridSearchCV(make_pipe(), {"classifier__lr": [1e-3]}, cv=GroupKFold(2))
    search.fit(photos.data, photos.target, groups=photos.groups)
    labels = detect(search, files)["label"]  # of classes 0 and 1
    assert {type(label) for label in labels} == {int, type(None)}


def test_what_cannot_be_meant(pipe, photos):
    with pytest.raises(NotFittedError):
        detect(make_pipe(), photos.data)
    with pytest.raises(ValueError, match=r"pos_label='Fake' is not one .* \['fake', 'real'\]"):
        detect(pipe, photos.data, pos_label=np.str_("Fake"))
    with pytest.raises(TypeError, match="single path"):
        detect(pipe, "a.jpg", pos_label="fake")
    with pytest.raises(ValueError, match="threshold"):
        detect(pipe, photos.data, threshold=50, pos_label="fake")


@pytest.mark.parametrize("names", [(0, 1, 2), ("copied", "genuine", "spliced")])
def test_more_than_two_classes(names, photos, files):
    three = make_pipe().fit(photos.data, np.array(names)[np.arange(24) % 3])
    table = detect(three, files)
    columns = [f"probability_{name}" for name in names]
    assert table.columns.tolist() == ["path", "label", *columns, "reading", "error"]
    good = np.delete(np.arange(12), BAD)
    usable = [files[row] for row in good]
    np.testing.assert_array_equal(table[columns].to_numpy()[good], three.predict_proba(usable))
    assert table["label"][good].tolist() == three.predict(usable).tolist()
    assert table[columns].isna().to_numpy()[BAD].all()
    for options in ({"pos_label": names[0]}, {"threshold": 0.5}):
        with pytest.raises(ValueError, match="threshold and unsure are for two classes"):
            detect(three, files, **options)


INDEXES = {
    "shuffled": pd.Index(np.random.default_rng(0).permutation(12)),
    "filtered": pd.Index(np.arange(12) * 3 + 5),
    "duplicated": pd.Index([0, 0, 1, 1, 2, 2] * 2),
    "strings": pd.Index([f"row {i}" for i in range(12)], name="id"),
    "dates": pd.date_range("2026-01-01", periods=12),
    "several levels": pd.MultiIndex.from_product([["a", "b"], range(6)], names=["set", "number"]),
}


@pytest.mark.parametrize("as_table", [False, True])
@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES)
def test_the_table_has_the_index_of_what_came_in(index, as_table, pipe, files):
    expected = detect(pipe, files, pos_label="fake")
    series = pd.Series([str(path) for path in files], index=index, name="path")
    table = detect(pipe, series.to_frame() if as_table else series, pos_label="fake")
    assert table.index.equals(index) and table.index.names == index.names
    pd.testing.assert_frame_equal(table.reset_index(drop=True), expected)


def test_values_assigned_to_the_table_of_the_user_are_those_of_their_photographs(pipe, files):
    frame = pd.DataFrame({"path": [str(path) for path in files], "kept": np.arange(12) % 3 > 0})
    frame = frame.sample(frac=1, random_state=0)
    chosen = frame[frame["kept"]].copy()
    chosen["p"] = detect(pipe, chosen["path"], pos_label="fake")["probability_fake"]
    for path, p in zip(chosen["path"], chosen["p"], strict=True):
        alone = detect(pipe, [path], pos_label="fake")["probability_fake"][0]
        assert p == pytest.approx(alone, abs=1e-6, nan_ok=True)


def test_polars_rows_stay_in_order(pipe, files):
    polars = pytest.importorskip("polars")
    expected = detect(pipe, files, pos_label="fake")
    series = polars.Series("path", [str(path) for path in files])
    for images in (series, series.to_frame()):
        table = detect(pipe, images, pos_label="fake")
        pd.testing.assert_frame_equal(table, expected)


# pandas 2 warns of it in concat, which is what the table is for
@pytest.mark.filterwarnings("ignore:The behavior of array concatenation:FutureWarning")
@pytest.mark.parametrize(
    "nothing",
    [
        [],
        (),
        np.array([], dtype=object),
        np.zeros((0, 8, 8, 3), np.uint8),
        pd.Series([], dtype=object, index=pd.Index([], name="id")),
        pd.DataFrame({"path": []}),
    ],
    ids=["list", "tuple", "array", "images", "Series", "DataFrame"],
)
def test_no_images_are_an_empty_table(nothing, pipe, files):
    table = detect(pipe, nothing, pos_label="fake")
    some = detect(pipe, files, pos_label="fake")
    assert len(table) == 0
    assert table.columns.tolist() == COLUMNS
    assert table.dtypes.tolist() == some.dtypes.tolist()
    if isinstance(nothing, pd.Series):
        assert table.index.name == "id"
    assert pd.concat([table, some])["path"].tolist() == some["path"].tolist()


@pytest.mark.parametrize("nothing", ["", b"", {}, None, 3, np.array("a")])
def test_what_is_no_collection_is_refused(nothing, pipe):
    with pytest.raises((TypeError, ValueError)):
        detect(pipe, nothing, pos_label="fake")


def test_a_pipeline_that_gives_rows_of_nan_judges_the_rest(pipe, photos, files):
    expected = detect(pipe, files, pos_label="fake")
    lenient = copy.deepcopy(pipe).set_params(features__on_error="nan")
    y = np.array(["real", "fake"])[photos.target]
    around = AugmentedClassifier(lenient, n_views=0, average_mirrored=False).fit(photos.data, y)
    for detector in (lenient, FrozenEstimator(lenient), around):
        table = detect(detector, files, pos_label="fake")
        pd.testing.assert_frame_equal(table, expected, rtol=0, atol=1e-6)
    table = detect(calibrated(lenient, photos), files, pos_label="fake")
    assert table["error"].tolist() == expected["error"].tolist()
    assert table["probability_fake"].notna().sum() == 9
    with pytest.warns(UserWarning, match="3 of 12 images cannot be used"):  # as before
        rows = lenient[0].transform(files)
    assert np.isnan(rows).any(axis=1).nonzero()[0].tolist() == BAD


def test_workers_raise_for_images_that_cannot_be_used_too(photos, files):
    """Where joblib runs transformers in threads of its own, no row of NaN is judged either."""
    lenient = MobileNetV2Features("pool", weights=None, image_size=32, on_error="nan")
    union = FeatureUnion([("a", lenient), ("b", clone(lenient))], n_jobs=2)
    detector = make_pipeline(union, HistGradientBoostingClassifier(max_iter=2))
    with parallel_config("threading"):
        detector.fit(photos.data, np.array(["real", "fake"])[photos.target])
        table = detect(detector, files, pos_label="fake")
    assert np.flatnonzero(table["label"].isna()).tolist() == BAD
    assert table["error"][1] == "the file does not exist"


def test_progress(pipe, files, capsys):
    quiet = detect(pipe, files, pos_label="fake")
    assert capsys.readouterr().err == ""
    shown = detect(pipe, files, pos_label="fake", verbose=1)
    assert "12/12" in capsys.readouterr().err
    pd.testing.assert_frame_equal(shown, quiet)
