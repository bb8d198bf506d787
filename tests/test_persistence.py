"""Tests of saved files: plain arrays with a format number, for any release and machine."""

import io
import lzma
import pickle
import runpy
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone

from sklearn_dfd import DeepFakeClassifier, MobileNetV2Features, make_deepfake_pipeline
from sklearn_dfd._core import persistence
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.exceptions import WeightsError
from sklearn_dfd.feature_store import IN_PROCESS, FeatureStore
from sklearn_dfd.weights import load_weights

FROZEN = sorted((Path(__file__).parent / "frozen").glob("*.xz"))


@pytest.fixture(scope="module")
def photos():
    return make_spliced_photos(12, random_state=0)


@pytest.fixture(scope="module")
def pipe(photos):
    pipe = make_deepfake_pipeline(
        weights=None, image_size=64, max_epochs=1, hidden_layer_sizes=(8,), random_state=0
    )
    return pipe.fit(photos.data, photos.target_names[photos.target])


@pytest.fixture(scope="module")
def detector(pipe, photos):
    detector = AugmentedClassifier(pipe, n_views=1)
    return detector.fit(photos.data, photos.target_names[photos.target])


@pytest.fixture
def transformer(photos):
    return MobileNetV2Features(
        3, weights=None, image_size=64, device="cpu", store_weights_in_pickle=False
    ).fit(photos.data)


def reloaded(estimator):
    return pickle.loads(pickle.dumps(estimator))


def imported_by(content):
    """Return the full names of everything that a pickle imports."""
    names = set()

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            names.add(f"{module}.{name}")
            return super().find_class(module, name)

    Unpickler(io.BytesIO(content)).load()
    return names


# ---- files of earlier releases ----


@pytest.fixture(params=[*FROZEN, "written now"], ids=lambda path: Path(path).stem)
def path_of_release(request, tmp_path):
    if request.param in FROZEN:
        return request.param
    path = tmp_path / "now.xz"
    runpy.run_path(str(FROZEN[0].with_name("write.py")))["write"](path)
    return path


def test_frozen_files_answer_what_they_answered(path_of_release):
    with lzma.open(path_of_release) as file:
        content = pickle.load(file)
    transformer, images = content["transformer"], content["images"]
    np.testing.assert_allclose(
        transformer.transform(images)[:, ::50], content["features"], rtol=0, atol=1e-5
    )
    for name, X in (("head", "X"), ("blocks", "maps")):
        probabilities = content[name].predict_proba(content[X])
        np.testing.assert_allclose(
            probabilities, content[f"probabilities_of_{name}"], rtol=0, atol=1e-6
        )
        assert repr(content[name]).startswith("DeepFakeClassifier(")
    if "detector" in content or path_of_release not in FROZEN:  # the first two have none
        np.testing.assert_allclose(
            content["detector"].predict_proba(images),
            content["probabilities_of_detector"],
            rtol=0,
            atol=1e-5,
        )
        assert content["detector"].get_params()["n_views"] == 1  # all of them are there
    head = content["head"]
    assert head.partial_fit(content["X"], head.predict(content["X"])).n_iter_ == 11


def test_each_release_has_a_frozen_file():
    changes = Path(__file__).parents[1] / "CHANGELOG.md"
    headings = [line[3:] for line in changes.read_text("utf-8").splitlines() if line[:3] == "## "]
    releases = {heading.split()[0] for heading in headings} - {"Unreleased"}
    assert releases <= {path.stem for path in FROZEN}
    assert f"format-{persistence.FORMAT}" in {path.stem for path in FROZEN}


@pytest.mark.parametrize("name", ["transformer", "head"])
def test_parameters_that_came_later_have_a_value_for_older_files(name):
    with lzma.open(FROZEN[0]) as file:
        estimator = pickle.load(file)[name]
    came_later = type(estimator)._parameters_of_older_files
    assert vars(estimator).keys() >= type(estimator)().get_params().keys(), (
        "name the value that stands for what older files did in _parameters_of_older_files"
    )
    for parameter, value in came_later.items():
        assert getattr(estimator, parameter) == value
    if name == "transformer":
        assert estimator.engine == "torch"  # there was no other, and "auto" rounds differently


def test_a_file_of_views_without_a_parameter_that_came_later(monkeypatch, detector):
    """Such a file may also lack the number of a format."""
    state = detector.__getstate__()
    for name in ("recipe", "_format", "_release"):
        del state[name]
    monkeypatch.setattr(AugmentedClassifier, "_parameters_of_older_files", {"recipe": "mirrored"})
    older = AugmentedClassifier.__new__(AugmentedClassifier)
    older.__setstate__(state)
    assert older.recipe == "mirrored" and older.n_views == 1 and older.estimator_


