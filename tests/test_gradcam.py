"""Grad-CAM against a plain computation on torchvision's model, and against known edits."""

import copy
import pickle
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from image_files import photo
from imblearn.pipeline import Pipeline as SamplingPipeline
from PIL import Image
from scipy.stats import wilcoxon
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV, KFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torchvision_reference import torchvision_model

from sklearn_dfd import DeepFakeClassifier, MobileNetV2Features, make_deepfake_pipeline
from sklearn_dfd._core.network.mobilenet import IMAGENET_MEAN, IMAGENET_STD
from sklearn_dfd._core.network.tail import Tails
from sklearn_dfd.augmentation import ImageAugmenter, View
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.inspection import GradCAMDisplay, TrainingHistoryDisplay

pytest.importorskip("captum")
mpl = pytest.importorskip("matplotlib")
mpl.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def photos():
    return make_spliced_photos(20, image_size=64, random_state=0)


def make_pipe(layer=15, **params):
    params = {"weights": None, "image_size": 64, "hidden_layer_sizes": (16,), **params}
    return make_deepfake_pipeline(layer, max_epochs=1, random_state=0, **params)


@pytest.fixture(scope="module")
def pipe(photos):
    return make_pipe().fit(photos.data, photos.target_names[photos.target])


def explain(estimator, X, *args, class_of_interest="spliced", **options):
    return GradCAMDisplay.from_estimator(
        estimator, X, *args, class_of_interest=class_of_interest, **options
    )


