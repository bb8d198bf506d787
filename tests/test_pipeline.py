import os
import pickle
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pytest
from PIL import Image
from sklearn import config_context
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline, make_pipeline

from sklearn_dfd import (
    DeepFakeClassifier,
    MobileNetV2Features,
    make_deepfake_pipeline,
)
from sklearn_dfd._core import extraction
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.datasets import load_real_and_fake_faces, make_spliced_photos
from sklearn_dfd.feature_store import FeatureStore


@pytest.fixture(scope="module")
def photos():
    return make_spliced_photos(36, random_state=0)


@pytest.fixture
def pipe():
    return make_deepfake_pipeline(
        weights=None, image_size=64, max_epochs=1, hidden_layer_sizes=(16,), random_state=0
    )


def test_parameters_reach_their_step():
    pipe = make_deepfake_pipeline(
        10, weights=None, device="cpu", image_size=96, memory="cache", batch_size=8, lr=1e-3
    )
    params = pipe.get_params()
    for name, value in {"layer": 10, "weights": None, "device": "cpu"}.items():
        assert params[f"features__{name}"] == params[f"classifier__{name}"] == value
    assert params["features__image_size"] == 96 and params["features__memory"] == "cache"
    assert params["features__batch_size"] == "auto" and params["classifier__batch_size"] == 8
    assert list(pipe.named_steps) == ["features", "classifier"]
    assert len(pickle.dumps(pipe)) < 1000


@pytest.mark.parametrize(
    ("name", "suggested"),
    [("learning_rate", "lr"), ("engines", "engine"), ("epochs", "max_epochs"), ("l1", "l1_factor")],
)
def test_unknown_parameters_are_refused_with_the_one_that_is_meant(name, suggested):
    with pytest.raises(TypeError, match=f"takes no '{name}'.* Did you mean '{suggested}'"):
        make_deepfake_pipeline(**{name: 1}, n_tails=2)
    with pytest.raises(TypeError, match=r"has a parameter of that name\.$"):
        make_deepfake_pipeline(zzz=1)


def test_rows_of_nan_are_not_offered():
    """The classifier takes none: fit, predict and detect would fail because of them."""
    with pytest.raises(TypeError, match="takes no on_error"):
        make_deepfake_pipeline(on_error="nan")


def test_verbose_reaches_both_steps():
    features, classifier = make_deepfake_pipeline(verbose=1)
    assert features.verbose == classifier.verbose == 1


@pytest.mark.parametrize("preset", [None, "accurate"])
def test_every_parameter_of_either_step_is_taken(preset):
    of_features, of_classifier = MobileNetV2Features(), DeepFakeClassifier()
    names = of_features.get_params().keys() | of_classifier.get_params().keys()
    names -= {"on_error"}
    given = {name: object() for name in names}
    pipe = make_deepfake_pipeline(preset=preset, **given)
    features, classifier = pipe if preset is None else pipe.estimator
    for name in classifier.get_params():
        assert getattr(classifier, name) is given[name]
    for name in features.get_params().keys() - {"batch_size", "on_error"}:
        assert getattr(features, name) is given[name]
    assert features.batch_size == "auto" and features.on_error == "raise"


def test_accurate_preset(photos):
    detector = make_deepfake_pipeline(preset="accurate", weights=None, memory="cache", lr=1e-3)
    assert isinstance(detector, AugmentedClassifier)
    features, classifier = detector.estimator
    assert features.layer == classifier.layer == 4 and features.memory == "cache"
    assert features.image_size == 224
    assert classifier.lr == 1e-3 and classifier.lr_schedule == "one_cycle"
    assert classifier.n_tails == 1
    detector = make_deepfake_pipeline(preset="accurate", image_size=160, n_tails=3)
    assert detector.estimator[0].image_size == 160 and detector.estimator[1].n_tails == 3
    detector = make_deepfake_pipeline(13, preset="accurate", weights=None, image_size=32)
    detector.set_params(n_views=1, estimator__classifier__max_epochs=1)
    assert detector.fit(photos.data, photos.target).predict(photos.data).shape == (36,)
    assert detector.estimator_[0].layer == 13 and detector.estimator_[0].image_size == 32
    with pytest.raises(ValueError, match="'preset' parameter of make_deepfake_pipeline must be"):
        make_deepfake_pipeline(preset="best")


def test_fit_and_predict(pipe, photos):
    pipe.fit(photos.data, photos.target)
    assert set(pipe.predict(photos.data)) <= {0, 1}
    assert pipe.predict_proba(photos.data).shape == (36, 2)
    assert 0 <= pipe.score(photos.data, photos.target) <= 1


