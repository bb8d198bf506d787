"""Tests of sklearn_dfd.augmented_classifier: views in training, mirror images in judging."""

import joblib
import numpy as np
import pytest
from image_files import encode
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import BaggingClassifier, GradientBoostingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError, UnsetMetadataPassedError
from sklearn.linear_model import LogisticRegressionCV, SGDClassifier
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    GroupKFold,
    cross_validate,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_dfd import MobileNetV2Features, detect, make_deepfake_pipeline
from sklearn_dfd._core.images.decoding import to_rgb
from sklearn_dfd._core.images.reading import read_all
from sklearn_dfd._core.images.sources import describe
from sklearn_dfd.augmentation import ImageAugmenter, View
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.exceptions import ImageError


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    photos = make_spliced_photos(24, image_size=32, random_state=0)
    folder = tmp_path_factory.mktemp("photos")
    paths = [str(folder / f"{i:02}.png") for i in range(24)]
    for path, pixels in zip(paths, photos.data, strict=True):
        Image.fromarray(pixels).save(path)
    photos.update(data=np.array(paths, dtype=object))
    return photos


@pytest.fixture
def pipe():
    return make_deepfake_pipeline(
        weights=None, image_size=32, max_epochs=1, hidden_layer_sizes=(8,), random_state=0
    )


@pytest.fixture
def seen(monkeypatch):
    """What the transformer was given, call by call."""
    calls = []
    transform = MobileNetV2Features.transform

    def watched(self, images):
        calls.append(list(images))
        return transform(self, images)

    monkeypatch.setattr(MobileNetV2Features, "transform", watched)
    return calls


def test_trained_as_by_hand(pipe, photos):
    detector = AugmentedClassifier(pipe, n_views=2, average_mirrored=False, random_state=3)
    augmenter = ImageAugmenter(2, recipe="gentle", random_state=3)
    X, y = augmenter.fit_resample(photos.data, photos.target)
    expected = clone(pipe).fit(X, y).predict_proba(photos.data)
    actual = detector.fit(photos.data, photos.target).predict_proba(photos.data)
    np.testing.assert_array_equal(actual, expected)


def test_judged_in_both_mirror_images(pipe, photos):
    detector = AugmentedClassifier(pipe, n_views=0).fit(photos.data, photos.target)
    mirrored = [np.array(Image.open(path).convert("RGB"))[:, ::-1] for path in photos.data]
    both = [detector.estimator_.predict_proba(X) for X in (photos.data, mirrored)]
    assert np.abs(both[0] - both[1]).max() > 1e-4
    probability = detector.predict_proba(photos.data)
    np.testing.assert_allclose(probability, np.mean(both, axis=0), atol=1e-6)
    np.testing.assert_array_equal(detector.predict(photos.data), probability.argmax(axis=1))


def test_no_view_of_what_is_tested_is_trained_on(pipe, photos, seen):
    detector = AugmentedClassifier(pipe, n_views=2)
    search = GridSearchCV(
        detector, {"estimator__classifier__lr": [1e-4, 1e-3]}, cv=GroupKFold(2), refit=False
    )
    search.fit(photos.data, photos.target, groups=photos.groups)
    assert len(seen) == 4 * 2  # training; testing with mirror images
    for training, tested in zip(seen[::2], seen[1::2], strict=True):
        testing, mirrored = tested[::2], tested[1::2]
        assert sum(isinstance(image, View) for image in training) == 2 * 12
        assert not any(isinstance(image, View) for image in testing)
        assert [view.source for view in mirrored] == testing
        trained = {getattr(image, "source", image) for image in training}
        groups = {photos.groups[list(photos.data).index(path)] for path in trained}
        assert len(trained) == 12
        assert not groups & {photos.groups[list(photos.data).index(path)] for path in testing}
    # candidates and folds are given the same views of a photograph: each is computed once
    views = {image for training in seen[::2] for image in training if isinstance(image, View)}
    assert len(views) == 2 * 24


def test_early_stopping_sets_whole_photographs_aside(pipe, photos, monkeypatch):
    import sklearn_dfd.classifier as module

    sides = []
    set_aside = module.set_aside

    def watched(rows, groups, *args):
        kept, aside = set_aside(rows, groups, *args)
        sides.append((set(groups[kept.order]), set(groups[aside.order])))
        return kept, aside

    monkeypatch.setattr(module, "set_aside", watched)
    pipe.set_params(classifier__early_stopping=True, classifier__validation_fraction=0.3)
    detector = AugmentedClassifier(pipe, n_views=2)
    detector.fit(photos.data, photos.target)
    detector.fit(photos.data, photos.target, groups=photos.groups)
    assert len(sides) == 2
    for kept, aside in sides:
        assert kept and aside and not kept & aside
    assert len(set.union(*sides[0])) == 24 and len(set.union(*sides[1])) == len(set(photos.groups))


