"""Error rates against their definitions, and intervals against theoretical ones."""

import pickle

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, get_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.naive_bayes import GaussianNB

from sklearn_dfd.metrics import (
    bootstrap_interval,
    equal_error_rate,
    make_neg_equal_error_rate_scorer,
    make_tpr_at_fpr_scorer,
    neg_equal_error_rate_scorer,
    tpr_at_fpr,
    tpr_at_fpr_scorer,
)

CURVE_METRICS = [equal_error_rate, tpr_at_fpr]


@pytest.fixture
def judged():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 500)
    return y, np.round(y + rng.normal(0, 1, 500), 1)  # rounded: with ties


def rates(y, score, threshold):
    """False positive and false negative rate, counted."""
    called = score >= threshold
    return called[y == 0].mean(), (~called)[y == 1].mean()


def test_equal_error_rate_lies_between_the_rates_of_neighbouring_thresholds(judged):
    y, score = judged
    eer = equal_error_rate(y, score)
    below = [max(rates(y, score, t)) for t in np.unique(score)]
    above = [min(rates(y, score, t)) for t in np.unique(score)]
    assert max(above) <= eer <= min(below)
    assert min(below) - max(above) < 0.05  # not true of any number


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ([0, 1, 2, 3], 0.0),
        ([3, 2, 1, 0], 1.0),
        ([0, 0, 0, 0], 0.5),  # one step from corner to corner
        ([0, 1, 1, 2], 0.25),  # half of the tie's step
        ([0, 2, 1, 3], 0.5),
    ],
)
def test_equal_error_rate_by_hand(score, expected):
    assert equal_error_rate([0, 0, 1, 1], score) == expected


def test_the_equal_error_rate_knows_no_favourite_class(judged):
    y, score = judged
    assert equal_error_rate(1 - y, -score) == pytest.approx(equal_error_rate(y, score), abs=1e-12)


@pytest.mark.parametrize("max_fpr", [0, 0.004, 0.01, 0.1, 0.37, 1])
def test_tpr_at_fpr_is_that_of_the_best_threshold_there_is(judged, max_fpr):
    y, score = judged
    allowed = [1 - fnr for fpr, fnr in (rates(y, score, t) for t in score) if fpr <= max_fpr]
    assert tpr_at_fpr(y, score, max_fpr=max_fpr) == pytest.approx(max(allowed, default=0))


def test_tpr_at_fpr_is_exact_where_the_rate_is_a_fraction():
    y, score = np.repeat([0, 1], 10), np.r_[np.arange(10), 8.5, np.full(9, 7.5)]
    assert tpr_at_fpr(y, score, max_fpr=0.1) == 0.1
    assert tpr_at_fpr(y, score, max_fpr=0.2) == 1


@pytest.mark.parametrize("metric", CURVE_METRICS)
def test_labels_of_any_type(metric, judged):
    y, score = judged
    expected = metric(y, score)
    assert metric(y == 1, score) == expected
    assert metric(list(y * 2 - 1), list(score)) == expected
    assert metric(np.array(["real", "fake"])[y], score, pos_label="fake") == expected
    assert metric(np.array(["fake", "real"])[y], score, pos_label="real") == expected
    assert metric(y + 1, score, pos_label=2) == expected
    assert metric(1 - y, score, pos_label=0) == expected
    assert metric(np.array(["real", "fake"])[y], score, pos_label="real") != expected


@pytest.mark.parametrize("metric", CURVE_METRICS)
@pytest.mark.parametrize("labels", [["fake", "real"], ["0", "1"], [1, 2], [0, 2], [-1, 0]])
def test_labels_that_do_not_say_which_is_meant_are_an_error(metric, labels, judged):
    """As in scikit-learn's own metrics of one class."""
    y, score = judged
    y = np.array(labels)[y]
    with pytest.raises(ValueError, match="pos_label must be given for the classes") as error:
        metric(y, score)
    message = str(error.value)
    assert str(labels) in message
    direct, scorer = message.split("for example, ")[1].removesuffix(".").split(" or scoring=")
    names = {**globals(), "y_true": y, "y_score": score}
    assert 0 <= eval(direct, names) <= 1
    estimator = LogisticRegression().fit(score[:, None], y)
    assert abs(eval(scorer, names)(estimator, score[:, None], y)) == pytest.approx(
        metric(y, -estimator.decision_function(score[:, None]), pos_label=labels[0])
    )


@pytest.mark.parametrize("metric", CURVE_METRICS)
def test_weights_are_repetitions(metric, judged):
    y, score = judged
    weight = np.random.default_rng(1).integers(0, 4, len(y))
    expected = metric(np.repeat(y, weight), np.repeat(score, weight))
    assert metric(y, score, sample_weight=weight) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", CURVE_METRICS)
