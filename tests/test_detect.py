"""The table of `detect`: one row an image, in order, whatever is wrong with some."""

import sys

import numpy as np
import pandas as pd
import pytest
from image_files import photo
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV, GroupKFold

from sklearn_dfd import detect, make_deepfake_pipeline
from sklearn_dfd._core import extraction
from sklearn_dfd.augmentation import View
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.inspection import _detect as detection


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


def test_a_row_for_each_image(pipe, files):
    table = detect(pipe, files, pos_label="fake")
    assert table.columns.tolist() == ["path", "label", "probability", "verdict", "error"]
    assert table.index.equals(pd.RangeIndex(12))
    assert table["path"].tolist() == [str(path) for path in files]
    good = np.delete(np.arange(12), BAD)
    expected = pipe.predict_proba([files[row] for row in good])[:, 0]
    np.testing.assert_array_equal(table["probability"][good], expected)
    assert table["label"][good].tolist() == ["fake" if p >= 0.5 else "real" for p in expected]
    assert (table["error"][good] == "").all()
    assert table["probability"][BAD].isna().all() and table["label"][BAD].isna().all()
    assert table["error"][1] == "the file does not exist"
    assert table["error"][4] == "the bytes are of no image format that can be read"
    assert "truncated or damaged" in table["error"][10]
    for row in range(12):
        if row in BAD:
            assert table["verdict"][row] == f"not judged: {table['error'][row]}"
        else:
            assert table["verdict"][row].endswith(f" {table['label'][row]}")


def test_views_are_judged_like_images(pipe, files):
    table = detect(pipe, [View(files[0], 0, "mirrored"), View(files[1], 0)])
    mirrored = np.array(Image.open(files[0]))[:, ::-1]
    assert table["probability"][0] == pytest.approx(pipe.predict_proba([mirrored])[0, 1])
    assert table["path"][1] == f"view of '{files[1]}'"
    assert table["verdict"][1] == "not judged: the file does not exist"


def test_chunks_change_nothing(pipe, files, monkeypatch):
    whole = detect(pipe, files)
    monkeypatch.setattr(detection, "_CHUNK", 5)
    parts = detect(pipe, files)
    pd.testing.assert_frame_equal(parts, whole, rtol=0, atol=1e-6)


def test_an_unusable_image_costs_no_other_a_second_pass(pipe, files, monkeypatch):
    passes = []
    run = extraction._run

    def counted(network, sources, *options):
        outcome, rows = run(network, sources, *options)
        passes.append(len(rows))
        return outcome, rows

    monkeypatch.setattr(extraction, "_run", counted)
    detect(pipe, files)
    assert sum(passes) == 9


@pytest.mark.parametrize("kind", [lambda pipe: pipe, lambda pipe: AugmentedClassifier(pipe)])
def test_predict_is_not_asked_where_it_is_known_to_call_the_more_probable(
    kind, pipe, photos, monkeypatch
):
    detector = kind(pipe)
    if detector is not pipe:
        detector.set_params(n_views=0).fit(photos.data, photos.target)
    expected = detector.predict(photos.data)
    monkeypatch.setattr(type(detector), "predict", lambda self, X: pytest.fail("read again"))
    table = detect(detector, photos.data)
    np.testing.assert_array_equal(table["label"], expected)


def test_nothing_usable_is_a_table_too(pipe, tmp_path):
    table = detect(pipe, [tmp_path / "a", tmp_path / "b"])
    assert table["label"].isna().all()
    assert np.isnan(table["probability"]).all()
    assert table["error"].tolist() == ["the file does not exist"] * 2


def test_threshold(pipe, photos):
    table = detect(pipe, photos.data, pos_label="fake")
    middle = float(np.median(table["probability"]))
    stricter = detect(pipe, photos.data, threshold=middle, pos_label="fake")
    np.testing.assert_array_equal(stricter["probability"], table["probability"])
    np.testing.assert_array_equal(stricter["label"] == "fake", table["probability"] >= middle)
    by_sklearn = FixedThresholdClassifier(
        pipe, threshold=middle, pos_label="fake", response_method="predict_proba"
    )
    by_sklearn.fit(photos.data, np.array(["real", "fake"])[photos.target])
    expected = by_sklearn.estimator_.predict_proba(photos.data)[:, 0]
    labels = by_sklearn.predict(photos.data)
    assert labels.tolist() == ["fake" if p >= middle else "real" for p in expected]
    assert set(detect(pipe, photos.data, threshold=0, pos_label="fake")["label"]) == {"fake"}


