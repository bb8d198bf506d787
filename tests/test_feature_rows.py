"""The classifier refuses features of another layer, image size or weights, wherever it can know."""

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline

from sklearn_dfd import (
    AugmentedClassifier,
    DeepFakeClassifier,
    MobileNetV2Features,
    make_deepfake_pipeline,
)
from sklearn_dfd._core.feature_rows import FeatureRows, Origin, origin_of
from sklearn_dfd._core.network.mobilenet import LAST_BLOCK, feature_shape, tail_input_shape

SIDE = 64


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8))


Y = np.arange(8) % 2


def tail(layer, **params):
    return DeepFakeClassifier(
        layer, weights=None, hidden_layer_sizes=(4,), max_epochs=1, random_state=0, **params
    )


def pipeline(features_layer, layer, **params):
    features = MobileNetV2Features(features_layer, weights=None, image_size=SIDE, **params)
    return Pipeline([("features", features), ("classifier", tail(layer))])


def accepted_shapes():
    """Pairs of layers whose rows have a width that the other layer takes, too."""
    for one in [*range(LAST_BLOCK + 1), "pool"]:
        for other in range(LAST_BLOCK + 1):
            width = int(np.prod(feature_shape(one, SIDE)))
            try:
                tail_input_shape(other, width)
            except ValueError:
                continue
            if one != other:
                yield one, other


WRONG = list(accepted_shapes())


def test_widths_alone_tell_few_wrong_pairs():
    assert len(WRONG) > 40


@pytest.mark.parametrize(("features_layer", "layer"), WRONG)
def test_another_layer_is_refused_where_the_width_fits(features_layer, layer):
    width = int(np.prod(feature_shape(features_layer, SIDE)))
    rows = FeatureRows(
        np.zeros((8, width), np.float32), Origin(features_layer, SIDE, fingerprint=None)
    )
    with pytest.raises(ValueError) as raised:
        tail(layer).fit(rows, Y)
    assert f"MobileNetV2Features(layer={features_layer!r})" in str(raised.value)
    assert f"continues after layer={layer!r}" in str(raised.value)


def test_the_hint_of_the_error_works(images):
    with pytest.raises(ValueError, match=r"param_grid=\[\{.*\} for k in \(10, 15\)\]") as raised:
        pipeline(16, 15).fit(images, Y)
    hint = str(raised.value).split("param_grid=")[1].removesuffix(".")
    grid = eval(hint)
    assert grid[1] == {"features__layer": [15], "classifier__layer": [15]}
    search = GridSearchCV(pipeline(16, 15), grid, cv=2, scoring="accuracy", error_score="raise")
    search.fit(images, Y)


def test_in_a_search_a_nonsense_pair_has_no_score(images):
    grid = {"features__layer": [15, 16], "classifier__layer": [15, 16]}
    search = GridSearchCV(pipeline(15, 15), grid, cv=2)
    with pytest.warns(FitFailedWarning, match="4 fits failed"), pytest.warns(UserWarning):
        search.fit(images, Y)
    wrong = [p["features__layer"] != p["classifier__layer"] for p in search.cv_results_["params"]]
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == wrong


@pytest.mark.parametrize(
    "around",
    [
        lambda pipe: AugmentedClassifier(pipe, n_views=1),
        lambda pipe: CalibratedClassifierCV(pipe, cv=2, ensemble=False),
        lambda pipe: make_pipeline(pipe),
    ],
)
def test_another_layer_is_refused_within_meta_estimators(images, around):
    with pytest.raises(ValueError, match="continues after layer=15"):
        around(pipeline(16, 15)).fit(images, Y)


def test_workers_refuse_it_too(images):
    rows = MobileNetV2Features(16, weights=None, image_size=SIDE).fit_transform(images)
    with pytest.raises(ValueError, match="continues after layer=15"):
        cross_val_score(tail(15), rows, Y, cv=2, n_jobs=2, error_score="raise")


def test_pool_takes_rows_of_any_kind(images):
    pipeline(15, "pool").fit(images, Y).predict(images)