@pytest.mark.parametrize(
    "Estimator",
    [DeepFakeClassifier, MobileNetV2Features, AugmentedClassifier],
)
def test_a_newer_format_is_an_error_that_names_the_release(monkeypatch, Estimator):
    estimator = Estimator(None)
    monkeypatch.setattr(persistence, "FORMAT", 99)
    monkeypatch.setattr(persistence, "__version__", "7.8.9")
    content = pickle.dumps(estimator)
    monkeypatch.undo()
    expected = rf"This {Estimator.__name__} was saved by sklearn-dfd 7\.8\.9 in format 99"
    with pytest.raises(ValueError, match=expected):
        pickle.loads(content)


def test_the_format_is_in_the_file_and_not_in_the_estimator(pipe, detector):
    for step in (*pipe.named_steps.values(), detector):
        assert step.__getstate__()["_format"] == persistence.FORMAT
        assert vars(reloaded(step)).keys() == vars(step).keys()


# ---- what is in a file ----


def test_a_pickle_holds_arrays_and_nothing_of_torch(pipe):
    for step in pipe.named_steps.values():
        names = imported_by(pickle.dumps(step))
        roots = {name.split(".")[0] for name in names}
        assert f"{type(step).__module__}.{type(step).__name__}" in names
        assert roots == {"numpy", "sklearn_dfd"}, names


def test_devices_and_paths_are_saved_by_their_names(tmp_path, photos):
    transformer = MobileNetV2Features(
        weights=tmp_path / "a.pth", device=torch.device("cpu"), memory=tmp_path
    )
    loaded = reloaded(transformer)
    assert loaded.device == "cpu" and transformer.device == torch.device("cpu")
    assert loaded.weights == str(tmp_path / "a.pth") and loaded.memory == str(tmp_path)
    transformer.device = [torch.device("cuda:0"), "cuda:1"]
    assert reloaded(transformer).device == ["cuda:0", "cuda:1"]
    assert transformer.device == [torch.device("cuda:0"), "cuda:1"]


