"""scikit-learn's calibration of the whole pipeline, from paths of images, by group."""

import numpy as np
import pytest
import sklearn
from PIL import Image
from sklearn import config_context
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.utils.fixes import parse_version

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.datasets import make_spliced_photos

METHODS = ["sigmoid", "isotonic"]
if parse_version(sklearn.__version__) >= parse_version("1.8"):
    METHODS.append("temperature")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photographs as files, and labels in words."""
    photos = make_spliced_photos(60, random_state=0)
    folder = tmp_path_factory.mktemp("photos")
    paths = [str(folder / f"{i:02}.png") for i in range(60)]
    for path, pixels in zip(paths, photos.data, strict=True):
        Image.fromarray(pixels).save(path)
    photos.update(data=np.array(paths, dtype=object), target=photos.target_names[photos.target])
    return photos


@pytest.fixture
def pipe():
    return make_deepfake_pipeline(
        weights=None, image_size=32, max_epochs=1, hidden_layer_sizes=(16,), random_state=0
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ensemble", [True, False])
def test_calibration_by_group(method, ensemble, pipe, photos):
    """Splits made beforehand keep groups together; the pipeline gets them for its own split."""
    pipe.set_params(classifier__early_stopping=True)
    splits = list(GroupKFold(2).split(photos.data, photos.target, photos.groups))
    calibrated = CalibratedClassifierCV(pipe, method=method, cv=splits, ensemble=ensemble)
    calibrated.fit(photos.data, photos.target, classifier__groups=photos.groups)
    probability = calibrated.predict_proba(photos.data)
    assert probability.shape == (60, 2)
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-6)
    assert set(calibrated.predict(list(photos.data))) <= {"genuine", "spliced"}
    for inner in calibrated.calibrated_classifiers_:
        assert "valid_loss" in inner.estimator[-1].history_[0]


@pytest.mark.parametrize("method", METHODS)
def test_calibration_on_rows_set_aside(method, pipe, photos):
    """A detector that is already fitted: overconfident probabilities are lowered."""
    pipe.set_params(classifier__max_epochs=30, classifier__lr=3e-3, classifier__l1_factor=0)
    train = photos.groups % 2 == 0
    pipe.fit(photos.data[train], photos.target[train])
    X, y = photos.data[~train], photos.target[~train]
    calibrated = CalibratedClassifierCV(FrozenEstimator(pipe), method=method).fit(X, y)
    before, after = (detector.predict_proba(X)[:, 1] for detector in (pipe, calibrated))
    assert log_loss(y, after) < log_loss(y, before)
    if method == "temperature":
        # Never turned round, as by a sigmoid of falling slope: the order of the images stays,
        # but for probabilities so near 0 or 1 that they tie.
        assert np.diff(after[np.argsort(before)]).min() > -1e-6


def test_calibration_by_routed_groups(pipe, photos):
    with config_context(enable_metadata_routing=True):
        pipe[-1].set_fit_request(groups=True)
        calibrated = CalibratedClassifierCV(pipe, cv=GroupKFold(2))
        calibrated.fit(photos.data, photos.target, groups=photos.groups)
        probability = cross_val_predict(
            calibrated,
            photos.data,
            photos.target,
            cv=GroupKFold(2),
            method="predict_proba",
            params={"groups": photos.groups},
        )
    assert probability.shape == (60, 2)
    assert len(calibrated.calibrated_classifiers_) == 2