@pytest.mark.parametrize("param", [{"image_size": 80}, {"layer": 16}])
def test_what_changed_after_fit_is_named(images, param):
    pipe = pipeline("pool", "pool").fit(images, Y)
    pipe[0].set_params(**param)
    if "layer" in param:
        pipe[0].fit(images)
    name, value = next(iter(param.items()))
    with pytest.raises(ValueError, match=rf"with {name} {value}, but .* was fitted on features"):
        pipe.predict(images)


def test_image_size_that_changed_is_found_after_loading(images):
    loaded = pickle.loads(pickle.dumps(pipeline("pool", "pool").fit(images, Y)))
    loaded.set_params(features__image_size=32)
    with pytest.raises(ValueError, match=r"image_size 32, but .* made with 64"):
        loaded.predict_proba(images)


def test_weights_of_two_networks_are_refused(images, weights_file):
    pipe = pipeline(15, 15).set_params(features__weights=weights_file)
    with pytest.raises(ValueError, match="other weights than weights=None"):
        pipe.fit(images, Y)
    pipe.set_params(classifier__weights=weights_file).fit(images, Y)
    pipe[0].set_params(weights=None).fit(images)
    with pytest.raises(ValueError, match="with weights of the fingerprint"):
        pipe.predict(images)


def test_fitting_again_takes_the_new_layer(images):
    pipe = pipeline(15, 15).fit(images, Y)
    pipe.set_params(features__layer=16, classifier__layer=16).fit(images, Y).predict(images)
    warm = pipe.set_params(classifier__warm_start=True, features__layer=17)
    with pytest.raises(ValueError, match="continues after layer=16"):
        warm.fit(images, Y)


def test_column_names_tell_the_layer(images):
    features = MobileNetV2Features(16, weights=None, image_size=SIDE).set_output(transform="pandas")
    table = features.fit_transform(images)
    with pytest.raises(ValueError, match="continues after layer=15"):
        tail(15).fit(table, Y)
    assert origin_of(table.iloc[2:4]) == Origin(16, None, None)
    assert origin_of(pd.DataFrame({"a": [1.0]})) is None


def rows_of():
    return FeatureRows(np.arange(12, dtype=np.float32).reshape(4, 3), Origin(15, SIDE, "f"))


@pytest.mark.parametrize(
    "select",
    [
        lambda X: X[1:3],
        lambda X: X[[2, 0]],
        lambda X: X[np.array([True, False, True, True])],
        lambda X: X.copy(),
        lambda X: pickle.loads(pickle.dumps(X)),
        lambda X: in_a_worker(X),
    ],
)
def test_rows_keep_their_origin(select):
    selected = select(rows_of())
    assert origin_of(selected) == Origin(15, SIDE, "f")


def in_a_worker(X):
    """Send rows to a process of joblib, which gets them as a memory map."""
    parallel = joblib.Parallel(n_jobs=2, max_nbytes=0)
    return parallel(joblib.delayed(first_rows)(X) for _ in range(2))[0]


def first_rows(X):
    assert isinstance(X.base, np.memmap) or isinstance(X.base.base, np.memmap)
    return X[:2]


@pytest.mark.parametrize(
    "compute",
    [
        lambda X: X * 2,
        lambda X: X - X.mean(axis=0),
        lambda X: np.log1p(X),
        lambda X: np.asarray(X),
        lambda X: X.astype(np.float64) @ np.eye(3),
    ],
)
def test_what_is_computed_from_rows_has_no_origin(compute):
    assert type(compute(rows_of())) is np.ndarray


def test_single_numbers_are_plain():
    assert isinstance(rows_of().sum(), np.float32)
    assert isinstance(rows_of()[0, 0], np.float32)
    assert torch.from_numpy(rows_of()).shape == (4, 3)


def test_a_clone_knows_nothing_of_the_origin(images):
    pipe = make_deepfake_pipeline("pool", weights=None, image_size=SIDE, max_epochs=1)
    fitted = pipe.fit(images, Y)
    clone(fitted).set_params(features__image_size=32).fit(images, Y).predict(images)