@pytest.mark.parametrize("layer", [15, 17])
def test_a_file_is_no_larger_than_the_weights_of_the_tail(layer, tmp_path):
    X = np.random.default_rng(0).standard_normal((8, 160 if layer == 15 else 320))
    clf = DeepFakeClassifier(layer, weights=None, max_epochs=1, random_state=0)
    clf.fit(X, np.arange(8) % 2)
    joblib.dump(clf, tmp_path / "clf.joblib")
    n_bytes = sum(parameter.nbytes for parameter in clf.net_.module_.parameters())
    assert n_bytes < (tmp_path / "clf.joblib").stat().st_size < 1.1 * n_bytes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("trained", "used"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_trained_on_one_device_and_loaded_on_another(pipe, photos, trained, used):
    pipe = reloaded(pipe).set_params(features__device=trained, classifier__device=trained)
    pipe.fit(photos.data, photos.target)
    other = reloaded(pipe).set_params(features__device=used, classifier__device=used)
    IN_PROCESS.clear()
    expected = pipe.predict_proba(photos.data)
    IN_PROCESS.clear()
    np.testing.assert_allclose(
        reloaded(other).predict_proba(photos.data), expected, rtol=0, atol=1e-3
    )


# ---- the trunk's weights left out ----


def test_weights_left_out_are_found_again(transformer, photos, tmp_path):
    expected = transformer.transform(photos.data)
    n_bytes = sum(array.nbytes for array in transformer.weights_.values())
    joblib.dump(transformer, tmp_path / "transformer.joblib")
    assert (tmp_path / "transformer.joblib").stat().st_size < 2000 < n_bytes
    loaded = joblib.load(tmp_path / "transformer.joblib")
    assert not hasattr(loaded, "weights_") and hasattr(transformer, "weights_")
    IN_PROCESS.clear()
    np.testing.assert_array_equal(loaded.transform(photos.data), expected)
    assert loaded.fingerprint_ in (tmp_path / "transformer.joblib").read_bytes().decode("latin-1")
    again = reloaded(loaded)  # saved once more by someone who never had them
    assert again.fingerprint_ == transformer.fingerprint_


def test_other_weights_than_those_left_out_are_an_error(transformer, photos, weights_file):
    loaded = reloaded(transformer).set_params(weights=weights_file)
    IN_PROCESS.clear()
    with pytest.raises(WeightsError) as error:
        loaded.transform(photos.data)
    assert f"fingerprint {transformer.fingerprint_}" in str(error.value)
    assert "mobilenet_v2.pth" in str(error.value) and "are different ones" in str(error.value)
    assert loaded.set_params(weights=None).transform(photos.data).shape[0] == 12


def test_weights_left_out_and_no_longer_there_are_an_error(photos, weights_file, tmp_path):
    path = tmp_path / "mine.pth"
    path.write_bytes(Path(weights_file).read_bytes())
    transformer = MobileNetV2Features(3, weights=path, image_size=64, store_weights_in_pickle=False)
    loaded = reloaded(transformer.fit(photos.data))
    path.unlink()
    IN_PROCESS.clear()
    expected = rf"(?s)fingerprint {transformer.fingerprint_}.*no such file.*set_params\(weights="
    with pytest.raises(WeightsError, match=expected):
        loaded.transform(photos.data)
    moved = loaded.set_params(weights=weights_file)
    np.testing.assert_array_equal(moved.transform(photos.data), transformer.transform(photos.data))


@pytest.mark.parametrize("when", ["before fit", "after fit"])
def test_weights_left_out_of_the_classifier_of_views(
    detector, photos, weights_file, tmp_path, when
):
    """They are given by the parameter names in docs/saving.md."""
    weights = tmp_path / "mine.pth"
    weights.write_bytes(Path(weights_file).read_bytes())
    detector = clone(detector).set_params(
        estimator__features__weights=weights, estimator__classifier__weights=weights
    )
    if when == "before fit":
        detector.set_params(estimator__features__store_weights_in_pickle=False)
    detector.fit(photos.data, photos.target)
    if when == "after fit":
        detector.estimator_.set_params(features__store_weights_in_pickle=False)
    expected = detector.predict_proba(photos.data)
    loaded = reloaded(detector)
    assert not hasattr(loaded.estimator_["features"], "weights_")
    weights.unlink()
    IN_PROCESS.clear()
    with pytest.raises(WeightsError, match=r"mine\.pth"):
        loaded.predict_proba(photos.data)
    loaded.estimator_.set_params(features__weights=weights_file)
    np.testing.assert_array_equal(loaded.predict_proba(photos.data), expected)


def test_kept_features_need_no_weights(transformer, photos, tmp_path):
    expected = transformer.set_params(memory=tmp_path).transform(photos.data)
    loaded = reloaded(transformer).set_params(weights="absent.pth")
    IN_PROCESS.clear()
    np.testing.assert_array_equal(loaded.transform(photos.data), expected)


# ---- skops ----


@pytest.fixture
def sio():
    return pytest.importorskip("skops.io")


OURS = [
    "sklearn_dfd.classifier.DeepFakeClassifier",
    "sklearn_dfd.features.MobileNetV2Features",
]


def test_skops_asks_to_trust_our_types_alone(sio, pipe, photos, tmp_path):
    path = tmp_path / "detector.skops"
    sio.dump(pipe, path)
    assert sio.get_untrusted_types(file=path) == OURS
    loaded = sio.load(path, trusted=OURS)
    np.testing.assert_array_equal(
        loaded.predict_proba(photos.data), pipe.predict_proba(photos.data)
    )
    assert loaded["classifier"].history_ == pipe["classifier"].history_
    with pytest.raises(sio.exceptions.UntrustedTypesFoundException, match="DeepFakeClassifier"):
        sio.load(path, trusted=OURS[1:])


def test_skops_and_the_classifier_of_views(sio, detector, photos):
    data = sio.dumps(detector)
    ours = ["sklearn_dfd.augmented_classifier.AugmentedClassifier", *OURS]
    assert sio.get_untrusted_types(data=data) == ours
    loaded = sio.loads(data, trusted=ours)
    np.testing.assert_array_equal(
        loaded.predict_proba(photos.data), detector.predict_proba(photos.data)
    )


def test_skops_with_every_kind_of_parameter(sio, pipe, photos, tmp_path):
    pipe = reloaded(pipe).set_params(
        features__memory=FeatureStore(tmp_path / "store"),
        features__device=[torch.device("cpu")],
        features__store_weights_in_pickle=False,
        classifier__device=torch.device("cpu"),
        classifier__random_state=np.random.RandomState(0),
        classifier__class_weight={"spliced": 2, "genuine": 1},
        classifier__early_stopping=True,
        classifier__validation_fraction=0.3,
    )
    y = photos.target_names[photos.target]
    pipe.fit(photos.data, y)
    content = sio.dumps(pipe)
    untrusted = sio.get_untrusted_types(data=content)
    assert untrusted == sorted([*OURS, "sklearn_dfd.feature_store.FeatureStore"])
    loaded = sio.loads(content, trusted=untrusted)
    np.testing.assert_array_equal(
        loaded.predict_proba(photos.data), pipe.predict_proba(photos.data)
    )
    assert loaded["features"].memory.path == str(tmp_path / "store")


def test_skops_reads_a_state_of_the_first_release(sio):
    with lzma.open(FROZEN[0]) as file:
        content = pickle.load(file)
    data = sio.dumps(content["transformer"])
    loaded = sio.loads(data, trusted=sio.get_untrusted_types(data=data))
    assert loaded.engine == "torch"
    np.testing.assert_array_equal(
        loaded.transform(content["images"]), content["transformer"].transform(content["images"])
    )


# ---- loading does nothing else ----


def test_loading_reads_no_weights(monkeypatch, pipe):
    content = pickle.dumps(pipe.set_params(features__weights="absent.pth"))
    pipe.set_params(features__weights=None)
    assert pickle.loads(content)["features"].weights == "absent.pth"
    with pytest.raises(WeightsError):
        load_weights("absent.pth")