def test_sample_weight_of_a_view_is_that_of_its_photograph(pipe, photos):
    left_out = np.arange(24) < 12
    weight = np.where(left_out, 0.0, 1.0)
    detector = AugmentedClassifier(pipe, n_views=1)
    a = detector.fit(photos.data, photos.target, sample_weight=weight).predict_proba(photos.data)
    detector.fit(photos.data[~left_out], photos.target[~left_out])
    np.testing.assert_allclose(a, detector.predict_proba(photos.data), atol=1e-6)


@pytest.fixture
def weight(photos):
    return np.where(photos.groups % 3 == 0, 0.5, 2.0)


@pytest.mark.parametrize("routing", [False, True])
def test_groups_and_weights_reach_the_classifier(routing, pipe, photos, weight, received):
    detector = AugmentedClassifier(pipe, n_views=2)
    with config_context(enable_metadata_routing=routing):
        detector.fit(photos.data, photos.target)
        detector.fit(photos.data, photos.target, sample_weight=weight, groups=photos.groups)
        # a classifier alone, without a pipeline, of what may be images to it
        AugmentedClassifier(DummyClassifier(), n_views=1).fit(
            photos.data, photos.target, sample_weight=weight, groups=photos.groups
        )
    assert set(received[0]) == {"n_rows", "groups"}
    np.testing.assert_array_equal(received[0]["groups"], np.tile(np.arange(24), 3))
    np.testing.assert_array_equal(received[1]["groups"], np.tile(photos.groups, 3))
    np.testing.assert_array_equal(received[1]["sample_weight"], np.tile(weight, 3))
    assert not hasattr(pipe[-1], "_metadata_request")  # asked for in the clone alone


@pytest.mark.parametrize("routing", [False, True])
def test_photographs_to_validate_on_are_transformed_and_have_no_views(
    routing, pipe, photos, weight, received, seen
):
    pipe.set_params(classifier__early_stopping=True)
    detector = AugmentedClassifier(pipe, n_views=2, average_mirrored=False)
    X, y, X_val, y_val = photos.data[6:], photos.target[6:], photos.data[:6], photos.target[:6]
    with config_context(enable_metadata_routing=routing):
        detector.fit(X, y, X_val=tuple(X_val), y_val=y_val, sample_weight=weight[6:])
    assert set(received[0]) == {"n_rows", "groups", "sample_weight", "X_val", "y_val"}
    assert len(seen[0]) == 3 * 18 and seen[1] == list(X_val) and len(seen) == 2
    expected = detector.estimator_[0].transform(X_val)
    np.testing.assert_array_equal(received[0]["X_val"], expected)
    history = detector.estimator_[-1].history_
    assert history[0]["valid_accuracy"] == pytest.approx(detector.score(X_val, y_val))
    # all that is left behind is the fit
    clone(detector.estimator_).fit(X, y)
    assert detector.estimator_.transform_input is pipe.transform_input is None
    assert not hasattr(pipe[-1], "_metadata_request")


def test_photographs_to_validate_on_in_a_search_with_routing(pipe, photos, received):
    X, y, X_val, y_val = photos.data[6:], photos.target[6:], photos.data[:6], photos.target[:6]
    with config_context(enable_metadata_routing=True):
        pipe[-1].set_fit_request(X_val=True, y_val=True, groups=False)
        search = GridSearchCV(AugmentedClassifier(pipe), {"n_views": [0, 1]}, cv=2)
        search.set_params(error_score="raise").fit(X, y, X_val=X_val, y_val=y_val)
    assert [len(call["X_val"]) for call in received] == [6] * (2 * 2 + 1)


def asked_of_the_detector(pipe):
    detector = AugmentedClassifier(pipe, n_views=1)
    detector.set_fit_request(sample_weight=True, groups=True)
    return detector.set_score_request(sample_weight=True)


def asked_of_its_classifier(pipe):
    pipe[-1].set_fit_request(sample_weight=True, groups=True)
    pipe[-1].set_score_request(sample_weight=True)
    return AugmentedClassifier(pipe, n_views=1)


