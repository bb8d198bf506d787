"""Intervals by weights equal, to rounding, those of the metric called for each resample."""

import warnings
from functools import partial

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from sklearn_dfd._core.bootstrap import auc_lost, weighted_score
from sklearn_dfd.metrics import bootstrap_interval, equal_error_rate, tpr_at_fpr

LABELS = {"0 and 1": [0, 1], "signs": [-1, 1], "bool": [False, True], "words": ["a", "b"]}
METRICS = {
    "roc_auc": roc_auc_score,
    "accuracy": accuracy_score,
    "eer": equal_error_rate,
    "tpr": tpr_at_fpr,
    "tpr at 0.2": partial(tpr_at_fpr, max_fpr=0.2),
    "partial": partial(roc_auc_score),
}


def samples(n, labels, *, digits, seed=0):
    """Labels that scores tell imperfectly; with few digits many scores are equal."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2, n)
    codes[:2] = 0, 1
    scores = np.round(0.4 * codes + 0.5 * rng.normal(size=n), digits)
    return np.array(labels)[codes], scores


def by_each_resample(metric, *args, **params):
    """The interval without any shortcut: nothing is known of a new function."""
    return bootstrap_interval(lambda y, score: metric(y, score), *args, **params)


@pytest.mark.parametrize(
    ("labels", "n", "digits"),
    [("0 and 1", 200, 1), ("0 and 1", 200, 9), ("signs", 12, 0), ("bool", 12, 9), ("words", 40, 1)],
)
@pytest.mark.parametrize("metric", METRICS)
def test_the_interval_is_that_of_the_metric_itself(metric, labels, n, digits):
    y, score = samples(n, LABELS[labels], digits=digits)
    if metric == "accuracy":
        score = np.array(LABELS[labels])[(score > 0.2).astype(int)]
    metric = METRICS[metric]
    if labels == "words" and getattr(metric, "func", metric) in (equal_error_rate, tpr_at_fpr):
        metric = partial(metric, pos_label="a")
    rng = np.random.default_rng(1)
    for params in (
        {},
        {"groups": rng.integers(0, n // 3, n)},
        {"folds": np.arange(n) % 2},
        {"groups": np.arange(n) // 2, "folds": np.arange(n) // 2 % 2, "confidence_level": 0.6},
    ):
        options = {"n_resamples": 15, "random_state": 0, **params}
        found = bootstrap_interval(metric, y, score, **options)
        np.testing.assert_allclose(
            found, by_each_resample(metric, y, score, **options), rtol=0, atol=1e-12
        )


def test_many_resamples_are_scored_block_by_block():
    y, score = samples(5000, [0, 1], digits=2)
    options = {"n_resamples": 10, "random_state": 0}
    found = bootstrap_interval(roc_auc_score, y, score, **options)
    wanted = by_each_resample(roc_auc_score, y, score, **options)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


def test_the_difference_of_two_curves():
    y, first = samples(200, [0, 1], digits=1)
    both = np.stack([first, samples(200, [0, 1], digits=1, seed=1)[1]], axis=1)
    options = {"n_resamples": 15, "random_state": 0, "groups": np.arange(200) // 3}
    found = bootstrap_interval(auc_lost, y, both, **options)
    wanted = by_each_resample(auc_lost, y, both, **options)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
    assert found[0] < roc_auc_score(y, both[:, 0]) - roc_auc_score(y, both[:, 1]) < found[1]


@pytest.mark.parametrize("n_classes", [1, 3])
def test_accuracy_of_any_number_of_classes(n_classes):
    rng = np.random.default_rng(0)
    y, predicted = rng.integers(0, n_classes, 60), rng.integers(0, 3, 60)
    options = {"n_resamples": 15, "random_state": 0}
    found = bootstrap_interval(accuracy_score, y, predicted, **options)
    np.testing.assert_allclose(
        found, by_each_resample(accuracy_score, y, predicted, **options), rtol=0, atol=1e-12
    )


Y, SCORE = samples(40, [0, 1], digits=3)
HAS_NAN = np.where(np.arange(40) == 7, np.nan, SCORE)


@pytest.mark.parametrize(
    ("metric", "y", "score"),
    [
        (roc_auc_score, Y, HAS_NAN),
        (equal_error_rate, Y, HAS_NAN),
        (accuracy_score, Y, SCORE),
        (tpr_at_fpr, np.array(["a", "b"])[Y], SCORE),
        (partial(tpr_at_fpr, pos_label="c"), np.array(["a", "b"])[Y], SCORE),
        (partial(roc_auc_score, unknown=1), Y, SCORE),
        (roc_auc_score, Y + np.arange(40) % 2, SCORE),
        (roc_auc_score, Y, np.stack([SCORE, SCORE], axis=1)),
    ],
)
def test_what_the_metric_refuses_is_refused_in_its_own_words(metric, y, score):
    with pytest.raises((ValueError, TypeError)) as wanted:
        by_each_resample(metric, y, score, n_resamples=50, random_state=0)
    with pytest.raises(type(wanted.value)) as found:
        bootstrap_interval(metric, y, score, n_resamples=50, random_state=0)
    assert str(found.value) == str(wanted.value)


def test_a_fold_of_one_class_is_left_to_the_metric():
    y, folds = np.arange(20) // 10, np.arange(20) // 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        low, high = bootstrap_interval(
            roc_auc_score, y, np.arange(20.0), folds=folds, n_resamples=5, random_state=0
        )
    assert np.isnan(low) and np.isnan(high)


def test_any_other_metric_is_called_for_each_resample():
    calls = []

    def counted(y, score):
        calls.append(len(y))
        return 0.5

    bootstrap_interval(counted, Y, SCORE, n_resamples=7, random_state=0)
    assert calls == [40] * 7
    for metric in (log_loss, partial(roc_auc_score, max_fpr=0.5), partial(roc_auc_score, Y)):
        assert weighted_score(metric, Y, SCORE, {}) is None
    assert weighted_score(roc_auc_score, Y, SCORE, {}) is not None


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_scores_may_be_whole_numbers(dtype):
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    percent = np.clip(rng.normal(40 + 20 * y, 30), 0, 100).round()
    options = {"n_resamples": 50, "random_state": 0}
    expected = bootstrap_interval(equal_error_rate, y, percent, **options)
    assert bootstrap_interval(equal_error_rate, y, percent.astype(dtype), **options) == expected
