"""Learning curves: what is drawn, what is accepted, and which errors name the rest."""

import sys

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    KFold,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_dfd import DeepFakeClassifier
from sklearn_dfd.inspection import TrainingHistoryDisplay

mpl = pytest.importorskip("matplotlib")
mpl.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

X, Y = make_classification(n_samples=80, random_state=0)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def classifier(**params):
    params = {"max_epochs": 3, "hidden_layer_sizes": (8,), "lr": 1e-3, "random_state": 0, **params}
    return DeepFakeClassifier(layer="pool", **params)


def legend_of(display):
    return [text.get_text() for text in display.axes_[1].get_legend().get_texts()]


def rings_of(axes):
    """Return epoch, value and colour of the marks around epochs that were kept."""
    return [
        (line.get_xdata()[0], line.get_ydata()[0], line.get_color())
        for line in axes.lines
        if line.get_marker() == "o" and len(line.get_xdata())
    ]


def test_training_alone():
    clf = classifier().fit(X, Y)
    display = TrainingHistoryDisplay.from_estimator(clf)
    accuracy, loss = display.axes_
    for axes, lines, measure in zip(
        display.axes_, display.lines_, ["train_accuracy", "train_loss"], strict=True
    ):
        (line,) = lines
        assert line.axes is axes
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
        np.testing.assert_array_equal(line.get_ydata(), [row[measure] for row in clf.history_])
        assert line.get_linestyle() == "-"
        assert rings_of(axes) == []
    assert legend_of(display) == ["training", "guessing"]
    assert (accuracy.get_ylabel(), loss.get_ylabel()) == ("Accuracy", "Cross-entropy")
    assert accuracy.get_xlabel() == loss.get_xlabel() == "Epoch"
    for axes, lines in zip(display.axes_, display.lines_, strict=True):
        low, high = axes.get_ylim()
        values = lines[0].get_ydata()
        assert low < min(values) and max(values) < high
    assert accuracy.get_ylim()[1] >= 1
    assert "pass X_val and y_val to fit" in accuracy.get_title(loc="left")
    assert display.figure_ is accuracy.figure
    assert display.histories == [clf.history_]


def test_validation_and_the_epoch_kept():
    clf = classifier(early_stopping=True, lr=0.1, max_epochs=8, n_iter_no_change=2).fit(X, Y)
    assert clf.best_epoch_ < clf.n_iter_  # else the mark would be where every mark could be
    display = TrainingHistoryDisplay.from_estimator(clf, name="mine")
    assert legend_of(display) == ["mine, training", "mine, validation", "epoch kept", "guessing"]
    training, validation = display.lines_[1]
    assert validation.get_linestyle() == "--"
    assert validation.get_color() == training.get_color()
    np.testing.assert_array_equal(validation.get_ydata(), [r["valid_loss"] for r in clf.history_])
    best = clf.history_[clf.best_epoch_ - 1]
    for axes, measure in zip(display.axes_, ["valid_accuracy", "valid_loss"], strict=True):
        assert rings_of(axes) == [(clf.best_epoch_, best[measure], training.get_color())]


def test_validation_rows_that_did_not_decide_leave_no_mark():
    display = TrainingHistoryDisplay.from_estimator(classifier().fit(X, Y, X_val=X, y_val=Y))
    assert legend_of(display) == ["training", "validation", "guessing"]
    assert display.axes_[0].get_title(loc="left") == ""


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_lines_of_guessing(n_classes):
    clf = classifier(max_epochs=1).fit(X, np.arange(80) % n_classes)
    display = TrainingHistoryDisplay.from_estimator(clf)
    for axes, expected in zip(display.axes_, [1 / n_classes, np.log(n_classes)], strict=True):
        (line,) = [line for line in axes.lines if line.get_label() == "guessing"]
        assert line.get_ydata()[0] == pytest.approx(expected)
        assert axes.get_ylim()[0] < expected < axes.get_ylim()[1]


@pytest.mark.parametrize(
    ("losses", "scale"), [([0.70, 0.69, 0.68], "linear"), ([9.0, 0.5, 0.05], "log")]
)
def test_the_loss_fills_its_axis(losses, scale):
    history = [
        {"epoch": i, "train_loss": loss, "train_accuracy": 0.5} for i, loss in enumerate(losses, 1)
    ]
    axes = TrainingHistoryDisplay([history]).plot().axes_[1]
    assert axes.get_yscale() == scale
    low, high = axes.transData.transform([(1, min(losses)), (1, max(losses))])[:, 1]
    assert high - low > 0.7 * axes.bbox.height
    axes.figure.canvas.draw()
    shown = [label.get_text() for label in axes.get_yticklabels() if label.get_visible()]
    inside = [t for t in axes.get_yticks() if axes.get_ylim()[0] <= t <= axes.get_ylim()[1]]
    assert len(inside) >= 3 and not any("$" in text for text in shown)