@pytest.mark.parametrize("asked", [asked_of_the_detector, asked_of_its_classifier])
def test_search_and_cross_validation_with_routing(asked, pipe, photos, weight, received):
    with config_context(enable_metadata_routing=True):
        detector = asked(pipe)
        search = GridSearchCV(detector, {"estimator__classifier__lr": [1e-4]}, cv=GroupKFold(2))
        result = cross_validate(
            search,
            photos.data,
            photos.target,
            cv=GroupKFold(2),
            params={"sample_weight": weight, "groups": photos.groups},
            return_estimator=True,
            return_indices=True,
            error_score="raise",
        )
    assert len(received) == 2 * (2 + 1)
    for call in received:
        assert set(call) == {"n_rows", "sample_weight", "groups"}
        np.testing.assert_array_equal(
            call["sample_weight"], np.where(call["groups"] % 3 == 0, 0.5, 2.0)
        )
    for fitted, test, score in zip(
        result["estimator"], result["indices"]["test"], result["test_score"], strict=True
    ):
        right = fitted.predict(photos.data[test]) == photos.target[test]
        assert score == pytest.approx(np.average(right, weights=weight[test]))


def test_cross_validation_without_routing(pipe, photos, weight, received):
    cross_validate(
        AugmentedClassifier(pipe, n_views=1),
        photos.data,
        photos.target,
        cv=GroupKFold(2),
        groups=photos.groups,
        params={"sample_weight": weight, "groups": photos.groups},
        error_score="raise",
    )
    assert [set(call) for call in received] == [{"n_rows", "sample_weight", "groups"}] * 2


def test_metadata_that_nobody_asked_for_is_refused(pipe, photos):
    search = GridSearchCV(AugmentedClassifier(pipe), {"n_views": [1]}, cv=GroupKFold(2))
    with config_context(enable_metadata_routing=True):
        with pytest.raises(UnsetMetadataPassedError, match=r"groups.* passed but are not expl"):
            search.fit(photos.data, photos.target, groups=photos.groups)
        search.estimator.set_fit_request(groups=False)
        assert search.fit(photos.data, photos.target, groups=photos.groups).n_splits_ == 2


def test_saved_and_loaded(pipe, photos, tmp_path):
    detector = AugmentedClassifier(pipe, n_views=1).fit(photos.data, photos.target)
    joblib.dump(detector, tmp_path / "detector.joblib")
    loaded = joblib.load(tmp_path / "detector.joblib")
    np.testing.assert_array_equal(
        loaded.predict_proba(photos.data), detector.predict_proba(photos.data)
    )


@pytest.mark.slow
def test_several_seeds_together(photos, tmp_path):
    detectors = [
        make_deepfake_pipeline(
            preset="accurate",
            weights=None,
            image_size=32,
            max_epochs=1,
            hidden_layer_sizes=(8,),
            memory=tmp_path / "features",
            random_state=seed,
        ).set_params(n_views=1)
        for seed in range(2)
    ]
    voting = VotingClassifier([(f"seed {i}", d) for i, d in enumerate(detectors)], voting="soft")
    y = photos.target_names[photos.target]
    voting.fit(photos.data, y)
    alone = [detector.fit(photos.data, y).predict_proba(photos.data) for detector in detectors]
    assert not np.array_equal(*alone)
    joblib.dump(voting, tmp_path / "voting.joblib")
    loaded = joblib.load(tmp_path / "voting.joblib")
    np.testing.assert_array_equal(loaded.predict_proba(photos.data), np.mean(alone, axis=0))
    assert set(loaded.predict(photos.data)) <= set(y)


def test_labels_in_words(pipe, photos):
    words = photos.target_names[photos.target]
    detector = AugmentedClassifier(pipe, n_views=1).fit(photos.data, words)
    assert detector.classes_.tolist() == sorted(set(words))
    assert set(detector.predict(photos.data)) <= set(words)
    assert 0 <= detector.score(photos.data, words) <= 1