@pytest.mark.parametrize("n_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_group_cross_validation_and_grid_search(pipe, photos, n_jobs, tmp_path, monkeypatch):
    pipe.set_params(features__memory=str(tmp_path / "store"))
    options = {"groups": photos.groups}
    scores = cross_val_score(
        pipe, photos.data, photos.target, cv=GroupKFold(3), n_jobs=n_jobs, **options
    )
    assert scores.shape == (3,) and np.isfinite(scores).all()
    grid = {"classifier__lr": [1e-4, 1e-3], "classifier__l1_factor": [0, 1e-4]}
    search = GridSearchCV(pipe, grid, cv=GroupKFold(3), scoring="roc_auc", n_jobs=n_jobs)
    search.fit(photos.data, photos.target, **options)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert FeatureStore(tmp_path / "store").info()["n_rows"] == 36


def test_a_search_runs_the_trunk_once_per_image(pipe, photos, monkeypatch):
    passes = []
    run = extraction._run

    def counted(network, sources, *options):
        passes.append(len(sources))
        return run(network, sources, *options)

    monkeypatch.setattr(extraction, "_run", counted)
    search = GridSearchCV(pipe, {"classifier__lr": [1e-4, 1e-3, 1e-2]}, cv=GroupKFold(5))
    search.fit(photos.data, photos.target, groups=photos.groups).predict(photos.data)
    assert sum(passes) == 36


def test_memory_of_the_pipeline_is_not_that_of_the_features(photos, tmp_path):
    paths = [tmp_path / f"{row}.png" for row in range(12)]
    for path, image in zip(paths, photos.data, strict=False):
        Image.fromarray(image).save(path)
    y = photos.target[:12]
    pipe = make_pipeline(MobileNetV2Features(weights=None, image_size=64, layer=3), GaussianNB())
    pipe.set_params(memory=str(tmp_path / "by-name"))
    with pytest.warns(UserWarning, match="by the names of the files") as caught:
        pipe.fit(paths, y)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="by the names of the files"):  # in the folds too
        cross_val_score(pipe, paths, y, cv=2, error_score="raise")
    with pytest.warns(UserWarning, match="by the names of the files"):  # and further in
        Pipeline([("inner", pipe[:1]), ("end", GaussianNB())], memory=pipe.memory).fit(paths, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.fit(photos.data[:12], y)  # arrays are kept by content
        # what the warning says to do, to the letter
        hint = {"memory": None, "mobilenetv2features__memory": str(tmp_path / "by-content")}
        pipe.set_params(**hint).fit(paths, y)
    expected = pipe.predict_proba(paths[:1])
    Image.fromarray(photos.data[20]).save(paths[0])
    assert not np.array_equal(pipe.predict_proba(paths[:1]), expected)


def test_groups_reach_the_classifier(pipe, photos):
    pipe.set_params(classifier__early_stopping=True, classifier__max_epochs=2)
    pipe.fit(photos.data, photos.target, classifier__groups=photos.groups)
    assert "valid_loss" in pipe[-1].history_[0]
    with config_context(enable_metadata_routing=True):
        pipe[-1].set_fit_request(groups=True)
        search = GridSearchCV(pipe, {"classifier__lr": [1e-4]}, cv=GroupKFold(2))
        search.fit(photos.data, photos.target, groups=photos.groups)
        assert "valid_loss" in search.best_estimator_[-1].history_[0]


@pytest.mark.slow
def test_saved_pipeline_is_self_contained(photos, weights_file, tmp_path):
    """Another process, no cache, no weights file, no device of the training, no network."""
    weights = tmp_path / "weights.pth"
    weights.write_bytes(weights_file.read_bytes())
    pipe = make_deepfake_pipeline(weights=weights, max_epochs=1, memory=None, random_state=0)
    pipe.fit(photos.data, photos.target)
    expected = pipe.predict_proba(photos.data)
    pipe.set_params(features__device="cuda:99", classifier__device="cuda:99")
    joblib.dump(pipe, tmp_path / "detector.joblib")
    weights.unlink()
    np.save(tmp_path / "photos.npy", photos.data)
    code = (
        "import joblib, numpy as np, sys, warnings; warnings.simplefilter('ignore');"
        "pipe = joblib.load('detector.joblib');"
        "np.save('out.npy', pipe.predict_proba(np.load('photos.npy')))"
    )
    environment = {**os.environ, "TORCH_HOME": str(tmp_path / "empty"), "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=0, atol=1e-5)
    size = (tmp_path / "detector.joblib").stat().st_size
    assert size < 13e6  # 8 MB of tail, 4 MB of trunk


@pytest.mark.slow
def test_detects_spliced_photographs_from_unseen_regions(real_weights):
    photos = make_spliced_photos(240, random_state=0)
    pipe = make_deepfake_pipeline(weights=real_weights, lr=3e-4, max_epochs=6, random_state=0)
    scores = cross_val_score(
        pipe, photos.data, photos.target, groups=photos.groups, cv=GroupKFold(2), scoring="roc_auc"
    )
    assert scores.mean() > 0.7


@pytest.mark.slow
def test_real_photographs(real_faces, real_weights):
    with pytest.warns(UserWarning, match="easy_116_111"):
        faces = load_real_and_fake_faces(real_faces)
    some = np.arange(len(faces.data))[::8]
    X, y, groups = faces.data[some], faces.target[some], faces.groups[some]
    pipe = make_deepfake_pipeline(weights=real_weights, max_epochs=3, random_state=0)
    pipe.fit(X, y)
    history = pipe[-1].history_
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert len(set(groups)) > 190
    assert pipe.score(X, y) > 0.7  # on what it was trained on: the tail does learn
