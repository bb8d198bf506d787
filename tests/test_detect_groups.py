"""One answer per group: the table of `detect(groups=)`, against plain loops."""

import numpy as np
import pandas as pd
import pytest
from image_files import photo
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    TunedThresholdClassifierCV,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_dfd import detect, make_deepfake_pipeline
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.inspection import _judging as judging


def first_pixels(images):
    return np.array([image[0, 0, 0] for image in images])[:, np.newaxis]


class Says(ClassifierMixin, BaseEstimator):
    """Reads the first pixel as the number of the row that holds its probabilities."""

    def __init__(self, table=()):
        self.table = table

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return np.asarray(self.table, dtype=float)[first_pixels(X)[:, 0]]

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def numbered(n):
    images = np.zeros((n, 8, 8, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(n)
    return images


def says(fake, classes=("fake", "real")):
    fake = np.asarray(fake)
    return Says(np.stack([fake, 1 - fake], axis=1)).fit(None, classes)


@pytest.mark.parametrize("as_groups", [list, tuple, np.array])
def test_groups_without_an_index_go_by_position(as_groups):
    X = pd.Series(list(numbered(3)), index=["x", "y", "z"])
    table = detect(says([0.9, 0.8, 0.1]), X, groups=as_groups(["a", "a", "b"]), pos_label="fake")
    assert table.index.tolist() == ["a", "b"] and table["n_judged"].tolist() == [2, 1]


def test_thresholds_between_two_numbers_of_float32():
    """They come from a table, in float64, and hold for images as for groups of one image."""

    class SaysInFloat32(Says):
        def predict_proba(self, X):
            return super().predict_proba(X).astype(np.float32)

    p = np.float64(np.float32(0.7))
    detector = SaysInFloat32([[p, 1 - p]] * 2).fit(None, ["fake", "real"])
    above = np.nextafter(p, 1)
    for options in ({"threshold": above}, {"unsure": (0.2, above)}):
        options["pos_label"] = "fake"
        images = detect(detector, numbered(2), **options)
        groups = detect(detector, numbered(2), groups=[0, 1], **options)
        assert images["label"].tolist() == groups["label"].tolist()
        assert "fake" not in images["label"].tolist()


def by_hand(probability, how="mean_log_odds"):
    """The combined probability of one group: the definition, in a plain loop."""
    log_odds = []
    for p in probability:
        p = min(max(p, 1e-6), 1 - 1e-6)
        log_odds.append(np.log(p / (1 - p)))
    middle = {"mean_log_odds": np.mean, "median": np.median}[how](log_odds)
    return 1 / (1 + np.exp(-middle))


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    return rng.uniform(0, 1, 60), rng.choice(list("dbca"), 60)


@pytest.mark.parametrize("how", ["mean_log_odds", "median"])
def test_one_row_per_group_equals_a_plain_loop(drawn, how):
    p, groups = drawn
    table = detect(says(p), numbered(60), groups=groups, aggregate=how, pos_label="fake")
    assert table.columns.tolist() == [
        *["label", "probability_fake", "share_fake", "n_judged", "n_not_judged"],
        *["reading", "error"],
    ]
    assert table.index.name == "group"
    assert table.index.tolist() == list(dict.fromkeys(groups.tolist()))  # of first appearance
    for name, row in table.iterrows():
        inside = p[groups == name]
        expected = by_hand(inside, how)
        assert row["probability_fake"] == pytest.approx(expected, rel=1e-12)
        assert row["label"] == ("fake" if expected >= 0.5 else "real")
        assert row["share_fake"] == pytest.approx(np.mean(inside >= 0.5))
        assert (row["n_judged"], row["n_not_judged"], row["error"]) == (len(inside), 0, "")
    assert table["n_judged"].dtype == table["n_not_judged"].dtype == np.int64
    other = detect(says(p), numbered(60), groups=groups, aggregate=how, pos_label="real")
    np.testing.assert_allclose(1 - other["probability_real"], table["probability_fake"])
    assert other["label"].tolist() == table["label"].tolist()


def test_the_median_ignores_a_minority_and_the_mean_does_not():
    p = [0.9, 0.9, 0.9, 1e-5, 1e-5]
    means = detect(says(p), numbered(5), groups=["film"] * 5, pos_label="fake")
    middle = detect(says(p), numbered(5), groups=["film"] * 5, pos_label="fake", aggregate="median")
    assert means.loc["film", "label"] == "real"
    assert middle.loc["film", "label"] == "fake"
    assert middle.loc["film", "probability_fake"] == pytest.approx(0.9)


def test_certainties_are_finite_and_symmetric():
    p = [0, 0, 1, 1, 0, 1, 1e-30, 1 - 1e-7, 1e-7]
    groups = ["no", "no", "yes", "yes", "both", "both", "tiny", "tiny", "tiny"]
    table = detect(says(p), numbered(9), groups=groups, pos_label="fake")
    shown = table["probability_fake"]
    assert np.isfinite(shown).all()
    assert shown["no"] == pytest.approx(1e-6) and shown["yes"] == pytest.approx(1 - 1e-6)
    assert shown["both"] == pytest.approx(0.5)
    assert shown["tiny"] == pytest.approx(by_hand([1e-6, 1 - 1e-6, 1e-6]))


def test_a_group_of_one_image_has_its_probability():
    p = np.append(np.random.default_rng(0).uniform(size=98), [0, 1])
    alone = detect(says(p), numbered(100), pos_label="fake", threshold=float(p[3]))
    table = detect(
        says(p), numbered(100), groups=np.arange(100), pos_label="fake", threshold=float(p[3])
    )
    np.testing.assert_array_equal(table["probability_fake"], p)
    assert table["label"].tolist() == alone["label"].tolist()
    assert table["share_fake"].tolist() == (alone["label"] == "fake").tolist()


def test_a_threshold_is_of_the_combined_probability():
    p = [0.95, 0.1, 0.1, 0.4, 0.4, 0.4]
    groups = ["one of three"] * 3 + ["all"] * 3
    for threshold in (0.3, 0.38, 0.45):
        table = detect(says(p), numbered(6), groups=groups, pos_label="fake", threshold=threshold)
        for start, name in ((0, "one of three"), (3, "all")):
            inside = np.array(p[start : start + 3])
            called = "fake" if by_hand(inside) >= threshold else "real"
            assert table.loc[name, "label"] == called
            assert table.loc[name, "share_fake"] == np.mean(inside >= threshold)


@pytest.mark.parametrize("pos_label", ["fake", "real"])
@pytest.mark.parametrize("wrap", [lambda x: x, FrozenEstimator, "search"])
def test_the_threshold_of_a_detector_counts(drawn, pos_label, wrap):
    p, groups = drawn
    detector = FixedThresholdClassifier(
        FrozenEstimator(says(p)), threshold=0.62, pos_label=pos_label
    )
    if wrap == "search":
        detector = GridSearchCV(detector, {"threshold": [0.62]}, cv=2, scoring="accuracy")
        detector = make_pipeline(FunctionTransformer(), detector)
    detector.fit(numbered(60), np.where(p > 0.5, "fake", "real"))
    if wrap is FrozenEstimator:
        detector = FrozenEstimator(detector)
    table = detect(detector, numbered(60), groups=groups, pos_label="fake")
    for name, row in table.iterrows():
        combined = by_hand(p[groups == name])
        of_pos = combined if pos_label == "fake" else 1 - combined
        other = {"fake": "real", "real": "fake"}[pos_label]
        assert row["label"] == (pos_label if of_pos >= 0.62 else other)


def test_a_tuned_threshold_counts_and_one_of_decisions_is_refused():
    X = numbered(40)
    y = np.where(np.arange(40) > 30, 1, 0)
    groups = np.arange(40) // 2
    pipe = make_pipeline(FunctionTransformer(first_pixels), LogisticRegression(C=1e-4))
    tuned = TunedThresholdClassifierCV(pipe, cv=2).fit(X, y)
    assert abs(tuned.best_threshold_ - 0.5) > 0.01
    table = detect(tuned, X, groups=groups)
    combined = table["probability_1"]
    assert table["label"].tolist() == (combined >= tuned.best_threshold_).astype(int).tolist()
    assert set(table["label"]) == {0, 1}
    by_decision = FixedThresholdClassifier(
        pipe, threshold=0.3, response_method="decision_function"
    ).fit(X, y)
    assert len(detect(by_decision, X)) == 40
    with pytest.raises(ValueError, match='fit it with response_method="predict_proba"'):
        detect(by_decision, X, groups=groups)
    assert len(detect(by_decision, X, groups=groups, threshold=0.5)) == 20


@pytest.mark.parametrize("how", ["mean_log_odds", "median"])
def test_more_than_two_classes(how):
    rng = np.random.default_rng(0)
    probability = rng.dirichlet([0.3] * 3, 30)
    probability[:2] = [[1, 0, 0], [0, 1, 0]]
    groups = np.arange(30) // 10 * 5
    detector = Says(probability).fit(None, ["copied", "genuine", "spliced"])
    table = detect(detector, numbered(30), groups=groups, aggregate=how)
    names = detector.classes_.tolist()
    columns = [f"probability_{name}" for name in names]
    shares = [f"share_{name}" for name in names]
    assert table.columns.tolist() == [
        *["label", *columns, *shares, "n_judged", "n_not_judged", "reading", "error"]
    ]
    middle = {"mean_log_odds": np.mean, "median": np.median}[how]
    for name, row in table.iterrows():
        inside = np.clip(probability[groups == name], 1e-6, 1 - 1e-6)
        expected = np.exp(middle(np.log(inside), axis=0))
        expected /= expected.sum()
        np.testing.assert_allclose(row[columns].astype(float), expected)
        assert row["label"] == names[int(np.argmax(expected))]
        counts = np.bincount(probability[groups == name].argmax(axis=1), minlength=3)
        np.testing.assert_allclose(row[shares].astype(float), counts / 10)


@pytest.fixture(scope="module")
def pipe():
    photos = make_spliced_photos(24, random_state=0)
    pipe = make_deepfake_pipeline(preset="fast", weights=None, image_size=64)
    return pipe.fit(photos.data, np.array(["real", "fake"])[photos.target])


@pytest.fixture
def films(tmp_path):
    """Frames of three films: all usable, two of them unusable, and none usable."""
    paths = [tmp_path / f"{film}-{frame}.png" for frame in range(4) for film in "abc"]
    for row, path in enumerate(paths):
        damaged = path.name in ("b-1.png", "b-3.png")
        path.write_bytes(b"no" if damaged else photo(quality=5 * row + 5))
        if path.name.startswith("c"):
            path.unlink()
    return paths, [path.name[0] for path in paths]


def test_what_cannot_be_judged_is_counted(pipe, films, monkeypatch):
    paths, groups = films
    monkeypatch.setattr(judging, "_CHUNK", 5)
    alone = detect(pipe, paths, pos_label="fake")
    table = detect(pipe, paths, groups=groups, pos_label="fake", verbose=1)
    assert table["n_judged"].tolist() == [4, 2, 0]
    assert table["n_not_judged"].tolist() == [0, 2, 4]
    for film in "ab":
        inside = alone[(np.array(groups) == film) & (alone["error"] == "")]
        expected = by_hand(inside["probability_fake"])
        assert table.loc[film, "probability_fake"] == pytest.approx(expected)
        assert table.loc[film, "share_fake"] == np.mean(inside["label"] == "fake")
        assert table.loc[film, "error"] == ""
        assert table.loc[film, "reading"] == f"called {table.loc[film, 'label']}"
    row = table.loc["c"]
    assert row["error"] == (
        f"none of 4 images can be used, for example {str(paths[2])!r}: the file does not exist"
    )
    assert row["reading"] == f"not judged: {row['error']}"
    assert row["label"] is None and np.isnan(row["probability_fake"] + row["share_fake"])
    single = detect(pipe, ["absent.jpg"], groups=[1], pos_label="fake")
    assert single["error"].tolist() == ["'absent.jpg': the file does not exist"]
    assert single.index.tolist() == [1]


def test_no_calibration_is_claimed_of_groups(drawn):
    p, groups = drawn

    class Calibrated(Says, CalibratedClassifierCV):
        estimator = None

    detector = Calibrated(np.stack([p, 1 - p], axis=1)).fit(None, ["fake", "real"])
    alone = detect(detector, numbered(60), pos_label="fake")
    assert "The probabilities are calibrated" in alone.attrs["note"]
    table = detect(detector, numbered(60), groups=groups, pos_label="fake")
    assert set(table["reading"]) <= {"called fake", "called real"}
    assert "even if the probabilities of images" in table.attrs["note"]


GROUPS = {
    "strings": list("bbaac"),
    "integers": [3, 3, 1, 1, 2],
    "array": np.array([3, 3, 1, 1, 2]),
    "column": np.array([[3], [3], [1], [1], [2]]),
    "Series": pd.Series(list("bbaac"), index=[9, 8, 7, 6, 5]),
    "categories": pd.Series(list("bbaac"), dtype="category"),
    "strings of pandas": pd.Series(list("bbaac"), dtype="string"),
    "days": pd.Series(pd.to_datetime(["2026-01-02"] * 2 + ["2026-01-01"] * 2 + ["2026-01-03"])),
    "undecodable": ["\udcff", "\udcff", "a", "a", "b"],
}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_kinds_of_groups(groups):
    p = np.array([0.2, 0.4, 0.6, 0.8, 0.9])
    table = detect(says(p), numbered(5), groups=groups, pos_label="fake")
    expected = [by_hand(p[:2]), by_hand(p[2:4]), 0.9]
    np.testing.assert_allclose(table["probability_fake"], expected)
    names = np.asarray(groups).ravel()[[0, 2, 4]]
    assert table.index.tolist() == pd.Index(names).tolist()


def test_groups_of_a_table(pipe, films):
    paths, groups = films
    frame = pd.DataFrame({"path": [str(path) for path in paths], "film": groups})
    expected = detect(pipe, paths, groups=groups, pos_label="fake")
    frame = frame.sample(frac=1, random_state=0)
    table = detect(pipe, frame["path"], groups=frame["film"], pos_label="fake")
    numbers = ["probability_fake", "share_fake", "n_judged", "n_not_judged"]
    pd.testing.assert_frame_equal(table.loc[list("abc"), numbers], expected[numbers])
    polars = pytest.importorskip("polars")
    table = detect(pipe, paths, groups=polars.Series(groups), pos_label="fake")
    pd.testing.assert_frame_equal(table, expected)


def test_no_images_are_an_empty_table():
    table = detect(says([0.5]), [], groups=[], pos_label="fake")
    some = detect(says([0.5]), numbered(1), groups=["a"], pos_label="fake")
    assert len(table) == 0
    assert table.dtypes.tolist() == some.dtypes.tolist()
    assert table.columns.tolist() == some.columns.tolist()
    assert table.index.name == "group"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([1, 2], "groups has 2 values for 3 images"),
        (["a", None, "b"], "groups has no label in row 1 "),
        ([1.0, float("nan"), 2.0], "groups has no label in row 1 "),
        (pd.Series(["a", pd.NA, "b"]), "groups has no label in row 1 "),
        (["a", 1, "b"], "labels that cannot be put in order"),
        (np.zeros((3, 2)), r"array of shape \(3, 2\)"),
        ("abc", "groups"),
        (3, "groups"),
    ],
)
def test_groups_that_cannot_be_meant(groups, message, monkeypatch):
    monkeypatch.setattr(Says, "predict_proba", lambda *args: pytest.fail("computed"))
    with pytest.raises((TypeError, ValueError), match=message):
        detect(says([0.1, 0.2, 0.3]), numbered(3), groups=groups, pos_label="fake")


