"""Groups, weights and X_val reach the detector inside scikit-learn's own estimators."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_validate,
)
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_dfd import DeepFakeClassifier, MobileNetV2Features, make_deepfake_pipeline
from sklearn_dfd.datasets import make_spliced_photos

METADATA = ("sample_weight", "groups", "X_val", "y_val")
N_VAL = 8


@pytest.fixture(scope="module")
def photos():
    return make_spliced_photos(48, image_size=32, random_state=0)


@pytest.fixture(scope="module")
def X(photos):
    return photos.data


@pytest.fixture(scope="module")
def weight(photos):
    return np.random.default_rng(0).integers(1, 4, len(photos.data)).astype(float)


@pytest.fixture
def pipe():
    return make_deepfake_pipeline(
        weights=None, image_size=32, max_epochs=1, hidden_layer_sizes=(8,), lr=1e-3, random_state=0
    )


@pytest.fixture
def routing():
    with config_context(enable_metadata_routing=True):
        yield


@pytest.fixture
def routed(pipe, routing):
    """Return the pipeline, whose classifier requests all metadata that it can be given."""
    pipe[-1].set_fit_request(sample_weight=True, groups=True)
    pipe[-1].set_score_request(sample_weight=True)
    return pipe


def assert_received(received, n_fits, *names):
    """Assert that each fit was given these values, row by row, and nothing else."""
    assert len(received) == n_fits
    for call in received:
        assert {name for name in METADATA if call.get(name) is not None} == set(names)
        for name in set(names) - {"X_val", "y_val"}:
            assert len(call[name]) == call["n_rows"]
        if "X_val" in names:
            assert len(call["X_val"]) == len(call["y_val"]) == N_VAL


# ---- all of them at once, through each of scikit-learn's own ----


def halving(estimator, cv):
    """Try three candidates for one epoch, and the best of them for three."""
    return HalvingGridSearchCV(
        estimator,
        {"classifier__lr": [1e-4, 1e-3, 1e-2]},
        resource="classifier__max_epochs",
        max_resources=3,
        factor=3,
        cv=cv,
    )


@pytest.fixture
def quick(pipe):
    return pipe.set_params(features__layer="pool", classifier__layer="pool")


LR = {"classifier__lr": [1e-4, 1e-3]}
TWO, THREE = GroupKFold(2), GroupKFold(3)


@pytest.mark.parametrize(
    ("fit", "n_fits"),
    [
        (lambda pipe, X, y, metadata: pipe.fit(X, y, **metadata), 1),
        (lambda pipe, X, y, metadata: GridSearchCV(pipe, LR, cv=TWO).fit(X, y, **metadata), 5),
        (lambda pipe, X, y, metadata: cross_validate(pipe, X, y, cv=TWO, params=metadata), 2),
        (
            lambda pipe, X, y, metadata: cross_validate(
                GridSearchCV(pipe, LR, cv=TWO), X, y, cv=THREE, params=metadata
            ),
            15,
        ),
        (lambda pipe, X, y, metadata: halving(pipe, TWO).fit(X, y, **metadata), 9),
        (
            lambda pipe, X, y, metadata: CalibratedClassifierCV(pipe, cv=TWO).fit(X, y, **metadata),
            2,
        ),
        (
            lambda pipe, X, y, metadata: VotingClassifier(
                [("one", pipe), ("other", pipe)], voting="soft"
            ).fit(X, y, **metadata),
            2,
        ),
        (
            lambda pipe, X, y, metadata: BaggingClassifier(pipe[-1], n_estimators=2).fit(
                pipe[0].fit_transform(X),
                y,
                **{**metadata, "X_val": pipe[0].transform(metadata["X_val"])},
            ),
            2,
        ),
    ],
    ids=["pipeline", "grid", "folds", "nested", "halving", "calibration", "voting", "bagging"],
)
def test_all_metadata_with_routing(quick, photos, X, weight, received, routing, fit, n_fits):
    """Validation images are transformed to features on their way."""
    quick.set_params(transform_input=["X_val"])
    quick[-1].set_fit_request(**dict.fromkeys(METADATA, True)).set_score_request(sample_weight=True)
    metadata = {
        "sample_weight": weight,
        "groups": photos.groups,
        "X_val": X[:N_VAL],
        "y_val": photos.target[:N_VAL],
    }
    fit(quick, X, photos.target, metadata)
    assert_received(received, n_fits, *METADATA)
    assert {call["X_val"].shape for call in received} == {(N_VAL, 1280)}


def test_a_final_estimator_gets_weights_and_groups(quick, photos, X, weight, received, routing):
    quick[-1].set_fit_request(sample_weight=True, groups=True)
    last = DeepFakeClassifier("pool", hidden_layer_sizes=(4,), max_epochs=1, random_state=0)
    last.set_fit_request(sample_weight=True, groups=True)
    splits = list(TWO.split(X, photos.target, photos.groups))
    stacking = StackingClassifier([("pool", quick)], cv=splits, final_estimator=last)
    stacking.fit(X, photos.target, sample_weight=weight, groups=photos.groups)
    assert_received(received, 1 + 2 + 1, "sample_weight", "groups")
    assert stacking.final_estimator_.n_features_in_ == 1 and stacking.predict(X).shape == (48,)


@pytest.mark.parametrize(
    ("fit", "n_fits", "names"),
    [
        (lambda pipe, X, y, groups, given: pipe.fit(X, y, **given), 1, METADATA),
        (
            lambda pipe, X, y, groups, given: GridSearchCV(pipe, LR, cv=TWO).fit(
                X, y, groups=groups, **given
            ),
            5,
            METADATA,
        ),
        (
            lambda pipe, X, y, groups, given: cross_validate(
                pipe, X, y, groups=groups, cv=TWO, params=given
            ),
            2,
            METADATA,
        ),
        (
            # Three times: for the outer folds, for the inner folds, and for the classifier.
            lambda pipe, X, y, groups, given: cross_validate(
                GridSearchCV(pipe, LR, cv=TWO),
                X,
                y,
                groups=groups,
                cv=THREE,
                params={"groups": groups, **given},
            ),
            15,
            METADATA,
        ),
        (
            lambda pipe, X, y, groups, given: halving(pipe, TWO).fit(X, y, groups=groups, **given),
            9,
            METADATA,
        ),
        (
            # It takes nothing of another length than X, and no groups for its folds.
            lambda pipe, X, y, groups, given: CalibratedClassifierCV(
                pipe, cv=list(TWO.split(X, y, groups))
            ).fit(X, y, **given),
            2,
            ("sample_weight", "groups"),
        ),
    ],
    ids=["pipeline", "grid", "folds", "nested", "halving", "calibration"],
)
def test_all_metadata_without_routing(quick, photos, X, weight, received, fit, n_fits, names):
    """Metadata goes by the name of the step; validation rows are features."""
    metadata = {
        "sample_weight": weight,
        "groups": photos.groups,
        "X_val": clone(quick[0]).fit_transform(X[:N_VAL]),
        "y_val": photos.target[:N_VAL],
    }
    given = {f"classifier__{name}": metadata[name] for name in names}
    fit(quick, X, photos.target, photos.groups, given)
    assert_received(received, n_fits, *names)


# ---- in a Pipeline ----


def test_pipeline_without_routing(pipe, photos, X, weight, received):
    X_val = clone(pipe[0]).fit_transform(X[:8])
    pipe.fit(
        X[8:],
        photos.target[8:],
        classifier__sample_weight=weight[8:],
        classifier__groups=photos.groups[8:],
        classifier__X_val=X_val,
        classifier__y_val=photos.target[:8],
    )
    assert_received(received, 1, *METADATA)
    assert "valid_loss" in pipe[-1].history_[0]


def test_pipeline_with_routing_transforms_the_validation_images(
    routed, photos, X, weight, received
):
    routed.set_params(transform_input=["X_val"])
    routed[-1].set_fit_request(X_val=True, y_val=True, sample_weight=True, groups=True)
    routed.fit(
        X[8:],
        photos.target[8:],
        sample_weight=weight[8:],
        groups=photos.groups[8:],
        X_val=X[:8],
        y_val=photos.target[:8],
    )
    assert_received(received, 1, *METADATA)
    np.testing.assert_allclose(received[0]["X_val"], routed[0].transform(X[:8]))
    accuracy = routed.score(X[:8], photos.target[:8])
    assert routed[-1].history_[0]["valid_accuracy"] == pytest.approx(accuracy)


def test_images_as_validation_rows_are_refused(pipe, photos, X):
    with pytest.raises(ValueError, match=r"X_val is an array of shape .* takes rows of features"):
        pipe.fit(X, photos.target, classifier__X_val=X[:8], classifier__y_val=photos.target[:8])


def test_cross_validation_scores_with_weights(routed, photos, X, weight, received):
    folds = cross_validate(
        routed,
        X,
        photos.target,
        cv=GroupKFold(2),
        params={"sample_weight": weight, "groups": photos.groups},
        return_estimator=True,
        return_indices=True,
    )
    assert_received(received, 2, "sample_weight", "groups")
    for fitted, test, score in zip(
        folds["estimator"], folds["indices"]["test"], folds["test_score"], strict=True
    ):
        right = fitted.predict(X[test]) == photos.target[test]
        assert score == pytest.approx(np.average(right, weights=weight[test]))


# ---- searches ----


def test_nested_search(routed, photos, X, weight, received):
    search = GridSearchCV(routed, {"classifier__lr": [1e-4, 1e-3]}, cv=GroupKFold(2))
    params = {"sample_weight": weight, "groups": photos.groups}
    folds = cross_validate(
        search, X, photos.target, cv=GroupKFold(3), params=params, return_estimator=True,
        return_indices=True,
    )  # fmt: skip
    assert_received(received, 3 * (2 * 2 + 1), "sample_weight", "groups")
    train = folds["indices"]["train"][0]
    best = folds["estimator"][0]
    by_hand = clone(routed).set_params(**best.best_params_)
    by_hand.fit(X[train], photos.target[train], sample_weight=weight[train])
    np.testing.assert_allclose(by_hand.predict_proba(X), best.predict_proba(X), atol=1e-6)


def test_halving_over_epochs(routed, photos, X, weight, received):
    search = halving(routed, GroupKFold(2))
    search.fit(X, photos.target, sample_weight=weight, groups=photos.groups)
    assert search.n_iterations_ == 2 and search.best_estimator_[-1].n_iter_ == 3
    assert_received(received, 2 * 3 + 2 * 1 + 1, "sample_weight", "groups")


def test_threshold(routed, photos, X, weight, received):
    scorer = get_scorer("balanced_accuracy").set_score_request(sample_weight=True)
    tuned = TunedThresholdClassifierCV(routed, cv=GroupKFold(2), scoring=scorer)
    tuned.fit(X, photos.target, sample_weight=weight, groups=photos.groups)
    assert_received(received, 3, "sample_weight", "groups")
    fake = tuned.estimator_.predict_proba(X)[:, 1] >= tuned.best_threshold_
    np.testing.assert_array_equal(tuned.predict(X), tuned.classes_[fake.astype(int)])


# ---- ensembles ----


def test_calibration(routed, photos, X, weight, received):
    calibrated = CalibratedClassifierCV(routed, cv=GroupKFold(2))
    calibrated.fit(X, photos.target, sample_weight=weight, groups=photos.groups)
    assert_received(received, 2, "sample_weight", "groups")
    assert calibrated.predict_proba(X).shape == (48, 2)


def test_bagging_of_heads(photos, X, weight, received, routing):
    """X must be a table there: of features, or with a column of paths as in the next test."""
    rows = MobileNetV2Features("pool", weights=None, image_size=32).fit_transform(X)
    head = DeepFakeClassifier("pool", hidden_layer_sizes=(8,), max_epochs=1)
    head.set_fit_request(sample_weight=True)
    bagging = BaggingClassifier(head, n_estimators=3, random_state=0)
    bagging.fit(rows, photos.target, sample_weight=weight)
    assert_received(received, 3, "sample_weight")
    mean = np.mean([fitted.predict_proba(rows) for fitted in bagging.estimators_], axis=0)
    np.testing.assert_allclose(bagging.predict_proba(rows), mean, atol=1e-6)


def test_bagging_of_detectors(pipe, table):
    """A table with one column of paths is sampled; a list of images is not a table."""
    X = table[["path"]]
    bagging = BaggingClassifier(pipe, n_estimators=2, max_samples=24, random_state=0)
    bagging.fit(X, table["fake"])
    first, second = (fitted.predict_proba(X.to_numpy()) for fitted in bagging.estimators_)
    assert not np.allclose(first, second)
    np.testing.assert_allclose(bagging.predict_proba(X), (first + second) / 2, atol=1e-6)


def test_voting(routed, photos, X, weight, received):
    early = clone(routed).set_params(features__layer=10, classifier__layer=10)
    voting = VotingClassifier([("late", routed), ("early", early)], voting="soft")
    voting.fit(X, photos.target, sample_weight=weight, groups=photos.groups)
    assert_received(received, 2, "sample_weight", "groups")
    mean = np.mean([fitted.predict_proba(X) for fitted in voting.estimators_], axis=0)
    np.testing.assert_allclose(voting.predict_proba(X), mean, atol=1e-6)


def test_stacking(routed, photos, X, weight, received):
    """No groups are passed: scikit-learn would hand them to the final estimator too."""
    pooled = make_pipeline(
        MobileNetV2Features("pool", weights=None, image_size=32),
        LogisticRegression(max_iter=1000).set_fit_request(sample_weight=True),
    )
    splits = list(GroupKFold(2).split(X, photos.target, photos.groups))
    stacking = StackingClassifier([("tail", routed), ("pool", pooled)], cv=splits)
    stacking.fit(X, photos.target, sample_weight=weight)
    assert_received(received, 3, "sample_weight")
    assert stacking.transform(X).shape == (48, 2)
    assert stacking.predict(X).shape == (48,)


def test_a_frozen_detector_is_not_fitted_again(pipe, photos, X, received):
    pipe.fit(X[:24], photos.target[:24])
    expected = pipe.predict_proba(X)
    frozen = FrozenEstimator(pipe)
    tuned = TunedThresholdClassifierCV(frozen, cv="prefit", refit=False)
    tuned.fit(X[24:], photos.target[24:])
    stacking = StackingClassifier([("frozen", frozen)], cv="prefit").fit(X[24:], photos.target[24:])
    np.testing.assert_allclose(stacking.transform(X)[:, 0], expected[:, 1], atol=1e-6)
    features = make_pipeline(
        FrozenEstimator(pipe[0]), DeepFakeClassifier(weights=None, max_epochs=1)
    )
    cross_val_predict(features, X, photos.target, cv=2)
    assert len(received) == 1 + 2


# ---- a table with a column of paths ----


@pytest.fixture(scope="module")
def table(photos, tmp_path_factory):
    directory = tmp_path_factory.mktemp("photos")
    paths = [str(directory / f"{i}.png") for i in range(len(photos.data))]
    for path, image in zip(paths, photos.data, strict=True):
        Image.fromarray(image).save(path)
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "path": paths,
            "followers": rng.integers(0, 10_000, len(paths)),
            "age": rng.normal(30, 9, len(paths)),
            "fake": photos.target,
        }
    )


def test_images_beside_numbers(table, photos, received):
    columns = ColumnTransformer(
        [
            ("photo", MobileNetV2Features("pool", weights=None, image_size=32), ["path"]),
            ("numbers", StandardScaler(), ["followers", "age"]),
        ]
    )
    model = Pipeline(
        [
            ("columns", columns),
            ("classifier", DeepFakeClassifier("pool", max_epochs=1, random_state=0)),
        ]
    )
    search = GridSearchCV(
        model.set_output(transform="pandas"),
        {"columns__photo__layer": ["pool"], "classifier__lr": [1e-4, 1e-3]},
        cv=GroupKFold(2),
    )
    search.fit(table, table["fake"], groups=photos.groups)
    names = search.best_estimator_[-1].feature_names_in_
    assert list(names[[0, -2, -1]]) == [
        "photo__mobilenetv2_pool_0", "numbers__followers", "numbers__age",
    ]  # fmt: skip
    shuffled = table.sample(frac=1, random_state=0)[["age", "path", "followers"]]
    expected = search.predict_proba(table)[shuffled.index]
    np.testing.assert_allclose(search.predict_proba(shuffled), expected, atol=1e-6)


def test_a_detector_of_one_column_of_a_table(pipe, table):
    paths = make_column_transformer((clone(pipe[0]), "path"))
    whole = Pipeline([("paths", paths), ("classifier", clone(pipe[-1]))])
    whole.fit(table, table["fake"])
    pipe.fit(table["path"], table["fake"])
    np.testing.assert_allclose(whole.predict_proba(table), pipe.predict_proba(table["path"]))


def test_two_layers_side_by_side(photos, X):
    union = FeatureUnion(
        [
            (str(layer), MobileNetV2Features(layer, weights=None, image_size=32))
            for layer in (17, 18)
        ]
    )
    rows = union.fit_transform(X)
    assert rows.shape == (48, 320 + 1280)
    assert union.get_feature_names_out()[320] == "18__mobilenetv2_block18_0"
    clf = DeepFakeClassifier("pool", max_epochs=1).fit(rows, photos.target)
    assert clf.predict(rows).shape == (48,)