def test_what_splits_by_itself_would_part_views_from_their_photograph(pipe, photos):
    pipe.set_params(classifier__hidden_layer_sizes=(4,))
    message = "CalibratedClassifierCV splits its input itself.* Put the AugmentedClassifi"
    for inner in (
        CalibratedClassifierCV(pipe, cv=2),
        make_pipeline(pipe[0], CalibratedClassifierCV(pipe[1], cv=2)),
    ):
        with pytest.raises(ValueError, match=message):
            AugmentedClassifier(inner, n_views=1).fit(photos.data, photos.target)
    search = GridSearchCV(pipe, {"classifier__lr": [1e-4]}, cv=2)
    with pytest.raises(ValueError, match="GridSearchCV splits its input itself"):
        AugmentedClassifier(search, n_views=1).fit(photos.data, photos.target, groups=photos.groups)
    outside = CalibratedClassifierCV(AugmentedClassifier(pipe, n_views=1), cv=2)
    assert outside.fit(photos.data, photos.target).predict_proba(photos.data).shape == (24, 2)
    by_group = GridSearchCV(pipe, {"classifier__lr": [1e-4]}, cv=GroupKFold(2))
    with config_context(enable_metadata_routing=True):
        pipe[-1].set_fit_request(groups=True)
        detector = AugmentedClassifier(by_group, n_views=1).fit(photos.data, photos.target)
    assert detector.estimator_.n_splits_ == 2


def test_photographs_are_named_and_not_their_views(pipe, photos):
    X = [*photos.data[:-1], "absent.jpg"]
    with pytest.raises(ImageError) as caught:
        AugmentedClassifier(pipe, n_views=2).fit(X, photos.target)
    assert str(caught.value) == (
        "1 of 24 images cannot be used: row 23 ('absent.jpg'): the file does not exist. Repair "
        "them, or leave them out."
    )
    # behind a step that hands on images of another name, too
    named = Pipeline([("same", FunctionTransformer(_through_bytes)), *pipe.steps])
    faulty = [*photos.data[:-1], np.zeros((4, 4, 3), dtype=np.uint8)]
    with pytest.raises(ImageError, match=r"^1 of 24 images cannot be used: row 23 .*bytes"):
        AugmentedClassifier(named, n_views=2).fit(faulty, photos.target)
    with pytest.raises(ValueError, match="requires y to be passed"):
        AugmentedClassifier(pipe).fit(X, None)


def test_photographs_to_validate_on_are_told_from_those_to_train_on(pipe, photos):
    """Also where both are as many, and of the same names in the same rows."""
    X, y = list(photos.data), photos.target
    faulty = [*X[:-1], "absent.jpg"]
    detector = AugmentedClassifier(pipe, n_views=0)
    for n_views in (0, 1):
        detector.set_params(n_views=n_views)
        for X_val in (faulty, faulty * (n_views + 1)):
            options = {"X_val": X_val, "y_val": np.resize(y, len(X_val))}
            with pytest.raises(ImageError, match=r"row 23 \('absent\.jpg'\).* in X_val") as caught:
                detector.fit(X, y, **options)
            assert caught.value.n_images == len(X_val)
            with pytest.raises(ImageError, match=r"^1 of 24 images.*row 23 ") as caught:
                detector.fit(faulty, y, **options)
            assert "X_val" not in str(caught.value)


def test_limits_of_pixels_are_those_of_the_transformer(pipe, photos):
    pipe.set_params(features__max_pixels=2000)
    large = [*photos.data[:-1], np.zeros((64, 64, 3), np.uint8)]
    with pytest.raises(ImageError, match=r"^1 of 24 images.*row 23 .*too large") as caught:
        AugmentedClassifier(pipe, n_views=1).fit(
            _as_files(large), photos.target, X_val=photos.data, y_val=photos.target
        )
    assert "X_val" not in str(caught.value)


def _as_files(images):
    return [encode(Image.fromarray(x), "PNG") if isinstance(x, np.ndarray) else x for x in images]


def test_errors_of_judging_name_each_photograph_once(pipe, photos):
    detector = AugmentedClassifier(pipe, n_views=0).fit(photos.data, photos.target)
    with pytest.raises(ImageError, match=r"sklearn_dfd\.detect") as caught:
        detector.predict_proba([*photos.data[:2], "absent.jpg", photos.data[2], "gone.jpg"])
    assert [row for row, _, _ in caught.value.failures] == [2, 4]
    assert caught.value.n_images == 5 and caught.value.failures[0][1] == "'absent.jpg'"