def by_hand(pipe, weights_file, images, column, block):
    """Grad-CAM by autograd, on torchvision's own model with the weights of the tail."""
    model = copy.deepcopy(torchvision_model(weights_file))
    tail = pipe[-1].net_.module_.tails[0]
    model.features[pipe[0].layer_ + 1 :].load_state_dict(tail.features.state_dict())
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor(IMAGENET_MEAN).reshape(3, 1, 1)) / torch.tensor(IMAGENET_STD).reshape(
        3, 1, 1
    )
    maps = model.features[: block + 1](x).detach().requires_grad_()
    logits = tail.head(model.features[block + 1 :](maps).mean((2, 3)))
    (logits[:, column] - logits[:, 1 - column]).sum().backward()
    weighed = (maps.grad.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu()
    enlarged = torch.nn.functional.interpolate(weighed, images.shape[1:3], mode="bilinear")
    return enlarged[:, 0].detach().numpy(), logits.softmax(1)[:, column].detach().numpy()


@pytest.mark.parametrize(
    ("layer", "block", "weighed"),
    [(3, None, 13), (15, None, 15), (18, None, 18), (15, 13, 13), (6, 17, 17)],
)
@pytest.mark.parametrize("column", [0, 1])
def test_maps_and_probabilities(layer, block, weighed, column, photos, weights_file):
    pipe = make_pipe(layer, weights=weights_file).fit(photos.data, photos.target)
    images = photos.data[:5]
    display = GradCAMDisplay.from_estimator(pipe, images, class_of_interest=column, block=block)
    maps, probability = by_hand(pipe, weights_file, images, column, weighed)
    np.testing.assert_allclose(display.probability, probability, atol=1e-5)
    expected = pipe.predict_proba(images)[:, column]
    np.testing.assert_allclose(display.probability, expected, atol=1e-5)
    assert maps.max() > 0
    error = np.abs(display.maps - maps).max(axis=(1, 2)) / maps.max()
    # rounding switches a ReLU6 on the verge here and there, which a gradient feels
    assert np.median(error) < 1e-4
    assert error.max() < 0.02


def test_of_a_pipeline_saved_without_the_weights_of_its_trunk(pipe, photos):
    pipe = copy.deepcopy(pipe).set_params(features__store_weights_in_pickle=False)
    loaded = pickle.loads(pickle.dumps(pipe))
    assert not hasattr(loaded[0], "weights_")
    expected = explain(pipe, photos.data[:2])
    display = explain(loaded, photos.data[:2])
    np.testing.assert_array_equal(display.maps, expected.maps)
    np.testing.assert_array_equal(display.probability, expected.probability)


def test_of_several_tails(photos, weights_file):
    pipe = make_pipe(weights=weights_file, n_tails=3).fit(photos.data, photos.target)
    display = GradCAMDisplay.from_estimator(pipe, photos.data[:4])
    tails, maps = pipe[-1].net_.module_, []
    np.testing.assert_allclose(
        display.probability, pipe.predict_proba(photos.data[:4])[:, 1], atol=1e-5
    )
    for tail in tails.tails:
        pipe[-1].net_.module_ = Tails([tail])
        maps.append(GradCAMDisplay.from_estimator(pipe, photos.data[:4]).maps)
    assert np.ptp(maps, axis=0).max() > 0
    np.testing.assert_allclose(display.maps, np.mean(maps, axis=0), atol=1e-5 * np.max(maps))


def test_three_classes(photos):
    y = np.arange(20) % 3
    pipe = make_pipe().fit(photos.data, y)
    with pytest.raises(ValueError, match=r"class_of_interest must be given .* \[0, 1, 2\]"):
        GradCAMDisplay.from_estimator(pipe, photos.data[:2])
    for label in range(3):
        display = GradCAMDisplay.from_estimator(pipe, photos.data[:4], class_of_interest=label)
        expected = pipe.predict_proba(photos.data[:4])[:, label]
        np.testing.assert_allclose(display.probability, expected, atol=1e-5)


def test_maps_have_the_sizes_of_the_photographs(pipe, photos, tmp_path):
    Image.fromarray(photos.data[0]).resize((50, 30)).save(tmp_path / "a.png")
    Image.new("RGB", (20, 40)).save(tmp_path / "b.png")
    images = [str(tmp_path / "a.png"), tmp_path / "b.png", photos.data[1], photo()]
    display = explain(pipe, pd.Series(images, index=[7, 3, 3, 0]))
    assert [p.shape[:2] for p in display.photos] == [m.shape for m in display.maps]
    assert [m.shape for m in display.maps][:3] == [(30, 50), (40, 20), (64, 64)]
    assert display.names[:2] == [str(image) for image in images[:2]]
    alone = explain(pipe, images[:1])
    assert alone.maps.shape == (1, 30, 50)
    np.testing.assert_allclose(display.maps[0], alone.maps[0], atol=1e-5)


def test_files_may_have_the_pixels_that_the_pipeline_allows(pipe, photos, tmp_path, monkeypatch):
    file = tmp_path / "photo.png"
    Image.fromarray(photos.data[0]).save(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    generous = copy.deepcopy(pipe)
    generous[0].set_params(max_pixels=5000)
    assert explain(generous, [file]).maps.shape == (1, 64, 64)
    with pytest.raises(ImageError, match=r"photo\.png.*64x64 pixels"):
        explain(pipe, [file])


def test_the_pipeline_stays_as_it_was(pipe, photos):
    before = pipe.predict_proba(photos.data)
    explain(pipe, photos.data[:3])
    np.testing.assert_array_equal(pipe.predict_proba(photos.data), before)


def doubled(X):
    return np.clip(X.astype(int) * 2, 0, 255).astype(np.uint8)


def test_what_is_around_the_two_steps(pipe, photos):
    expected = explain(pipe, photos.data[:2])
    y = photos.target_names[photos.target]
    search = GridSearchCV(make_pipe(), {"classifier__lr": [1e-4]}, cv=KFold(2))
    for around in (search, FixedThresholdClassifier(make_pipe())):
        display = explain(around.fit(photos.data, y), photos.data[:2])
        np.testing.assert_array_equal(display.maps, expected.maps)
    brighter = Pipeline([("double", FunctionTransformer(doubled)), *pipe.steps])
    brighter.steps.insert(1, ("nothing", "passthrough"))
    display = explain(brighter, photos.data[:2])
    np.testing.assert_array_equal(display.photos, doubled(photos.data[:2]))
    sampling = SamplingPipeline([("views", ImageAugmenter(n_views=1)), *pipe.steps])
    display = explain(sampling, photos.data[:2])
    np.testing.assert_array_equal(display.maps, expected.maps)


def test_the_probability_is_that_of_the_whole_detector(photos):
    y = photos.target_names[photos.target]
    params = {"weights": None, "image_size": 64, "max_epochs": 1, "hidden_layer_sizes": (16,)}
    detector = make_deepfake_pipeline(preset="accurate", random_state=0, **params)
    detector.set_params(n_views=1).fit(photos.data, y)
    calibrated = CalibratedClassifierCV(FrozenEstimator(detector)).fit(photos.data, y)
    for estimator in (detector, calibrated):
        display = GradCAMDisplay.from_estimator(
            estimator, photos.data[:3], class_of_interest="genuine"
        )
        expected = estimator.predict_proba(photos.data[:3])[:, 0]
        np.testing.assert_allclose(display.probability, expected, atol=1e-6)
        assert display.axes_[0].get_title().endswith(f"P(genuine) = {expected[0]:.2f}")
        assert display.called.tolist() == estimator.predict(photos.data[:3]).tolist()


def test_the_class_has_to_be_named_where_the_labels_leave_it_open(pipe, photos):
    X = photos.data[:2]
    with pytest.raises(ValueError, match=r"must be given for the classes \['genuine', 'spliced'\]"):
        GradCAMDisplay.from_estimator(pipe, X)
    numbers = make_pipe().fit(photos.data, photos.target * 2 - 1)
    display = GradCAMDisplay.from_estimator(numbers, X)
    assert display.class_of_interest == 1
    np.testing.assert_allclose(display.probability, numbers.predict_proba(X)[:, 1], atol=1e-6)


def test_titles_name_photograph_call_and_true_class(pipe, photos, tmp_path):
    long = f"{'long' * 10}.png"
    files = [tmp_path / "a.png", tmp_path / long]
    for file, pixels in zip(files, photos.data, strict=False):
        Image.fromarray(pixels).save(file)
    called = pipe.predict(files)
    y = [called[0], "spliced" if called[1] == "genuine" else "genuine"]
    display = explain(pipe, files, pd.Series(y, index=[5, 4]))
    titles = [axes.get_title().split("\n") for axes in display.axes_]
    assert [title[0] for title in titles] == ["a.png", f"{long[:12]}…{long[-13:]}"]
    assert [title[1] for title in titles] == [
        f"called {call}, is {true}" for call, true in zip(called, y, strict=True)
    ]
    weights = [axes.title.get_fontweight() for axes in display.axes_]
    assert weights == ["normal", "bold"]
    assert "is " not in explain(pipe, files).axes_[0].get_title()
    with pytest.raises(ValueError, match=r"y holds the labels \[0, 1\], and the detector knows"):
        explain(pipe, files, [0, 1])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        explain(pipe, files, y[:1])


def test_plot(pipe, photos, tmp_path):
    display = explain(pipe, photos.data[:5], class_of_interest="genuine")
    assert len(display.axes_) == len(display.images_) == 5
    p = display.probability[3]
    called = display.called[3]
    assert display.axes_[3].get_title() == f"image 3\ncalled {called}\nP(genuine) = {p:.2f}"
    assert display.colorbar_.ax.get_ylabel() == "Evidence for genuine"
    assert (display.colorbar_.vmin, display.colorbar_.vmax) == (0, display.maps.max())
    # one scale for all, so that weak evidence looks weak
    assert {image.get_clim() for image in display.images_} == {(0, display.maps.max())}
    for image, map_ in zip(display.images_, display.maps, strict=True):
        np.testing.assert_array_equal(image.get_array(), map_)
    display.figure_.savefig(tmp_path / "maps.png")
    figure, axes = plt.subplots(5)
    assert display.plot(ax=axes).figure_ is figure
    with pytest.raises(ValueError, match="5 matplotlib Axes, one for each of 5 photographs; got 2"):
        display.plot(ax=axes[:2])


def display_of(*shapes):
    photos = [np.zeros((*shape, 3), np.uint8) for shape in shapes]
    maps = np.empty(len(shapes), dtype=object)
    maps[:] = [np.arange(height * width).reshape(height, width) for height, width in shapes]
    half = np.full(len(shapes), 0.5)
    return GradCAMDisplay(photos, maps, probability=half, class_of_interest="fake")


def test_evidence_in_regions():
    masks = [[[True, False, False], [True, False, False]], np.array([[False], [True]])]
    inside, outside = display_of((2, 3), (2, 1)).evidence_in(masks)
    np.testing.assert_array_equal(inside, [1.5, 1.0])
    np.testing.assert_array_equal(outside, [3.0, 0.0])


def test_masks_that_miss():
    display = display_of((2, 3), (2, 1), (2, 2), (2, 2), (1, 2))
    masks = [np.ones((2, 3), bool), np.zeros((2, 1), bool), np.ones((2, 2)), np.eye(2) > 0]
    with pytest.raises(ValueError, match="4 masks for 5 photographs: pass one each"):
        display.evidence_in(masks)
    with pytest.raises(
        ValueError, match="4 of 5 masks cannot be used: row 0: no pixel is out"
    ) as e:
        display.evidence_in([*masks, np.eye(2) > 0])
    message = str(e.value)
    assert "row 1: no pixel is in the region; " in message
    assert (
        "row 2: its values are float64, not bool; row 4: its shape is (2, 2), but that of "
        in message
    )
    assert "row 3" not in message and message.endswith("or repair the masks.")
    many = display_of(*[(1, 2)] * 12)
    with pytest.raises(ValueError, match=r"12 of 12 masks .*row 9: .* \.\.\. and 2 more\. Leave"):
        many.evidence_in(np.zeros((12, 1, 2), bool))


def test_no_evidence_at_all_is_dark():
    display = GradCAMDisplay(
        [np.zeros((8, 8, 3), np.uint8)],
        np.zeros((1, 8, 8), np.float32),
        probability=np.zeros(1),
        class_of_interest="fake",
    ).plot()
    assert display.images_[0].get_alpha().max() == 0


def test_what_cannot_be_explained(pipe, photos, tmp_path):
    X = photos.data[:2]
    with pytest.raises(ValueError, match=r'layer="pool" are averages .*: fit with layer=18'):
        explain(make_pipe("pool").fit(photos.data, photos.target), X)
    with pytest.raises(NotFittedError, match="This Pipeline holds no fitted pipeline"):
        explain(make_pipe(), X)
    for other in (pipe[-1], LogisticRegression(), Pipeline([("features", pipe[0])]), "pipe"):
        with pytest.raises(TypeError, match=f"ends in .* got {type(other).__name__}"):
            explain(other, X)
    with pytest.raises(
        ValueError, match=r"class_of_interest='fake' is .* \['genuine', 'spliced'\]"
    ):
        explain(pipe, X, class_of_interest=np.str_("fake"))
    with pytest.raises(ValueError, match="block=19 does not exist: the blocks are 0 to 18"):
        explain(pipe, X, block=np.int64(19))
    with pytest.raises(ValueError, match=r"block=3\.0 does not exist: the blocks are 0 to 18"):
        explain(pipe, X, block=3.0)
    with pytest.raises(TypeError, match="a single path"):
        explain(pipe, "a.jpg")
    with pytest.raises(ImageError, match=r"2 of 3 images .*row 0 .*absent.*row 2 "):
        explain(pipe, [tmp_path / "absent.png", X[0], b"no image"])
    with pytest.raises(
        ImageError, match=r"row 1 \(view of '.*absent\.png'\): the file does not ex"
    ):
        explain(pipe, [X[0], View(tmp_path / "absent.png", 0)])


def test_heads_on_maps_and_features_without_locations(photos):
    head = make_pipeline(
        MobileNetV2Features(15, weights=None, image_size=32),
        DeepFakeClassifier("pool", max_epochs=1),
    )
    head.fit(photos.data, photos.target)
    maps = explain(head, photos.data[:2], class_of_interest=1).maps
    assert len(maps) == 2 and maps[0].shape == photos.data[0].shape[:2]
    pooled = clone(head).set_params(mobilenetv2features__pooling="mean")
    with pytest.raises(ValueError, match=r"pooling='mean' are summaries .* fit with pooling=None"):
        explain(pooled.fit(photos.data, photos.target), photos.data[:2], class_of_interest=1)


def test_of_a_template_no_fit_is_explained(pipe, photos):
    """An earlier fit of what was passed to a meta-estimator is not what that fitted."""
    y = pipe.classes_[photos.target]
    calibrated = CalibratedClassifierCV(pipe, cv=2).fit(photos.data, y)
    search = GridSearchCV(pipe, {"classifier__lr": [1e-3]}, cv=2, refit=False)
    for estimator in (calibrated, search, AugmentedClassifier(pipe)):
        for show in (
            lambda: explain(estimator, photos.data[:2]),  # noqa: B023
            lambda: TrainingHistoryDisplay.from_estimator(estimator),  # noqa: B023
        ):
            with pytest.raises(NotFittedError):
                show()
    frozen = CalibratedClassifierCV(FrozenEstimator(pipe)).fit(photos.data, y)
    for detector in (frozen, FixedThresholdClassifier(pipe)):  # this one predicts without a fit
        assert len(explain(detector, photos.data[:2]).maps) == 2
    with pytest.raises(TypeError, match="takes a fitted Pipeline"):
        explain(CalibratedClassifierCV(), photos.data[:2])


@pytest.mark.parametrize(
    ("package", "message"),
    [("captum.attr", r'needs captum.*"sklearn-dfd\[explain\]"'), ("matplotlib", "matplotlib")],
)
def test_without_a_package(package, message, pipe, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=message):
        explain(pipe, photos.data[:1])


def p_of_maps_that_ignore_the_edit(layer, n_epochs, n_samples, **params):
    """Train on some places, and look at the maps of the spliced photographs of others.

    Grain is added to what was pasted in: random weights learn that from few photographs.
    """
    photos = make_spliced_photos(n_samples, random_state=0)
    grain = np.random.RandomState(0).normal(0, 17, photos.data.shape)
    data = np.where(photos.masks[..., np.newaxis], photos.data + grain, photos.data)
    data = np.clip(data, 0, 255).astype(np.uint8)
    train = photos.groups % 5 < 3
    pipe = make_deepfake_pipeline(
        layer, l1_factor=1e-6, batch_size=16, max_epochs=n_epochs, random_state=0, **params
    ).fit(data[train], photos.target[train])
    spliced = np.flatnonzero(~train & (photos.target == 1))
    display = GradCAMDisplay.from_estimator(pipe, data[spliced])
    # as means over area, so that a map without evidence favours neither
    inside, outside = display.evidence_in(photos.masks[spliced])
    return wilcoxon(inside, outside, alternative="greater").pvalue


@pytest.mark.slow
def test_maps_lie_on_what_was_pasted_in():
    """Random weights suffice, since it is the trained part that learns to see the edits."""
    options = {"weights": None, "image_size": 96, "lr": 1e-3}
    assert p_of_maps_that_ignore_the_edit(6, 6, 120, **options) < 0.01


@pytest.mark.slow
def test_maps_lie_on_what_was_pasted_in_with_real_weights(real_weights):
    assert p_of_maps_that_ignore_the_edit(15, 3, 120, weights=real_weights, lr=3e-4) < 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_maps_on_a_gpu_are_those_of_the_cpu(photos):
    pipe = make_pipe(device="cuda").fit(photos.data, photos.target)
    display = GradCAMDisplay.from_estimator(pipe, photos.data[:4])
    pipe.set_params(features__device="cpu", classifier__device="cpu")
    state = pipe[-1].__getstate__()
    pipe[-1].__setstate__(state)
    expected = GradCAMDisplay.from_estimator(pipe, photos.data[:4])
    np.testing.assert_allclose(display.probability, expected.probability, atol=1e-4)
    np.testing.assert_allclose(display.maps, expected.maps, atol=1e-2 * expected.maps.max())
