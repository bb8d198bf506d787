"""A file for another runtime returns the same probabilities as ``predict_proba``."""

import copy
import json
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline

import sklearn_dfd
from sklearn_dfd import DeepFakeClassifier, MobileNetV2Features, make_deepfake_pipeline
from sklearn_dfd._core.images.decoding import load_rgb
from sklearn_dfd._core.network.onnx_graph import OnnxGraph
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.datasets import load_real_and_fake_faces, make_spliced_photos
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.export import measure_onnx_loss, to_executorch, to_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def photos():
    return make_spliced_photos(24, random_state=0)


def fitted(layer, weights, photos, y=None):
    # a high rate, so that the probabilities differ from one another
    pipe = make_deepfake_pipeline(
        layer, weights=weights, image_size=64, max_epochs=2, batch_size=8, lr=1e-3, random_state=0
    )
    return pipe.fit(photos.data, photos.target if y is None else y)


@pytest.fixture(scope="module")
def pipe(photos, weights_file):
    return fitted(15, weights_file, photos, photos.target_names[photos.target])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "detector.onnx"


def answer(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": np.asarray(images)})[0]


def pictures(n, height, width):
    """Return smooth pictures with noise, black and white, which filters round differently."""
    rng = np.random.default_rng(height)
    wave = np.sin(np.add.outer(np.arange(height) / 9, np.arange(width) / 7))[..., np.newaxis]
    noise = rng.normal(0, 20, (n, height, width, 3))
    images = np.clip(128 + 120 * wave * rng.uniform(-1, 1, (n, 1, 1, 3)) + noise, 0, 255)
    images[0, : height // 2], images[0, height // 2 :] = 0, 255
    return images.astype(np.uint8)


# ---- the same probabilities ----


@pytest.mark.parametrize("layer", [6, 18, "pool"])
def test_probabilities_wherever_mobilenet_is_cut(layer, photos, weights_file, path):
    pipe = fitted(layer, weights_file, photos)
    to_onnx(pipe, path)
    expected = pipe.predict_proba(photos.data)
    assert np.ptp(expected[:, 1]) > 1e-3
    np.testing.assert_allclose(answer(path, photos.data), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (32, 40), (97, 130), (64, 300), (400, 301)])
def test_images_of_any_size_are_squashed_as_ours_are(pipe, path, size):
    to_onnx(pipe, path)
    for n_images in (1, 3):
        images = pictures(n_images, *size)
        expected = pipe.predict_proba(images)
        np.testing.assert_allclose(answer(path, images), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "size", [(2, 2), (97, 130), (64, 300), (301, 64), (640, 480), (139, 100), (457, 23)]
)
def test_squashing_is_pillows_to_the_last_bit(size):
    graph = OnnxGraph()
    output = graph.add_squash("images", 64)
    model = graph.model(["n", "height", "width", 3], output, ["n", 3, 64, 64])
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    squashed = np.moveaxis(session.run(None, {"images": images})[0], 1, -1)
    np.testing.assert_array_equal(squashed, [load_rgb(image, 64) for image in images])


def test_real_photographs(real_weights, real_faces, path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The names of these fakes")
        faces = load_real_and_fake_faces(real_faces)
    rows = np.r_[:12, -12:0]
    pipe = make_deepfake_pipeline(weights=real_weights, image_size=96, max_epochs=2, random_state=0)
    pipe.fit(faces.data[rows], faces.target[rows])
    images = [np.asarray(Image.open(file).convert("RGB")) for file in faces.data[rows]]
    to_onnx(pipe, path)
    np.testing.assert_allclose(
        answer(path, np.stack(images)), pipe.predict_proba(faces.data[rows]), rtol=0, atol=1e-4
    )


def test_more_than_two_classes_and_no_hidden_layer(photos, path):
    pipe = make_deepfake_pipeline(
        weights=None, image_size=64, hidden_layer_sizes=(), max_epochs=1, random_state=0
    )
    pipe.fit(photos.data, np.arange(24) % 3)
    to_onnx(pipe, path)
    expected = pipe.predict_proba(photos.data)
    assert expected.shape == (24, 3)
    np.testing.assert_allclose(answer(path, photos.data), expected, rtol=0, atol=1e-4)


def test_a_head_alone_on_features_that_are_maps(photos, path):
    pipe = make_pipeline(
        MobileNetV2Features(3, weights=None, image_size=32),
        DeepFakeClassifier("pool", hidden_layer_sizes=(8,), max_epochs=2, random_state=0),
    ).fit(photos.data, photos.target)
    to_onnx(pipe, path)
    np.testing.assert_allclose(
        answer(path, photos.data), pipe.predict_proba(photos.data), rtol=0, atol=1e-4
    )


# ---- with mirror images ----


@pytest.fixture(scope="module")
def detector(photos, weights_file):
    detector = make_deepfake_pipeline(
        preset="accurate", weights=weights_file, image_size=64, max_epochs=1, batch_size=8, lr=1e-3
    ).set_params(n_views=1, estimator__classifier__random_state=0)
    return detector.fit(photos.data, photos.target_names[photos.target])


@pytest.mark.parametrize("average_mirrored", [True, False])
def test_both_mirror_images_are_averaged_as_the_detector_does(
    average_mirrored, detector, photos, path
):
    detector = copy.deepcopy(detector).set_params(average_mirrored=average_mirrored)
    to_onnx(detector, path)
    for images in (photos.data, pictures(1, 97, 130), pictures(3, 301, 64)):
        expected = detector.predict_proba(images)
        np.testing.assert_allclose(answer(path, images), expected, rtol=0, atol=1e-4)
    alone = detector.estimator_.predict_proba(photos.data)
    far = np.abs(answer(path, photos.data) - alone).max()
    assert far > 1e-3 if average_mirrored else far < 1e-4
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["classes"]) == ["genuine", "spliced"] and metadata["layer"] == "4"


@pytest.mark.parametrize("size", [(2, 2), (33, 31), (97, 130), (64, 300), (1201, 799)])
def test_a_mirror_image_is_squashed_to_the_mirror_image(size):
    for image in pictures(2, *size):
        for side in (32, 224):
            mirrored = load_rgb(image, side)[:, ::-1]
            np.testing.assert_array_equal(load_rgb(image[:, ::-1], side), mirrored)


@pytest.mark.slow
def test_int8_of_both_mirror_images(detector, photos, path):
    to_onnx(detector, path, calibration_images=photos.data)
    near, exact = answer(path, photos.data), detector.predict_proba(photos.data)
    assert 1e-6 < np.abs(near - exact).mean() < 0.1
    # that of the mirror images is the same: integers add up to the same in either order
    np.testing.assert_allclose(answer(path, photos.data[:, :, ::-1]), near, rtol=0, atol=1e-6)


# ---- the file ----


def test_the_file_is_valid_and_says_what_it_is(pipe, path):
    to_onnx(pipe, path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["classes"]) == ["genuine", "spliced"]
    assert metadata["fingerprint"] == pipe["features"].fingerprint_
    assert metadata["layer"] == "15" and metadata["image_size"] == "64"
    assert metadata["sklearn_dfd"] == sklearn_dfd.__version__ == model.producer_version
    weights = sum(array.nbytes for array in pipe["features"].weights_.values())
    weights += sum(p.nbytes for p in pipe["classifier"].net_.module_.parameters())
    assert path.stat().st_size < 1.01 * weights
    kinds = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in kinds


def test_writing_changes_nothing(pipe, photos, path):
    before = pipe.predict_proba(photos.data)
    state = {k: v.clone() for k, v in pipe["classifier"].net_.module_.state_dict().items()}
    to_onnx(pipe, str(path))
    for name, tensor in pipe["classifier"].net_.module_.state_dict().items():
        assert (tensor == state[name]).all(), name
    np.testing.assert_array_equal(pipe.predict_proba(photos.data), before)
    assert all(p.requires_grad for p in pipe["classifier"].net_.module_.parameters())


def test_int8_is_smaller_and_near(pipe, photos, path, tmp_path, caplog):
    to_onnx(pipe, path)
    small = tmp_path / "int8.onnx"
    to_onnx(pipe, small, calibration_images=list(photos.data))
    assert not caplog.records
    assert small.stat().st_size < 0.3 * path.stat().st_size
    exact, near = answer(path, photos.data), answer(small, photos.data)
    assert near.shape == exact.shape
    assert 1e-6 < np.abs(near - exact).mean()
    assert np.corrcoef(log_odds(exact), log_odds(near))[0, 1] > 0.8  # of random weights
    assert answer(small, pictures(2, 97, 130)).shape == (2, 2)  # as free as the other file
    kinds = {node.op_type for node in onnx.load(small).graph.node}
    assert "QuantizeLinear" in kinds
    metadata = {entry.key: entry.value for entry in onnx.load(small).metadata_props}
    assert json.loads(metadata["classes"]) == ["genuine", "spliced"]


def log_odds(probabilities):
    return np.log(probabilities[:, 1] / probabilities[:, 0])


def test_int8_is_near_with_weights_that_have_learned(real_weights, photos, path, tmp_path):
    pipe = fitted(15, real_weights, photos)
    small = tmp_path / "int8.onnx"
    to_onnx(pipe, path)
    to_onnx(pipe, small, calibration_images=list(photos.data))
    exact, near = answer(path, photos.data), answer(small, photos.data)
    assert 1e-6 < np.abs(near - exact).mean() < 0.03
    assert np.corrcoef(log_odds(exact), log_odds(near))[0, 1] > 0.99


# ---- what the file has lost ----


def test_the_loss_in_roc_auc(pipe, photos, path, tmp_path):
    to_onnx(pipe, path, calibration_images=photos.data[:12])
    held_out = make_spliced_photos(24, random_state=1)
    y = held_out.target_names[held_out.target]
    files = [str(tmp_path / f"{i}.png") for i in range(24)]
    for file, pixels in zip(files, held_out.data, strict=True):
        Image.fromarray(pixels).save(file)
    options = {"groups": held_out.groups, "random_state": 0}
    loss = measure_onnx_loss(pipe, path, files, y, **options)
    a = pipe.predict_proba(held_out.data)[:, 1]
    b = answer(path, held_out.data)[:, 1]
    assert loss.roc_auc == roc_auc_score(y, a)
    assert loss.roc_auc_of_file == pytest.approx(roc_auc_score(y, b), abs=0.01)
    assert loss.lost == loss.roc_auc - loss.roc_auc_of_file
    assert loss.low < loss.high and loss.low <= loss.lost + 0.01
    assert loss.mean_difference == pytest.approx(np.abs(a - b).mean(), rel=1e-3)
    assert loss.max_difference == pytest.approx(np.abs(a - b).max(), rel=1e-3)
    assert measure_onnx_loss(pipe, path, files, y, **options) == loss
    narrow = measure_onnx_loss(pipe, path, files, y, confidence_level=0.5, **options)
    assert narrow.high - narrow.low < loss.high - loss.low


def test_nothing_is_lost_in_float32(detector, photos, path):
    to_onnx(detector, path)
    y = photos.target_names[photos.target]
    loss = measure_onnx_loss(detector, path, [*photos.data[:23], pictures(1, 97, 130)[0]], y)
    assert loss.lost == loss.low == loss.high == 0 and loss.max_difference < 1e-4


def test_a_loss_that_cannot_be_measured_is_an_error(pipe, photos, path):
    y = photos.target_names[photos.target]
    to_onnx(fitted("pool", None, photos), path)
    with pytest.raises(ValueError, match=r"another detector: its classes are \[0, 1\], not \['gen"):
        measure_onnx_loss(pipe, path, photos.data, y)
    to_onnx(pipe, path)
    with pytest.raises(ValueError, match=r"labels \[0, 1\] .* classes \['genuine', 'spliced'\]"):
        measure_onnx_loss(pipe, path, photos.data, photos.target)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        measure_onnx_loss(pipe, path, photos.data, y[:5])
    with pytest.raises(ImageError, match=r"absent\.jpg"):
        measure_onnx_loss(pipe, path, [*photos.data[:23], "absent.jpg"], y)
    with pytest.raises(TypeError, match="not DeepFakeClassifier"):
        measure_onnx_loss(pipe[-1], path, photos.data, y)


# ---- ExecuTorch ----


@pytest.fixture
def executorch():
    """Its runtime. It warns of its own use of what other packages deprecate."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("executorch.exir")
        yield pytest.importorskip("executorch.runtime")


def test_executorch_averages_both_mirror_images(executorch, detector, photos, tmp_path):
    path = tmp_path / "detector.pte"
    to_executorch(detector, path)
    forward = executorch.Runtime.get().load_program(path).load_method("forward")
    expected = detector.predict_proba(photos.data[:6])
    for image, wanted in zip(photos.data[:6], expected, strict=True):
        (probabilities,) = forward.execute([torch.as_tensor(load_rgb(image, 64)[np.newaxis])])
        np.testing.assert_allclose(probabilities.numpy(), [wanted], rtol=0, atol=1e-4)


@pytest.mark.parametrize("layer", [15, "pool"])
def test_probabilities_of_executorch(executorch, layer, photos, weights_file, tmp_path):
    pipe = fitted(layer, weights_file, photos, photos.target_names[photos.target])
    expected = pipe.predict_proba(photos.data[:6])
    assert np.ptp(expected[:, 1]) > 1e-3
    path = tmp_path / "detector.pte"
    to_executorch(pipe, path)
    program = executorch.Runtime.get().load_program(path)
    forward = program.load_method("forward")
    for image, wanted in zip(photos.data[:6], expected, strict=True):
        (probabilities,) = forward.execute([torch.as_tensor(load_rgb(image, 64)[np.newaxis])])
        np.testing.assert_allclose(probabilities.numpy(), [wanted], rtol=0, atol=1e-4)
    said = {
        name: program.load_method(name).execute([]) for name in program.method_names - {"forward"}
    }
    assert json.loads(said["classes"][0]) == ["genuine", "spliced"]
    assert said["layer"] == [str(layer)] and said["image_size"] == ["64"]
    assert said["fingerprint"] == [pipe["features"].fingerprint_]
    np.testing.assert_array_equal(pipe.predict_proba(photos.data[:6]), expected)


# ---- what cannot be written ----


@pytest.mark.parametrize("write", [to_onnx, to_executorch])
def test_other_estimators_are_an_error(pipe, photos, path, write):
    search = GridSearchCV(pipe, {"classifier__lr": [1e-3]})
    search.best_estimator_ = pipe
    for estimator, expected in (
        (search, r"not GridSearchCV\. Pass its best_estimator_\."),
        (
            AugmentedClassifier(search),
            r"AugmentedClassifier of one, can be written, and not one of GridSearchCV\.$",
        ),
        (CalibratedClassifierCV(pipe), "not CalibratedClassifierCV"),
        (pipe["classifier"], "not DeepFakeClassifier"),
        (pipe[:1], "not MobileNetV2Features"),
    ):
        with pytest.raises(TypeError, match=expected):
            write(estimator, path)
    for preset in (None, "accurate"):
        with pytest.raises(NotFittedError):
            write(make_deepfake_pipeline(preset=preset, weights=None), path)
    assert not path.exists()


@pytest.mark.parametrize("write", [to_onnx, to_executorch])
@pytest.mark.parametrize(
    ("layer", "image_size", "named"),
    [(14, 64, "layer=14.*layer=15"), (16, 64, "layer=16.*layer=15"), (15, 96, "image_size 96")],
)
def test_steps_that_do_not_fit_together_are_an_error(
    write, layer, image_size, named, pipe, photos, path, weights_file
):
    """Written as they are, they would make a file of nonsense."""
    other = MobileNetV2Features(layer, weights=weights_file, image_size=image_size)
    mixed = Pipeline([("features", other.fit(photos.data)), ("classifier", pipe[-1])])
    with pytest.raises(ValueError, match=named):
        write(mixed, path)
    assert not path.exists()


def test_no_class_has_to_be_named_to_measure_the_loss(pipe, photos, path):
    """All that is measured is the same whichever class is the positive one."""
    to_onnx(pipe, path, calibration_images=photos.data[:12])
    y = photos.target_names[photos.target]
    loss = measure_onnx_loss(pipe, path, photos.data, y, random_state=0)
    p = pipe.predict_proba(photos.data)
    for column in (0, 1):
        score = roc_auc_score(y == pipe.classes_[column], p[:, column])
        assert loss.roc_auc == pytest.approx(score)


@pytest.mark.parametrize("write", [to_onnx, to_executorch])
def test_bfloat16_is_an_error(pipe, path, write):
    pipe["features"].set_params(precision="bfloat16")
    try:
        with pytest.raises(ValueError, match=r"computes in bfloat16, .* not: call set_params\("):
            write(pipe, path)
        detector = AugmentedClassifier(pipe)
        detector.estimator_, detector.classes_ = pipe, pipe.classes_
        with pytest.raises(ValueError, match=r"not: call estimator_\.set_params\("):
            write(detector, path)
    finally:
        pipe["features"].set_params(precision="float32")


@pytest.mark.parametrize(
    ("write", "module"), [(to_onnx, "onnx"), (to_executorch, "executorch.exir")]
)
def test_without_the_package_the_error_says_what_to_install(pipe, path, monkeypatch, write, module):
    monkeypatch.setitem(sys.modules, module, None)
    package = module.split(".")[0]
    message = rf'{write.__name__} needs {package}, .* pip install "sklearn-dfd\[{package}\]"'
    with pytest.raises(ImportError, match=message):
        write(pipe, path)