def test_without_a_threshold_what_the_estimator_calls_it(pipe, photos):
    middle = float(np.median(detect(pipe, photos.data)["probability"]))
    fixed = FixedThresholdClassifier(FrozenEstimator(pipe), threshold=middle, pos_label="real")
    fixed.fit(photos.data, np.array(["real", "fake"])[photos.target])
    expected = fixed.predict(photos.data)
    assert 0 < np.sum(expected == "real") < 24
    assert (expected != pipe.predict(photos.data)).any()
    for pos_label in ("fake", "real"):
        table = detect(fixed, photos.data, pos_label=pos_label)
        assert table["label"].tolist() == expected.tolist()
    assert detect(pipe, photos.data)["label"].tolist() == pipe.predict(photos.data).tolist()


def test_the_second_class_unless_told(pipe, photos):
    real, fake = (detect(pipe, photos.data, pos_label=label) for label in ("real", "fake"))
    np.testing.assert_array_equal(detect(pipe, photos.data)["probability"], real["probability"])
    np.testing.assert_allclose(real["probability"] + fake["probability"], 1, atol=1e-6)


def test_images_of_all_kinds_keep_their_names(pipe, photos, files):
    with Image.open(files[0]) as opened:
        assert detect(pipe, [opened])["path"].tolist() == [str(files[0])]
    array = photos.data[0]
    images = pd.Series([array, Image.fromarray(array), photo(), b""], name="photo")
    table = detect(pipe, images)
    assert table["path"].tolist()[:2] == ["array (96, 96, 3)", "PIL image (RGB, 96x96)"]
    assert table["error"].tolist() == ["", "", "", "there are no bytes in it"]
    assert table["probability"][0] == table["probability"][1]


class Says(ClassifierMixin, BaseEstimator):
    """Takes the first pixel for its probability, in per cent, of the second class."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        p = np.array([image[0, 0, 0] for image in X]) / 100
        return np.stack([1 - p, p], axis=1)

    def predict(self, X):
        return self.classes_[(self.predict_proba(X)[:, 1] >= 0.5).astype(int)]


def verdicts(percent, classes=("fake", "real"), **options):
    images = np.zeros((len(percent), 8, 8, 3), np.uint8)
    images[:, 0, 0, 0] = percent
    return detect(Says().fit(None, classes), images, **options)["verdict"].tolist()


def test_verdicts_are_no_surer_than_the_probability():
    assert verdicts([100, 90, 89, 70, 69, 50, 49, 30, 10, 0]) == [
        *["very likely real"] * 2,
        *["likely real"] * 2,
        *["uncertain, leaning to real"] * 2,
        "uncertain, leaning to fake",
        "likely fake",
        *["very likely fake"] * 2,
    ]
    assert verdicts([20, 80], classes=(0, 1)) == ["likely class 0", "likely class 1"]
    # where only near certainty counts, 60 % of "fake" is called real, and 60 % is not that
    assert verdicts([40, 5], threshold=0.95, pos_label="fake") == [
        "uncertain, called real by the threshold",
        "very likely fake",
    ]


def test_without_pandas(pipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="detect requires pandas"):
        detect(pipe, ["absent.jpg"])


def test_a_search_detects_and_integers_stay_integers(photos, files):
    search = GridSearchCV(make_pipe(), {"classifier__lr": [1e-3]}, cv=GroupKFold(2))
    search.fit(photos.data, photos.target, groups=photos.groups)
    labels = detect(search, files)["label"]
    assert {type(label) for label in labels} == {int, type(None)}


def test_what_cannot_be_meant(pipe, photos):
    with pytest.raises(NotFittedError):
        detect(make_pipe(), photos.data)
    with pytest.raises(ValueError, match=r"pos_label='Fake' is not a class: \['fake', 'real'\]"):
        detect(pipe, photos.data, pos_label=np.str_("Fake"))
    with pytest.raises(TypeError, match="single path"):
        detect(pipe, "a.jpg")
    with pytest.raises(ValueError, match="threshold"):
        detect(pipe, photos.data, threshold=50)
    three = make_pipe().fit(photos.data, np.arange(24) % 3)
    with pytest.raises(ValueError, match=r"two classes apart, the estimator knows \[0, 1, 2\]"):
        detect(three, photos.data)