def test_groups_in_another_order_than_the_images_are_refused():
    frame = pd.DataFrame({"image": list(numbered(4)), "film": list("aabb")})
    chosen = frame.sample(frac=1, random_state=0)["image"]
    detector = says([0.1, 0.2, 0.8, 0.9])
    with pytest.raises(ValueError, match="another index than X"):
        detect(detector, chosen, groups=frame["film"], pos_label="fake")
    hint = frame["film"].loc[chosen.index]
    table = detect(detector, chosen, groups=hint, pos_label="fake")
    assert table["label"].to_dict() == {"a": "real", "b": "fake"}
    table = detect(detector, chosen, groups=frame["film"].to_numpy(), pos_label="fake")
    assert len(table) == 2  # passing an array says that the order counts


def test_other_aggregates_are_refused():
    with pytest.raises(ValueError, match="aggregate"):
        detect(says([0.1]), numbered(1), groups=[1], aggregate="max", pos_label="fake")


# not sure


def test_three_answers():
    p = [0.1, 0.2, 0.20001, 0.5, 0.79999, 0.8, 0.9]
    for pos_label, of_fake in (("fake", p), ("real", [1 - x for x in p])):
        other = {"fake": "real", "real": "fake"}[pos_label]
        detector = says(of_fake)
        table = detect(detector, numbered(7), unsure=(0.2, 0.8), pos_label=pos_label)
        expected = [other, other, None, None, None, pos_label, pos_label]
        near = np.isclose(table[f"probability_{pos_label}"], [0.2, 0.8, 0, 0, 0, 0.8, 0.2])
        assert [x for x, n in zip(table["label"], near, strict=True) if not n] == [
            x for x, n in zip(expected, near, strict=True) if not n
        ]
        assert table["reading"].tolist() == [
            "not sure" if label is None else f"called {label}" for label in table["label"]
        ]
        assert (table["error"] == "").all() and table[f"probability_{pos_label}"].notna().all()
    table = detect(says(p), numbered(7), unsure=(0.2, 0.8), pos_label="fake")
    assert table["label"].tolist() == ["real", "real", None, None, None, "fake", "fake"]
    one = detect(says(p), numbered(7), unsure=[0.5, 0.5], pos_label="fake")
    same = detect(says(p), numbered(7), threshold=0.5, pos_label="fake")
    assert one["label"].tolist() == same["label"].tolist()
    never = detect(says(p), numbered(7), unsure=(0.2, np.inf), pos_label="fake")
    assert set(never["label"]) == {"real", None}


