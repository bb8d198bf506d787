"""Summaries of maps are those of a plain loop, fit no tail, and make a detector of their own."""

import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_dfd import (
    AugmentedClassifier,
    DeepFakeClassifier,
    MobileNetV2Features,
    detect,
    make_deepfake_pipeline,
)
from sklearn_dfd._core.feature_rows import origin_of
from sklearn_dfd._core.network.mobilenet import feature_shape
from sklearn_dfd._core.network.pooling import pooled
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.export import measure_onnx_loss, to_executorch, to_onnx
from sklearn_dfd.feature_store import MemoryStore


@pytest.fixture(scope="module")
def photos():
    return make_spliced_photos(36, image_size=96, random_state=0)


@pytest.fixture(scope="module")
def fast(photos):
    return fast_pipeline().fit(photos.data, photos.target)


def fast_pipeline(**params):
    return make_deepfake_pipeline(preset="fast", weights=None, image_size=96, **params)


@pytest.mark.parametrize("shape", [(3, 3, 3), (5, 4, 4), (2, 14, 14), (4, 30, 30)], ids=str)
def test_means_and_deviations_of_cells_are_those_of_a_plain_loop(shape):
    rng = np.random.default_rng(0)
    maps = rng.normal(3, 2, (6, *shape)).astype(np.float32)
    means, deviations = [], []
    for image in maps.astype(np.float64):
        cells = [
            image[:, rows[:, np.newaxis], columns]
            for rows in np.array_split(np.arange(shape[1]), 3)
            for columns in np.array_split(np.arange(shape[2]), 3)
        ]
        means.append(np.stack([cell.mean((1, 2)) for cell in cells], axis=1).ravel())
        deviations.append(np.stack([cell.std((1, 2)) for cell in cells], axis=1).ravel())
    rows = maps.reshape(6, -1)
    expected = np.concatenate([means, deviations], axis=1)
    np.testing.assert_allclose(pooled(rows, shape, "grid"), expected, atol=2e-5)
    np.testing.assert_allclose(pooled(rows, shape, "mean"), maps.mean((2, 3)), atol=2e-6)


def test_deviations_of_large_flat_maps_do_not_cancel():
    maps = np.full((1, 2 * 12 * 12), 1e4, dtype=np.float32)
    maps[0, 0] += 1
    deviations = pooled(maps, (2, 12, 12), "grid")[0, 18:]
    assert deviations[0] == pytest.approx(np.std([1] + [0] * 15), rel=0.01)
    assert not deviations[1:].any()


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
@pytest.mark.parametrize("layer", [7, 13, 18])
def test_features_summarise_the_maps_that_torchvision_computes(
    layer, engine, reference, weights_file, photos
):
    if engine == "onnxruntime":
        pytest.importorskip("onnxruntime")
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    pixels = torch.from_numpy(photos.data[:4]).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        maps = reference.features[: layer + 1]((pixels - mean) / std).numpy()
    for pooling in ("mean", "grid"):
        transformer = MobileNetV2Features(
            layer, weights=weights_file, image_size=96, pooling=pooling, engine=engine
        ).fit(photos.data)
        rows = transformer.transform(photos.data[:4])
        expected = pooled(maps.reshape(4, -1), maps.shape[1:], pooling)
        np.testing.assert_allclose(rows, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
        assert rows.shape == (4, len(transformer.get_feature_names_out()))
        assert transformer.get_feature_names_out()[0] == f"mobilenetv2_block{layer}_{pooling}_0"


def test_rows_of_each_pooling_are_kept_apart(photos):
    memory = MemoryStore(10**8)
    first = [
        MobileNetV2Features(13, weights=None, image_size=96, pooling=pooling, memory=memory)
        .fit(photos.data)
        .transform(photos.data)
        for pooling in (None, "mean", "grid", "mean")
    ]
    assert [rows.shape[1] for rows in first] == [96 * 36, 96, 96 * 18, 96]
    np.testing.assert_array_equal(first[1], first[3])
    assert memory.info()["n_rows"] == 3 * 36


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"layer": "pool", "pooling": "grid"},
            "gives the averages .* or set layer=18",
        ),
        ({"layer": 18, "pooling": "grid", "image_size": 64}, "maps of 3 x 3 or more, and .* 2 x 2"),
        ({"pooling": "max"}, "'pooling' parameter .* must be"),
    ],
)
def test_pooling_that_does_not_fit_is_refused_in_fit(params, message, photos):
    with pytest.raises(ValueError, match=message):
        MobileNetV2Features(**({"layer": 13, "weights": None} | params)).fit(photos.data)


@pytest.mark.parametrize("change", [{"image_size": 128}, {"pooling": None}, {"pooling": "mean"}])
def test_pooling_and_size_cannot_change_after_fit(change, photos, fast):
    transformer = pickle.loads(pickle.dumps(fast))[0].set_params(**change)
    with pytest.raises(ValueError, match="set them back, or fit again"):
        transformer.transform(photos.data[:1])
    assert transformer.fit(photos.data).transform(photos.data[:1]).shape[0] == 1