def test_groups_reach_the_classifier_of_a_nested_pipeline(pipe, photos, received):
    nested = make_pipeline(FunctionTransformer(), pipe)
    X, y, X_val, y_val = photos.data[6:], photos.target[6:], photos.data[:6], photos.target[:6]
    for routing in (False, True):
        with config_context(enable_metadata_routing=routing):
            AugmentedClassifier(nested, n_views=1).fit(X, y, X_val=X_val, y_val=y_val)
            AugmentedClassifier(nested, n_views=1).fit(X, y)
    assert len(received) == 4
    for call in received:
        np.testing.assert_array_equal(call["groups"], np.tile(np.arange(18), 2))
    expected = pipe[0].fit(X).transform(X_val)
    np.testing.assert_array_equal(received[0]["X_val"], expected)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (MLPClassifier(early_stopping=True, max_iter=2), "Set early_stopping=False"),
        (SGDClassifier(loss="log_loss", early_stopping=True), "Set early_stopping=False"),
        (
            BaggingClassifier(SGDClassifier(loss="log_loss", early_stopping=True)),
            "Set early_stopping=False",
        ),
        (GradientBoostingClassifier(n_iter_no_change=2), "Set n_iter_no_change=None"),
        (LogisticRegressionCV(), "Put the AugmentedClassifier into the LogisticRegressionCV"),
        (
            VotingClassifier([("one", CalibratedClassifierCV(SGDClassifier()))], voting="soft"),
            "Put the AugmentedClassifier into the VotingClassifier",
        ),
        (
            FixedThresholdClassifier(SGDClassifier(loss="log_loss")),
            "threshold of FixedThresholdClassifier",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_what_would_part_views_or_lose_a_threshold_is_refused(last, message, pipe, photos):
    detector = AugmentedClassifier(make_pipeline(pipe[0], last), n_views=1)
    with pytest.raises(ValueError, match=message):
        detector.fit(photos.data, photos.target)
    if message.startswith("Set") and not isinstance(last, BaggingClassifier):  # which works
        name, value = message.removeprefix("Set ").split("=")
        last.set_params(**{name: {"False": False, "None": None}[value]})
        detector.fit(photos.data, photos.target)


class FindsNothingInMirrored(FunctionTransformer):
    """Refuses the mirror images of two photographs, as one that finds no face in them would."""

    def transform(self, X):
        faulty = [
            (row, describe(x), "no face was found in it")
            for row, x in enumerate(X)
            if isinstance(x, View) and x.recipe == "mirrored" and "1.png" in str(x.source)
        ]
        if faulty:
            raise ImageError(faulty, len(X))
        return X


def test_photographs_whose_mirror_image_is_refused_are_named(pipe, photos):
    steps = [("faces", FindsNothingInMirrored()), *pipe.steps]
    detector = AugmentedClassifier(Pipeline(steps), n_views=0).fit(photos.data, photos.target)
    with pytest.raises(ImageError, match=r"^3 of 24 images cannot be used: row 1 \('") as caught:
        detector.predict_proba(photos.data)
    assert [row for row, _, _ in caught.value.failures] == [1, 11, 21]
    table = detect(detector, photos.data, pos_label=1)
    assert (table["label"].isna()).sum() == 3
    assert table["error"][11] == "no face was found in it"


class FindsNothingIn(FunctionTransformer):
    """Refuses a photograph and its views, which are sound files."""

    def __init__(self, path=""):
        super().__init__()
        self.path = path

    def transform(self, X):
        names = map(describe, X)
        faulty = [(i, name, "no face") for i, name in enumerate(names) if self.path in name]
        if faulty:
            raise ImageError(faulty, len(X))
        return X

    def fit_transform(self, X, y=None):
        return self.transform(X)


@pytest.mark.parametrize("n_val", [6, 12, 24])
def test_sound_files_that_a_step_refuses_are_told_apart(n_val, pipe, photos):
    steps = [("faces", FindsNothingIn("03.png")), *pipe.steps]
    detector = AugmentedClassifier(Pipeline(steps), n_views=1)
    good, y = photos.data[4:16], photos.target[4:16]
    one = [*good[:5], photos.data[3], *good[6:]]
    val, y_val = np.resize(good, n_val), np.resize(y, n_val)
    with pytest.raises(ImageError, match=r"^1 of 12 images.* row 5 \(.*no face") as caught:
        detector.fit(one, y, X_val=val, y_val=y_val)
    assert "X_val" not in str(caught.value)
    faulty = [photos.data[3], *val[1:]]
    with pytest.raises(ImageError, match=rf"^1 of {n_val} images.* row 0 .*They are in X_val"):
        detector.fit(good, y, X_val=faulty, y_val=y_val)


def test_weights_with_photographs_to_validate_on_reach_the_classifier_alone(
    pipe, photos, weight, received
):
    """As without them: other steps that could take weights are given none."""
    scaler = make_pipeline(StandardScaler(), FunctionTransformer())
    scaled = Pipeline([pipe.steps[0], ("scaler", scaler), pipe.steps[1]])
    detector = AugmentedClassifier(scaled, n_views=1)
    X, y = photos.data, photos.target
    detector.fit(X, y, sample_weight=weight, X_val=X[:6], y_val=y[:6])
    detector.fit(X, y, sample_weight=weight)
    np.testing.assert_array_equal(received[0]["sample_weight"], np.tile(weight, 2))
    np.testing.assert_array_equal(received[1]["sample_weight"], np.tile(weight, 2))
    clone(detector.estimator_).fit(X, y)


def test_weights_of_photographs_to_validate_on_reach_a_classifier_that_takes_them(photos):
    class Taking(DummyClassifier):
        def fit(self, X, y, X_val=None, y_val=None, sample_weight_val=None):
            self.received_ = sample_weight_val
            return super().fit(X, y)

    weight = np.arange(24.0)
    options = {"X_val": photos.data, "y_val": photos.target, "sample_weight_val": weight}
    detector = AugmentedClassifier(Taking(), n_views=1)
    detector.fit(photos.data, photos.target, **options)
    assert detector.estimator_.received_ is weight
    with pytest.raises(ValueError, match="takes no sample_weight_val"):
        AugmentedClassifier(KNeighborsClassifier(), n_views=1).fit(
            photos.data, photos.target, sample_weight_val=weight
        )


def _through_bytes(images):
    """Hand on small images as files of nothing."""
    return [b"nothing" if np.shape(read_all([x], to_rgb)[0])[0] < 8 else x for x in images]


@pytest.mark.parametrize("n_val", [5, 12])
def test_faulty_photographs_to_validate_on_are_named(n_val, pipe, photos):
    X_val = [*photos.data[: n_val - 1], "absent.jpg"]
    detector = AugmentedClassifier(pipe, n_views=1)
    with pytest.raises(ImageError, match=rf"^1 of {n_val} .*row {n_val - 1} \('absent\.jpg'\)"):
        detector.fit(photos.data[:6], photos.target[:6], X_val=X_val, y_val=[0] * n_val)


def test_bad_input(pipe, photos):
    with pytest.raises(NotFittedError):
        AugmentedClassifier(pipe).predict_proba(photos.data)
    with pytest.raises(ValueError, match="y has 3 values for 24 images"):
        AugmentedClassifier(pipe).fit(photos.data, [0, 1, 0])
    with pytest.raises(ValueError, match="n_views"):
        AugmentedClassifier(pipe, n_views=-1).fit(photos.data, photos.target)
    with pytest.raises(ValueError, match="random_state"):
        AugmentedClassifier(pipe, random_state=None).fit(photos.data, photos.target)
    with pytest.raises(ImageError, match=r"absent\.jpg"):
        AugmentedClassifier(pipe, n_views=1).fit([*photos.data, "absent.jpg"], [*photos.target, 0])
    detector = AugmentedClassifier(DummyClassifier(strategy="prior"), n_views=1)
    assert detector.fit(photos.data, photos.target).predict_proba(photos.data).shape == (24, 2)
    with pytest.raises(ValueError, match="sample_weight has 3 values for 24 images"):
        detector.fit(photos.data, photos.target, sample_weight=[1, 2, 3])
    neighbors = KNeighborsClassifier()
    for routing in (False, True):
        with config_context(enable_metadata_routing=routing):
            for estimator in (neighbors, make_pipeline(pipe[0], neighbors)):
                for name, value in (("sample_weight", np.ones(24)), ("X_val", photos.data)):
                    with pytest.raises(ValueError, match=f"KNeighborsClassifier takes no {name}"):
                        AugmentedClassifier(estimator, n_views=1).fit(
                            photos.data, photos.target, **{name: value}
                        )
    with pytest.raises(ValueError, match="X_val and y_val go together"):
        AugmentedClassifier(pipe).fit(photos.data, photos.target, X_val=photos.data)
    with pytest.raises(ValueError, match="X_val and y_val go together"):
        AugmentedClassifier(pipe).fit(photos.data, photos.target, y_val=photos.target)
    with pytest.raises(TypeError, match="single path"):
        AugmentedClassifier(pipe).fit(photos.data, photos.target, X_val="a.jpg", y_val=[0])
