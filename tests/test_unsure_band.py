"""The band of "not sure" keeps its promise in simulations, and is not wider than it must be."""

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from sklearn_dfd.metrics import choose_unsure_band

SEPARATION = 2.5


def drawn(rng, n):
    y = rng.integers(0, 2, n)
    return y, rng.normal(SEPARATION * (y - 0.5))


def true_errors(low, high):
    """Exact shares of wrong answers among those called negative and positive."""
    negative, positive = norm(-SEPARATION / 2), norm(SEPARATION / 2)
    wrong_below, right_below = positive.cdf(low), negative.cdf(low)
    wrong_above, right_above = negative.sf(high), positive.sf(high)
    with np.errstate(invalid="ignore"):
        return (
            wrong_below / (wrong_below + right_below) if low > -np.inf else 0.0,
            wrong_above / (wrong_above + right_above) if high < np.inf else 0.0,
        )


@pytest.mark.filterwarnings("ignore:No threshold was shown")
@pytest.mark.parametrize(("max_error", "n", "least"), [(0.05, 600, 0.2), (0.1, 300, 0.4)])
def test_both_errors_are_kept_as_often_as_promised(max_error, n, least):
    rng = np.random.default_rng(0)
    n_runs, exceeded, answered = 300, 0, []
    for _ in range(n_runs):
        y, x = drawn(rng, n)
        try:
            (low, high), share = choose_unsure_band(
                y, expit(x), max_error=max_error, confidence_level=0.9
            )
        except ValueError:
            answered.append(0)
            continue
        answered.append(share)
        with np.errstate(divide="ignore"):
            ends = (np.log(p) - np.log1p(-p) if np.isfinite(p) else p for p in (low, high))
            exceeded += max(true_errors(*ends)) > max_error
    assert exceeded / n_runs <= 0.1 + 2 * np.sqrt(0.1 * 0.9 / n_runs)
    assert np.mean(answered) > least  # a band from 0 to 1 would keep any promise


@pytest.mark.filterwarnings("ignore:No threshold was shown")
def test_groups_are_counted_instead_of_their_photographs():
    """Copies of photographs prove nothing, and must not make the band narrower."""
    rng = np.random.default_rng(0)
    exceeded_by_group = exceeded_by_row = 0
    for _ in range(150):
        y, x = drawn(rng, 200)
        rows = np.repeat(np.arange(200), 10)
        p = expit(x[rows])
        for groups in (rows, None):
            try:
                (low, high), _ = choose_unsure_band(
                    y[rows], p, max_error=0.1, confidence_level=0.8, groups=groups
                )
            except ValueError:
                continue
            ends = (np.log(q / (1 - q)) if np.isfinite(q) else q for q in (low, high))
            wrong = max(true_errors(*ends)) > 0.1
            exceeded_by_group += wrong and groups is not None
            exceeded_by_row += wrong and groups is None
        alone = None
        try:
            alone = choose_unsure_band(y, expit(x), max_error=0.1, confidence_level=0.8)
        except ValueError:
            continue
        by_group = choose_unsure_band(y[rows], p, max_error=0.1, confidence_level=0.8, groups=rows)
        assert by_group == alone
    assert exceeded_by_group / 150 <= 0.2 < exceeded_by_row / 150


def test_one_wrong_photograph_makes_a_group_wrong():
    p = np.concatenate([np.linspace(0.6, 0.9, 200), np.linspace(0.1, 0.4, 200)])
    y = np.repeat([1, 0], 200)
    groups = np.arange(400)
    assert choose_unsure_band(y, p, groups=groups)[1] == 1
    # each real photograph of the first half gets a neighbour that is called like it
    p, y, groups = (
        np.append(p, p[:200]),
        np.append(y, np.zeros(200, int)),
        np.append(groups, groups[:200]),
    )
    with pytest.warns(UserWarning, match="the error of positive answers"):
        (low, high), answered = choose_unsure_band(y, p, groups=groups)
    assert high == np.inf and 0.4 <= low < 0.65  # a few mistakes are allowed
    assert answered == pytest.approx(np.mean(p <= low))


def test_classes_that_are_apart_leave_nothing_unsure():
    p = np.concatenate([np.full(100, 0.2), np.full(100, 0.7)])
    (low, high), answered = choose_unsure_band(
        np.repeat(["real", "fake"], 100), p, pos_label="fake"
    )
    assert (low, high, answered) == (0.5, 0.5, 1.0)
    (low, high), answered = choose_unsure_band(np.repeat([0, 1], 100), p / 2 + 0.5)
    assert 0.6 <= low == high <= 0.85 and answered == 1
    band, _ = choose_unsure_band(np.repeat([0, 1], 100), 1 - p, pos_label=0)
    assert band == (0.5, 0.5)


def test_ties_are_on_one_side():
    rng = np.random.default_rng(0)
    y, x = drawn(rng, 3000)
    p = np.round(expit(x), 1)
    (low, high), answered = choose_unsure_band(y, p)
    assert 0 < answered < 1
    assert np.mean(y[p >= high] == 0) <= 0.05 and np.mean(y[p <= low] == 1) <= 0.05


def test_a_lenient_bound_answers_more():
    rng = np.random.default_rng(0)
    y, x = drawn(rng, 2000)
    shares = [choose_unsure_band(y, expit(x), max_error=error)[1] for error in (0.03, 0.05, 0.1)]
    assert shares == sorted(shares) and shares[0] < shares[-1]
    surer = choose_unsure_band(y, expit(x), confidence_level=0.999)[1]
    assert surer < shares[1]


def test_what_cannot_be_meant():
    y, p = np.repeat([0, 1], 20), np.linspace(0, 1, 40)
    with pytest.raises(
        ValueError, match=r"takes 86 groups with such an answer.*there are 40 groups"
    ):
        choose_unsure_band(y, p)
    with pytest.raises(ValueError, match=r"holds the labels \[0, 1, 2\]"):
        choose_unsure_band(np.arange(40) % 3, p)
    with pytest.raises(ValueError, match=r"holds the labels \[1\]"):
        choose_unsure_band(np.ones(40, int), p)
    with pytest.raises(ValueError, match="pos_label must be given"):
        choose_unsure_band(np.repeat(["real", "fake"], 20), p)
    with pytest.raises(ValueError, match="y_proba"):
        choose_unsure_band(y, np.where(p > 0.5, p, np.nan))
    with pytest.raises(ValueError, match="pass the column of the positive class"):
        choose_unsure_band(y, np.stack([p, p], axis=1))
    with pytest.raises(ValueError, match="inconsistent"):
        choose_unsure_band(y, p[:3])
    with pytest.raises(ValueError, match="groups has 3 values"):
        choose_unsure_band(y, p, groups=[1, 2, 3])
    for options in ({"max_error": 0}, {"max_error": 1}, {"confidence_level": 95}):
        with pytest.raises(ValueError, match=next(iter(options))):
            choose_unsure_band(y, p, **options)


def test_a_column_of_labels_is_taken():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 1000)
    p = 1 / (1 + np.exp(-rng.normal(4 * y - 2, 2)))
    assert choose_unsure_band(y[:, np.newaxis], p) == choose_unsure_band(y, p)