def test_epochs_without_validation_are_gaps():
    clf = classifier(early_stopping=True).fit(X, Y).partial_fit(X, Y)
    display = TrainingHistoryDisplay.from_estimator(clf)
    valid_loss = display.lines_[1][1].get_ydata()
    np.testing.assert_array_equal(np.isnan(valid_loss), [False, False, False, True])
    assert rings_of(display.axes_[1]) == []  # the weights are no longer those of an epoch chosen


def test_one_epoch_is_visible_and_its_tick_an_integer():
    display = TrainingHistoryDisplay.from_estimator(classifier(max_epochs=1).fit(X, Y))
    assert display.lines_[0][0].get_marker() == "."
    display.figure_.canvas.draw()
    low, high = display.axes_[0].get_xlim()
    ticks = [tick for tick in display.axes_[0].get_xticks() if low <= tick <= high]
    assert ticks == [1]


def test_cross_validation_has_a_colour_for_each_fold():
    clf = classifier(early_stopping=True)
    results = cross_validate(clf, X, Y, cv=3, return_estimator=True)
    display = TrainingHistoryDisplay.from_cv_results(results)
    expected = [f"fold {i}, {part}" for i in (1, 2, 3) for part in ("training", "validation")]
    assert legend_of(display) == [*expected, "epoch kept", "guessing"]
    for lines in display.lines_:
        colors = [line.get_color() for line in lines]
        assert colors[::2] == colors[1::2]
        assert len(set(colors)) == len({line.get_marker() for line in lines}) == 3
    assert len(rings_of(display.axes_[0])) == 3


@pytest.mark.parametrize(
    "wrap",
    [
        lambda clf: make_pipeline(StandardScaler(), clf),
        lambda clf: GridSearchCV(clf, {"lr": [1e-3]}, cv=KFold(2)),
        lambda clf: GridSearchCV(
            make_pipeline(StandardScaler(), clf),
            {"deepfakeclassifier__lr": [1e-3]},
            cv=KFold(2),
        ),
        lambda clf: FixedThresholdClassifier(make_pipeline(StandardScaler(), clf)),
    ],
    ids=["pipeline", "search", "search over a pipeline", "meta-estimator over a pipeline"],
)
def test_inside_other_estimators(wrap):
    estimator = wrap(classifier())
    with pytest.raises(NotFittedError, match=f"This {type(estimator).__name__} is not fitted yet"):
        TrainingHistoryDisplay.from_estimator(estimator)
    display = TrainingHistoryDisplay.from_estimator(estimator.fit(X, Y))
    assert len(display.histories[0]) == 3


def test_after_a_fit_that_failed():
    clf = classifier(early_stopping=True)
    with pytest.raises(ValueError, match="cannot set aside"):
        clf.fit(X, Y, groups=np.zeros(len(X)))
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        TrainingHistoryDisplay.from_estimator(clf)
    clf = classifier(lr=1e30)
    with pytest.raises(ValueError, match="not fitted"):
        clf.fit(X, Y)
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        TrainingHistoryDisplay.from_estimator(clf)


def test_search_without_refit_says_what_it_lacks():
    search = GridSearchCV(classifier(), {"lr": [1e-3]}, cv=KFold(2), refit=False).fit(X, Y)
    with pytest.raises(NotFittedError, match="refit=True"):
        TrainingHistoryDisplay.from_estimator(search)


@pytest.mark.parametrize(
    ("estimator", "got"),
    [
        (LogisticRegression(), r"got LogisticRegression\."),
        (make_pipeline(StandardScaler()), "got Pipeline with a StandardScaler in that place"),
        ("history", r"got str\."),
    ],
)
def test_others_are_refused(estimator, got):
    with pytest.raises(TypeError, match=f"takes a fitted DeepFakeClassifier, a Pipeline.*{got}"):
        TrainingHistoryDisplay.from_estimator(estimator)


def test_cv_results_without_estimators():
    results = cross_validate(classifier(max_epochs=1), X, Y, cv=2)
    with pytest.raises(ValueError, match="pass return_estimator=True to cross_validate"):
        TrainingHistoryDisplay.from_cv_results(results)


def test_axes_given_and_constructor_used():
    history = [{"epoch": 1, "train_loss": 0.7, "train_accuracy": 0.5}]
    display = TrainingHistoryDisplay([history, history])
    figure, axes = plt.subplots(2, 1)
    assert display.plot(ax=axes) is display
    assert display.figure_ is figure
    assert display.axes_.tolist() == axes.tolist()
    assert legend_of(display) == ["fold 1, training", "fold 2, training"]
    with pytest.raises(ValueError, match=r"ax must hold 2 matplotlib Axes.*got 1"):
        display.plot(ax=axes[0])
    with pytest.raises(ValueError, match=r"ax must hold 2 matplotlib Axes.*got a Figure"):
        display.plot(ax=[figure, axes[0]])
    with pytest.raises(ValueError, match="2 histories, but 1 names and 2 best_epochs"):
        TrainingHistoryDisplay([history, history], names=["a"]).plot()


def test_without_matplotlib(monkeypatch):
    clf = classifier(max_epochs=1).fit(X, Y)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "sklearn-dfd\[plot\]"'):
        TrainingHistoryDisplay.from_estimator(clf)