@pytest.mark.parametrize("y", [[0, 0, 0], [1, 1, 1], [-1, -1, -1], [True] * 3, [False] * 3])
def test_one_class_has_no_curve(metric, y):
    with pytest.warns(UndefinedMetricWarning):
        assert np.isnan(metric(y, [0.1, 0.2, 0.3]))


@pytest.mark.parametrize("metric", CURVE_METRICS)
@pytest.mark.parametrize(
    ("y", "score", "options", "message"),
    [
        ([0, 1, 2], [0.1, 0.2, 0.3], {}, "multiclass format is not supported"),
        ([0, 1, 1], [0.1, np.nan, 0.3], {}, "contains NaN"),
        ([], [], {}, "y_true holds no samples"),
        ([0, 1, 1], [0.1, np.inf, 0.3], {}, "contains infinity"),
        ([0, np.nan, 1], [0.1, 0.2, 0.3], {}, "contains NaN"),
        ([0, 1, 1], [0.1, 0.2], {}, "inconsistent numbers of samples"),
        ([0, 1, 1], np.zeros((3, 2)), {}, r"shape \(3, 2\)"),
        (["real", "fake"], [0, 1], {"pos_label": "Fake"}, "'Fake' is not one of .*'fake', 'real'"),
        ([0, 1, 1], [0.1, 0.2, 0.3], {"pos_label": np.int64(2)}, r"pos_label=2 is not one of"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # of scikit-learn, on NaN
def test_what_is_no_curve_is_refused(metric, y, score, options, message):
    with pytest.raises(ValueError, match=message):
        metric(y, score, **options)


def test_max_fpr_is_a_rate():
    with pytest.raises(ValueError, match="max_fpr"):
        tpr_at_fpr([0, 1], [0, 1], max_fpr=1.5)


@pytest.mark.parametrize("estimator", [LogisticRegression(), GaussianNB()])
@pytest.mark.parametrize("labels", [(0, 1), (-1, 1), (False, True)])
def test_scorers(estimator, labels):
    """They work with a decision function, and with probabilities alone."""
    X, y = make_classification(300, flip_y=0.3, random_state=0)
    y = np.array(labels)[y]
    estimator.fit(X, y)
    score = estimator.predict_proba(X)[:, 1]
    assert neg_equal_error_rate_scorer(estimator, X, y) == -equal_error_rate(y, score)
    assert tpr_at_fpr_scorer(estimator, X, y) == tpr_at_fpr(y, score)
    scorer = pickle.loads(pickle.dumps(neg_equal_error_rate_scorer))
    assert (cross_val_score(estimator, X, y, scoring=scorer) < 0).all()


@pytest.mark.parametrize("estimator", [LogisticRegression(), GaussianNB()])
@pytest.mark.parametrize("column", [0, 1])
def test_scorers_for_labels_in_words(estimator, column):
    X, y = make_classification(300, flip_y=0.3, weights=[0.7], random_state=0)
    y = np.array(["fake", "real"])[y]
    estimator.fit(X, y)
    label, score = estimator.classes_[column], estimator.predict_proba(X)[:, column]
    eer = equal_error_rate(y, score, pos_label=label)
    assert make_neg_equal_error_rate_scorer(pos_label=label)(estimator, X, y) == -eer
    for max_fpr in (0.01, 0.2):
        scorer = pickle.loads(
            pickle.dumps(make_tpr_at_fpr_scorer(max_fpr=max_fpr, pos_label=label))
        )
        expected = tpr_at_fpr(y == label, score, max_fpr=max_fpr)
        assert scorer(estimator, X, y) == expected
        assert expected == tpr_at_fpr(y, score, max_fpr=max_fpr, pos_label=label)
    assert np.isfinite(cross_val_score(estimator, X, y, scoring=scorer)).all()


@pytest.mark.parametrize("scorer", [neg_equal_error_rate_scorer, tpr_at_fpr_scorer])
def test_scorers_refuse_labels_in_words_as_those_of_sklearn_do(scorer):
    X, y = make_classification(100, random_state=0)
    y = np.array(["fake", "real"])[y]
    estimator = LogisticRegression().fit(X, y)
    for each in (get_scorer("f1"), scorer):
        with pytest.raises(ValueError, match="pos_label"):
            each(estimator, X, y)
    with pytest.raises(ValueError, match=r"make_\w+_scorer\(pos_label='fake'\)"):
        scorer(estimator, X, y)


def test_a_search_takes_the_candidate_with_fewer_errors():
    X, y = make_classification(300, flip_y=0.1, random_state=0)
    search = GridSearchCV(
        LogisticRegression(),
        {"C": [1e-9, 1]},
        scoring={"eer": neg_equal_error_rate_scorer, "tpr": tpr_at_fpr_scorer},
        refit="eer",
    ).fit(X, y)
    assert search.best_index_ == np.argmax(search.cv_results_["mean_test_eer"])
    assert -0.5 < search.best_score_ < 0


def test_the_interval_of_an_accuracy_is_that_of_a_share():
    """For independent samples it is the binomial interval."""
    y, label = np.zeros(400), np.repeat([0, 1], [320, 80])
    low, high = bootstrap_interval(accuracy_score, y, label, n_resamples=2000, random_state=0)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    np.testing.assert_allclose([low, high], [0.8 - half, 0.8 + half], atol=0.006)


def test_copies_in_a_group_add_no_certainty(judged):
    y, score = (values[:100] for values in judged)
    groups = np.tile([f"person {i}" for i in range(100)], 5)
    options = {"random_state": 0, "n_resamples": 200}
    interval = bootstrap_interval(roc_auc_score, y, score, groups=groups[:100], **options)
    copies = np.tile(y, 5), np.tile(score, 5)
    assert bootstrap_interval(roc_auc_score, *copies, groups=groups, **options) == interval
    alone = bootstrap_interval(roc_auc_score, *copies, **options)
    assert alone[1] - alone[0] < 0.6 * (interval[1] - interval[0])


def test_a_wider_interval_is_surer(judged):
    options = {"random_state": 0, "n_resamples": 200}
    low, high = bootstrap_interval(roc_auc_score, *judged, **options)
    lower, higher = bootstrap_interval(roc_auc_score, *judged, confidence_level=0.99, **options)
    assert lower < low < roc_auc_score(*judged) < high < higher
    assert bootstrap_interval(roc_auc_score, *judged, **options) == (low, high)
    assert bootstrap_interval(roc_auc_score, *judged, n_resamples=200, random_state=1) != (
        low,
        high,
    )


def test_resamples_of_one_class_are_drawn_again():
    """With two groups, one per class, half of all resamples have no ROC curve."""
    y = np.repeat([0, 1], 5)
    interval = bootstrap_interval(roc_auc_score, y, y, groups=y, n_resamples=50, random_state=0)
    assert interval == (1, 1)


def test_the_interval_of_a_mean_over_folds():
    """Each fold separates its classes well, but the scores of the folds do not compare."""
    rng = np.random.default_rng(0)
    y, folds = rng.integers(0, 2, 400), np.repeat([0, 1], 200)
    score = y + rng.normal(0, 0.7, 400) + 10 * folds
    groups = np.arange(400) // 2
    by_fold = np.mean([roc_auc_score(y[folds == k], score[folds == k]) for k in (0, 1)])
    options = {"groups": groups, "n_resamples": 200, "random_state": 0}
    low, high = bootstrap_interval(roc_auc_score, y, score, folds=folds, **options)
    assert roc_auc_score(y, score) < low < by_fold < high < low + 0.1
    named = np.array(["a", "b"])[folds]
    assert bootstrap_interval(roc_auc_score, y, score, folds=named, **options) == (low, high)
    one = bootstrap_interval(roc_auc_score, y, score, folds=np.zeros(400), **options)
    assert one == bootstrap_interval(roc_auc_score, y, score, **options)


def test_intervals_of_one_class_alone():
    """As for the hard fakes of a set, only some of which are found."""
    low, high = bootstrap_interval(
        accuracy_score, ["fake"] * 50, ["fake", "real"] * 25, n_resamples=100, random_state=0
    )
    assert 0.3 < low < 0.5 < high < 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": [7, 7, 7, 7]}, "All 4 samples are one group"),
        ({"groups": [1, 1, 2, 3], "folds": [0, 0, 1, 1]}, "All 2 samples of fold 0 are one group"),
        ({"groups": [1, 2, 1, 3], "folds": [0, 0, 1, 1]}, "A group of fold 0 is in another fold"),
        ({"folds": [0, 1, 1]}, "inconsistent numbers of samples"),
        ({"groups": [1, 2, 3]}, "groups has 3 values for 4 samples: pass one for each"),
        ({"groups": ["a", None, "b", "c"]}, r"groups has no label in row 1 \(None\): a row"),
        ({"groups": [1, 2, 2, np.nan]}, r"groups has no label in row 3 \(nan\): a row"),
        ({"folds": [0, 1, 0, np.nan]}, r"folds has no label in row 3 \(nan\)"),
        ({"confidence_level": 95}, "confidence_level"),
        ({"n_resamples": 0}, "n_resamples"),
    ],
)
def test_what_gives_no_interval_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(accuracy_score, [0, 1, 0, 1], [0, 1, 1, 0], **options)


def test_nothing_gives_no_interval():
    with pytest.raises(ValueError, match="y_true holds no samples"):
        bootstrap_interval(accuracy_score, [], [])