def test_unsure_groups(drawn):
    p, groups = drawn
    table = detect(says(p), numbered(60), groups=groups, unsure=(0.45, 0.55), pos_label="fake")
    for name, row in table.iterrows():
        inside = p[groups == name]
        combined = by_hand(inside)
        expected = "fake" if combined >= 0.55 else "real" if combined <= 0.45 else None
        assert row["label"] == expected
        assert row["reading"] == ("not sure" if expected is None else f"called {expected}")
        assert row["share_fake"] == pytest.approx(np.mean(inside >= 0.55))
    assert {None} < set(table["label"])
    assert "band of 0.45 to 0.55" in table.attrs["note"]
    assert (
        "in groups like these" in table.attrs["note"]
        and "even if the probabilities of images" in table.attrs["note"]
    )


def test_a_band_claims_no_more_than_is_known(drawn):
    p, _ = drawn

    class Calibrated(Says, CalibratedClassifierCV):
        estimator = None

    for kind, word in ((Says, "called"), (Calibrated, "likely")):
        detector = kind(np.stack([p, 1 - p], axis=1)).fit(None, ["fake", "real"])
        table = detect(detector, numbered(60), unsure=(0.25, 0.75), pos_label="fake")
        readings = table["reading"][table["label"].notna()]
        assert readings.str.contains(word).all() and len(readings) < 60
        assert table.attrs["note"].startswith(f"The probabilities are{' not' * (kind is Says)} cal")
        assert "choose_unsure_band" in table.attrs["note"]


@pytest.mark.parametrize(
    "unsure", [(0.8, 0.2), (0.2,), (0.1, 0.2, 0.3), 0.5, ("a", "b"), (float("nan"), 1), (None, 1)]
)
def test_bands_that_cannot_be_meant(unsure):
    with pytest.raises(ValueError, match="unsure"):
        detect(says([0.1]), numbered(1), unsure=unsure, pos_label="fake")


def test_a_band_takes_the_place_of_a_threshold():
    with pytest.raises(ValueError, match="pass one of them"):
        detect(says([0.1]), numbered(1), unsure=(0.2, 0.8), threshold=0.5, pos_label="fake")
    three = Says(np.ones((1, 3)) / 3).fit(None, [0, 1, 2])
    with pytest.raises(ValueError, match="unsure are for two classes"):
        detect(three, numbered(1), unsure=(0.2, 0.8))