@pytest.mark.parametrize("as_table", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "grid"])
def test_no_tail_goes_on_from_summaries(pooling, as_table, photos):
    features = MobileNetV2Features(13, weights=None, image_size=96, pooling=pooling)
    if as_table:
        features.set_output(transform="pandas")
    rows = features.fit_transform(photos.data)
    assert origin_of(rows).pooling == pooling
    tail = DeepFakeClassifier(13, weights=None, max_epochs=1)
    with pytest.raises(ValueError, match=rf'{pooling}.*preset="fast"'):
        tail.fit(rows, photos.target)
    with pytest.raises(ValueError, match="take whole maps"):
        make_pipeline(features, tail).fit(photos.data, photos.target)
    head = DeepFakeClassifier("pool", weights=None, hidden_layer_sizes=(4,), max_epochs=1)
    assert head.fit(rows, photos.target).predict(rows).shape == (36,)


def test_older_files_pool_nothing(photos):
    transformer = MobileNetV2Features(13, weights=None, image_size=96).fit(photos.data)
    state = transformer.__getstate__()
    for name in ("pooling", "_fitted_pooling"):
        state.pop(name, None)
    older = MobileNetV2Features.__new__(MobileNetV2Features)
    older.__setstate__(state)
    np.testing.assert_array_equal(
        older.transform(photos.data[:2]), transformer.transform(photos.data[:2])
    )


# the detector ------------------------------------------------------------------------------------


def test_the_steps_are_those_of_scikit_learn():
    features, scaler, classifier = fast_pipeline(C=0.5, max_pixels=10**6, random_state=1)
    assert (features.pooling, features.max_pixels) == ("grid", 10**6)
    assert type(scaler) is StandardScaler and type(classifier) is LogisticRegression
    assert (classifier.C, classifier.random_state) == (0.5, 1)
    assert fast_pipeline(layer=7)[0].layer == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lr", r"neither .* nor the classifier of preset=\"fast\" \(C, class_weight"),
        ("class_weights", "Did you mean 'class_weight'"),
    ],
)
def test_parameters_of_the_tail_are_refused(name, message):
    with pytest.raises(TypeError, match=message):
        fast_pipeline(**{name: 1})


def test_cross_validation_search_saving_and_detect(photos, fast, tmp_path):
    X, y, groups = photos.data, photos.target, photos.groups
    cv = GroupKFold(3)
    scores = cross_val_score(clone(fast), X, y, groups=groups, cv=cv, scoring="roc_auc")
    assert scores.shape == (3,) and np.isfinite(scores).all()
    grid = {"features__layer": [10, 13], "classifier__C": [1e-3, 1]}
    search = GridSearchCV(fast_pipeline(), grid, cv=cv, error_score="raise")
    search.fit(X, y, groups=groups)
    assert search.best_params_.keys() == grid.keys()
    joblib.dump(fast, tmp_path / "fast.joblib")
    loaded = joblib.load(tmp_path / "fast.joblib")
    np.testing.assert_array_equal(loaded.predict_proba(X), fast.predict_proba(X))
    table = detect(loaded, list(X[:3]))
    np.testing.assert_allclose(table["probability_1"], fast.predict_proba(X[:3])[:, 1])


@pytest.mark.parametrize("pooling", ["mean", "grid", None])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_onnx_file_gives_the_same_probabilities(
    pooling, n_classes, mirrored, photos, tmp_path, weights_file
):
    onnxruntime = pytest.importorskip("onnxruntime")
    y = np.arange(36) % n_classes
    pipe = make_deepfake_pipeline(
        preset="fast", weights=weights_file, image_size=96, pooling=pooling, C=10
    )
    pipe = AugmentedClassifier(pipe, n_views=0) if mirrored else pipe
    pipe.fit(photos.data, y)
    to_onnx(pipe, tmp_path / "fast.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "fast.onnx")
    wanted = pipe.predict_proba(photos.data)
    assert np.ptp(wanted[:, 1]) > 0.3
    found = session.run(None, {"images": photos.data})[0]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    if n_classes == 2 and not mirrored:
        loss = measure_onnx_loss(
            pipe, tmp_path / "fast.onnx", photos.data, y, n_resamples=10, random_state=0
        )
        assert loss.max_difference < 1e-4


@pytest.mark.parametrize("options", [{"with_mean": False}, {"with_std": False}], ids=str)
def test_the_onnx_file_scales_as_the_scaler_does(options, photos, tmp_path, weights_file):
    onnxruntime = pytest.importorskip("onnxruntime")
    pipe = make_deepfake_pipeline(preset="fast", weights=weights_file, image_size=96)
    pipe[1].set_params(**options)
    pipe.fit(photos.data, photos.target)
    to_onnx(pipe, tmp_path / "fast.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "fast.onnx")
    found = session.run(None, {"images": photos.data})[0]
    np.testing.assert_allclose(found, pipe.predict_proba(photos.data), atol=1e-4)


def test_a_file_is_refused_where_steps_do_not_fit(fast, tmp_path):
    changed = pickle.loads(pickle.dumps(fast)).set_params(features__image_size=128)
    pytest.importorskip("onnx")
    with pytest.raises(ValueError, match="set them back, or fit again"):
        to_onnx(changed, tmp_path / "fast.onnx")
    with pytest.raises(TypeError, match="Only a Pipeline of MobileNetV2Features and DeepFake"):
        to_executorch(fast, tmp_path / "fast.pte")


def test_widths_are_documented(photos):
    assert feature_shape(13, 224) == (96, 14, 14)
    transformer = MobileNetV2Features(13, weights=None, pooling="grid").fit(photos.data)
    assert len(transformer.get_feature_names_out()) == 1728
