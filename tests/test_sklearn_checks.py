"""Every public estimator under scikit-learn's checks, and what those skip where X are images."""

import copy
import importlib
import inspect
import pickle
import pkgutil
import warnings
from concurrent.futures import ThreadPoolExecutor

import cloudpickle
import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

import sklearn_dfd
from sklearn_dfd import DeepFakeClassifier, MobileNetV2Features, make_deepfake_pipeline
from sklearn_dfd._core.network.tail import Tail, Tails
from sklearn_dfd.augmentation import FaceCrops, ImageAugmenter
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.feature_store import IN_PROCESS

N_CHANNELS = 160  # of block 15


class Blocks(DeepFakeClassifier):
    """The classifier behind block 15, for X of a few columns: they are repeated until they fit.

    So scikit-learn's checks reach the blocks too, and not only the head.
    """

    def _check_features(self, X, **kwargs):
        X = super()._check_features(X, **kwargs)
        return np.tile(X, -(-N_CHANNELS // X.shape[1]))[:, :N_CHANNELS].copy()

    def _empty_tails(self):
        layer, sizes, _ = self._fitted_shape
        return Tails([Tail(layer, (N_CHANNELS, 1, 1), sizes, len(self.classes_), self.dropout)])


def instances():
    """All public estimators, one or more of each, as they are checked."""
    return [
        DeepFakeClassifier(layer="pool"),
        Blocks(weights=None, hidden_layer_sizes=(16,), lr=1e-3, max_epochs=3),
        MobileNetV2Features(weights=None, image_size=32),
        MobileNetV2Features("pool", weights=None, image_size=32, engine="torch", n_jobs=2),
        ImageAugmenter(2, random_state=0),
        FaceCrops(),
        AugmentedClassifier(pipeline(), n_views=1),
    ]


def pipeline():
    return make_deepfake_pipeline(
        weights=None, image_size=32, max_epochs=1, hidden_layer_sizes=(8,), random_state=0
    )


def expected_failed_checks(estimator):
    """Checks of scikit-learn that an estimator fails, with the reason: none so far."""
    return {}


def takes_images(estimator):
    return not estimator.__sklearn_tags__().input_tags.two_d_array


# of those that take images scikit-learn would make one check, warn, and skip the others
@parametrize_with_checks(
    [estimator for estimator in instances() if not takes_images(estimator)],
    expected_failed_checks=expected_failed_checks,
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_no_public_estimator_is_left_out():
    for module in pkgutil.walk_packages(sklearn_dfd.__path__, "sklearn_dfd."):
        importlib.import_module(module.name)
    checked = {cls for estimator in instances() for cls in type(estimator).__mro__}
    todo, found = [BaseEstimator], set()
    while todo:
        todo.extend(cls := todo.pop().__subclasses__())
        found.update(c for c in cls if c.__module__.startswith("sklearn_dfd."))
    public = {cls for cls in found if "._core." not in cls.__module__}
    assert public and public <= checked


# ---- where X are images ----

WITHOUT_DATA = [
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_estimators_unfitted",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
]


@pytest.mark.parametrize("name", WITHOUT_DATA)
@pytest.mark.parametrize("estimator", list(filter(takes_images, instances())), ids=repr)
def test_checks_that_need_no_data(estimator, name):
    """scikit-learn skips them together with those that do."""
    getattr(estimator_checks, name)(type(estimator).__name__, estimator)


def fitted_on_images():
    """Estimators that are fitted on images and give one row for each, not images again."""
    return [
        *(
            e
            for e in instances()
            if takes_images(e) and not isinstance(e, FaceCrops | ImageAugmenter)
        ),
        pipeline(),
    ]


@pytest.fixture(params=fitted_on_images(), ids=lambda estimator: type(estimator).__name__)
def estimator(request):
    return clone(request.param)


@pytest.fixture(scope="module")
def photos():
    return make_spliced_photos(12, image_size=32, random_state=0)


def rows_of(estimator, X):
    """One row per image, from each of its methods; computed anew."""
    IN_PROCESS.clear()
    methods = [m for m in ("transform", "predict_proba", "predict") if hasattr(estimator, m)]
    return {method: np.asarray(getattr(estimator, method)(X)) for method in methods}


def assert_same(actual, expected, rows=slice(None), atol=1e-5):
    assert actual.keys() == expected.keys() and actual
    for method, values in actual.items():
        np.testing.assert_allclose(values, expected[method][rows], rtol=1e-4, atol=atol)


def test_a_second_fit_changes_nothing(estimator, photos):
    expected = rows_of(estimator.fit(photos.data, photos.target), photos.data)
    assert_same(rows_of(estimator.fit(photos.data, photos.target), photos.data), expected)


def test_rows_come_in_the_order_of_images(estimator, photos):
    estimator.fit(photos.data, photos.target)
    order = np.random.default_rng(0).permutation(12)
    assert not (order == np.arange(12)).all()
    expected = rows_of(estimator, photos.data)
    assert_same(rows_of(estimator, photos.data[order]), expected, order)


def test_the_order_of_the_images_in_fit_does_not_matter(estimator, photos):
    order = np.random.default_rng(1).permutation(12)
    expected = rows_of(clone(estimator).fit(photos.data, photos.target), photos.data)
    estimator.fit(photos.data[order], photos.target[order])
    assert_same(rows_of(estimator, photos.data), expected)


def test_a_row_does_not_depend_on_those_beside_it(estimator, photos):
    expected = rows_of(estimator.fit(photos.data, photos.target), photos.data)
    for rows in (slice(5), slice(5, None), [7], [11, 0, 11]):
        assert_same(rows_of(estimator, photos.data[rows]), expected, rows)


def test_a_clone_is_unfitted_and_fits_alike(estimator, photos):
    estimator.fit(photos.data, photos.target)
    cloned = clone(estimator)
    assert cloned.get_params(deep=False).keys() == estimator.get_params(deep=False).keys()
    for method in rows_of(estimator, photos.data):
        with pytest.raises(NotFittedError):
            getattr(clone(estimator), method)(photos.data)
    expected = rows_of(estimator, photos.data)
    assert_same(rows_of(cloned.fit(photos.data, photos.target), photos.data), expected)


def reloaded(estimator, path):
    joblib.dump(estimator, path)
    return joblib.load(path)


@pytest.mark.parametrize(
    "copied",
    [
        lambda estimator, path: pickle.loads(pickle.dumps(estimator)),
        lambda estimator, path: cloudpickle.loads(cloudpickle.dumps(estimator)),
        lambda estimator, path: copy.deepcopy(estimator),
        reloaded,
    ],
    ids=["pickle", "cloudpickle", "deepcopy", "joblib"],
)
def test_a_copy_gives_the_same(estimator, photos, copied, tmp_path):
    estimator.fit(photos.data, photos.target)
    expected = rows_of(estimator, photos.data)
    other = copied(estimator, tmp_path / "estimator.joblib")
    del estimator
    assert_same(rows_of(other, photos.data), expected)


def test_read_only_memory_maps(estimator, photos, tmp_path):
    expected = rows_of(clone(estimator).fit(photos.data, photos.target), photos.data)
    joblib.dump((photos.data, photos.target), tmp_path / "photos")
    X, y = joblib.load(tmp_path / "photos", mmap_mode="r")
    assert isinstance(X, np.memmap) and not X.flags.writeable
    assert_same(rows_of(estimator.fit(X, y), X), expected)


def test_input_is_left_as_it_was(estimator, photos, tmp_path):
    X, y = photos.data.copy(), photos.target.copy()
    estimator.fit(X, y)
    rows_of(estimator, X)
    np.testing.assert_array_equal(X, photos.data)
    np.testing.assert_array_equal(y, photos.target)
    given = list(X)
    before = [(id(image), image.copy()) for image in given]
    rows_of(estimator.fit(given, y), given)
    assert [id(image) for image in given] == [number for number, _ in before]
    for image, (_, content) in zip(given, before, strict=True):
        np.testing.assert_array_equal(image, content)


def test_predicting_changes_no_attribute_and_fit_no_parameter(estimator, photos):
    parameters = {name: repr(value) for name, value in estimator.get_params().items()}
    estimator.fit(photos.data, photos.target)
    steps = getattr(estimator, "named_steps", {"": estimator})
    before = {name: joblib.hash(step.__getstate__()) for name, step in steps.items()}
    rows_of(estimator, photos.data)
    assert {name: joblib.hash(step.__getstate__()) for name, step in steps.items()} == before
    after = {name: repr(value) for name, value in estimator.get_params().items()}
    assert after.keys() == parameters.keys()
    assert all(after[name] == parameters[name] for name in parameters if "__" in name)


def test_threads_share_a_fitted_estimator(estimator, photos):
    estimator.fit(photos.data, photos.target)
    expected = rows_of(estimator, photos.data)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda i: rows_of(estimator, photos.data[i:]), range(8)))
    for i, part in enumerate(parts):
        assert_same(part, expected, slice(i, None))


def test_fits_in_threads_do_not_disturb_each_other(estimator, photos):
    orders = [np.random.default_rng(i).permutation(12)[:10] for i in range(4)]

    def fit(rows):
        fitted = clone(estimator).fit(photos.data[rows], photos.target[rows])
        return rows_of(fitted, photos.data)

    with ThreadPoolExecutor(4) as pool:
        for together, rows in zip(pool.map(fit, orders), orders, strict=True):
            assert_same(together, fit(rows), atol=1e-4)


@pytest.mark.parametrize(
    ("X", "error"),
    [
        ([], ValueError),
        (sparse.csr_array(np.eye(12)), TypeError),
        (np.ones((12, 32, 32), dtype=complex), TypeError),
        (np.ones((12, 3)), ValueError),
        (np.full((12, 1), np.nan), (TypeError, ValueError)),
    ],
    ids=["empty", "sparse", "complex", "numbers", "nan"],
)
def test_what_is_no_image_is_refused(estimator, photos, X, error):
    with pytest.raises(error):
        estimator.fit(X, photos.target[: len(X)] if isinstance(X, list) else photos.target)
    estimator.fit(photos.data, photos.target)
    method = "transform" if hasattr(estimator, "transform") else "predict"
    with pytest.raises(error):
        getattr(estimator, method)(X)


# ---- tables and their names ----


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("layer", [15, "pool"])
def test_set_output(photos, layer, library):
    features = MobileNetV2Features(layer, weights=None, image_size=32)
    expected = features.fit_transform(photos.data)
    frame = clone(features).set_output(transform=library).fit_transform(photos.data)
    assert isinstance(frame, {"pandas": pd.DataFrame, "polars": pl.DataFrame}[library])
    assert list(frame.columns) == list(features.get_feature_names_out())
    np.testing.assert_array_equal(frame.to_numpy(), expected)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_names_of_features_reach_the_classifier(photos, library):
    pipe = clone(fitted_on_images()[-1])
    expected = clone(pipe).fit(photos.data, photos.target).predict_proba(photos.data)
    pipe.set_output(transform=library).fit(photos.data, photos.target)
    np.testing.assert_array_equal(pipe[-1].feature_names_in_, pipe[0].get_feature_names_out())
    np.testing.assert_allclose(pipe.predict_proba(photos.data), expected, atol=1e-6)
    rows = pipe[0].transform(photos.data)
    with pytest.raises(ValueError, match="feature names"):
        pipe[-1].predict(rows[list(rows.columns)[::-1]])


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_another_column_is_refused(frame, tmp_path):
    features = MobileNetV2Features(weights=None, image_size=32)
    features.fit(frame({"original": ["a.jpg"]}))
    with pytest.raises(ValueError, match="feature names"):
        features.transform(frame({"edited": ["a.jpg"]}))
    with pytest.raises(ValueError, match="2 columns"):
        features.transform(frame({"original": ["a.jpg"], "edited": ["a.jpg"]}))


# ---- samplers ----


def test_a_sampler_repeats_itself_and_leaves_its_input(photos):
    X, y = photos.data.copy(), photos.target.copy()
    X.flags.writeable = y.flags.writeable = False
    augmenter = ImageAugmenter(2, random_state=0)
    parameters = augmenter.get_params()
    first, labels = augmenter.fit_resample(X, y)
    for other in (augmenter, clone(augmenter), pickle.loads(pickle.dumps(augmenter))):
        again, same = other.fit_resample(X, y)
        assert list(map(repr, again)) == list(map(repr, first))
        np.testing.assert_array_equal(same, labels)
    assert augmenter.get_params() == parameters


def test_all_parameters_are_documented_and_constrained():
    for estimator in instances():
        cls = type(estimator) if not isinstance(estimator, Blocks) else DeepFakeClassifier
        names = list(inspect.signature(cls).parameters)
        assert set(cls._parameter_constraints) == set(names)
        for name in names:
            assert f"\n    {name} : " in cls.__doc__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            estimator._validate_params()
