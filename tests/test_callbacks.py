import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.fixes import parse_version

from sklearn_dfd import DeepFakeClassifier, make_deepfake_pipeline
from sklearn_dfd._core.callbacks import NoCallbacks, training_data
from sklearn_dfd.augmented_classifier import AugmentedClassifier

EPOCHS = 4


@pytest.fixture
def data():
    X, y = make_classification(n_samples=80, n_features=20, random_state=0)
    return X.astype(np.float32), np.array(["fake", "real"])[y]


@pytest.fixture
def classifier():
    return DeepFakeClassifier(layer="pool", lr=1e-3, max_epochs=EPOCHS, random_state=0)


@pytest.fixture
def callback():
    """The module of scikit-learn, if this version has it."""
    return pytest.importorskip("sklearn.callback")


@pytest.fixture
def progress_bar(callback):
    pytest.importorskip("rich")
    return callback.ProgressBar


class Recorder:
    """A callback that keeps what it is passed, and asks to stop after a number of epochs."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.calls = []
        self.tasks = []

    def setup(self, estimator, context):
        self.calls.append("setup")

    def on_fit_task_begin(self, estimator, context):
        self.calls.append(f"begin {context.task_name}")

    def on_fit_task_end(
        self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None
    ):
        self.calls.append(f"end {context.task_name}")
        self.tasks.append((context.task_name, X, y, metadata, fitted_estimator))
        return context.task_name == "epoch" and len(self.epochs()) == self.stop_after

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def epochs(self):
        return [rest for name, *rest in self.tasks if name == "epoch"]


class Checkpoint(Recorder):
    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        self.content = pickle.dumps(fitted_estimator)


def assert_same_predictions(a, b, X):
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))


def logged_epochs(monitor, **options):
    return [row for row in monitor.get_logs(**options).data if row["task_name"] == "epoch"]


# ---- what callbacks are passed ----


def test_every_epoch_is_a_task(callback, classifier, data):
    recorder = Recorder()
    classifier.set_callbacks(recorder).fit(*data)
    assert recorder.calls == [
        "setup",
        "begin fit",
        *["begin epoch", "end epoch"] * EPOCHS,
        "end fit",
        "teardown",
    ]


def test_fitted_estimator_is_the_classifier_of_that_epoch(callback, classifier, data):
    X, y = data
    recorder = Recorder()
    fitted = clone(classifier).set_callbacks(recorder).fit(X, y)
    assert_same_predictions(fitted, clone(classifier).fit(X, y), X)  # nothing was disturbed
    for n, (told_X, told_y, metadata, snapshot) in enumerate(recorder.epochs(), start=1):
        assert told_X is X and metadata is None
        np.testing.assert_array_equal(told_y, y)
        shorter = clone(classifier).set_params(max_epochs=n).fit(X, y)
        assert_same_predictions(snapshot, shorter, X)
        assert snapshot.history_ == shorter.history_
        assert snapshot.n_iter_ == snapshot.best_epoch_ == n


def test_fitted_estimator_can_be_saved(callback, classifier, data):
    checkpoint = Checkpoint()
    classifier.set_callbacks(checkpoint).fit(*data)
    assert_same_predictions(pickle.loads(checkpoint.content), classifier, data[0])


def test_scores_equal_those_of_predict(callback, classifier, data):
    X, y = data
    monitor = callback.ScoringMonitor(scoring=["accuracy", "neg_log_loss"])
    fitted = clone(classifier).set_callbacks(monitor).fit(X, y)
    rows = logged_epochs(monitor)
    assert [row["task_id"] for row in rows] == list(range(EPOCHS))
    for row, history, n in zip(rows, fitted.history_, range(1, EPOCHS + 1), strict=True):
        shorter = clone(classifier).set_params(max_epochs=n).fit(X, y)
        assert row["accuracy"] == shorter.score(X, y) == pytest.approx(history["train_accuracy"])
        assert row["neg_log_loss"] == get_scorer("neg_log_loss")(shorter, X, y)
    assert len({row["neg_log_loss"] for row in rows}) == EPOCHS


def test_scores_are_weighted_where_weights_are_given(callback, classifier, data):
    X, y = data
    y = y.copy()
    y[0] = "drawn"
    weight = np.linspace(1, 2, len(X))
    weight[0] = 0  # so that "drawn" is not a class, with which no log loss could be computed
    monitor = callback.ScoringMonitor(scoring="neg_log_loss")
    classifier.set_callbacks(monitor).fit(X, y, sample_weight=weight)
    for row, history in zip(logged_epochs(monitor), classifier.history_, strict=True):
        assert row["neg_log_loss"] == pytest.approx(-history["train_loss"], rel=1e-5)


def test_rows_set_aside_are_not_scored(callback, classifier, data):
    recorder, monitor = Recorder(), callback.ScoringMonitor(scoring="neg_log_loss")
    classifier.set_params(early_stopping=True, validation_fraction=0.25)
    classifier.set_callbacks(recorder, monitor).fit(*data)
    X, y = data
    told_X, told_y, *_ = recorder.epochs()[0]
    assert len(told_X) == len(told_y) == 60
    row_of = {row.tobytes(): i for i, row in enumerate(X)}
    kept = [row_of[row.tobytes()] for row in told_X]
    np.testing.assert_array_equal(told_y, y[kept])
    assert kept == sorted(kept)
    for row, history in zip(logged_epochs(monitor), classifier.history_, strict=True):
        assert row["neg_log_loss"] == pytest.approx(-history["train_loss"], rel=1e-5)


def test_blocks_are_scored_in_evaluation_mode(callback):
    """Scoring changes nothing about BatchNorm and dropout in training."""
    y = np.arange(40) % 2
    X = np.random.default_rng(0).normal(size=(40, 160 * 2 * 2)).astype(np.float32)
    blocks = DeepFakeClassifier(
        weights=None, hidden_layer_sizes=(32,), dropout=0.5, max_epochs=3, random_state=0
    )
    monitor = callback.ScoringMonitor(scoring="neg_log_loss")
    watched = clone(blocks).set_callbacks(monitor).fit(X, y)
    for row, history in zip(logged_epochs(monitor), watched.history_, strict=True):
        assert row["neg_log_loss"] == pytest.approx(-history["train_loss"], rel=1e-5)
    assert_same_predictions(watched, blocks.fit(X, y), X)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_columns_keep_their_names(callback, classifier, data, early_stopping):
    """Otherwise predict would warn about missing names in each epoch."""
    X = pd.DataFrame(data[0]).add_prefix("feature_")
    monitor = callback.ScoringMonitor(scoring="accuracy")
    classifier.set_params(early_stopping=early_stopping).set_callbacks(monitor).fit(X, data[1])
    assert len(logged_epochs(monitor)) == EPOCHS


def test_a_copy_of_the_rows_is_made_only_when_asked_for():
    X, y, weight = np.arange(6.0).reshape(3, 2), np.arange(3), np.array([1.0, 0.0, 2.0])
    told = training_data(X, y, None)
    assert told["X"]() is X and told["y"]() is y and told["metadata"]() is None
    told = training_data(X, y, weight)
    np.testing.assert_array_equal(told["X"](), X[[0, 2]])
    np.testing.assert_array_equal(told["metadata"]()["sample_weight"], [1, 2])
    told = training_data(X.tolist(), y, weight, np.array([2]))
    assert told["X"]() == [[4.0, 5.0]] and told["y"]() == [2]


# ---- stopping ----


def test_a_callback_stops_the_training(callback, classifier, data):
    recorder = Recorder(stop_after=2)
    stopped = clone(classifier).set_callbacks(recorder).fit(*data)
    assert stopped.n_iter_ == stopped.best_epoch_ == len(stopped.history_) == 2
    assert recorder.calls[-3:] == ["end epoch", "end fit", "teardown"]
    assert_same_predictions(stopped, clone(classifier).set_params(max_epochs=2).fit(*data), data[0])
    stopped.set_callbacks().set_params(warm_start=True).fit(*data)  # and it can go on
    assert stopped.n_iter_ == 2 + EPOCHS


def test_stopped_with_early_stopping_the_best_epoch_is_kept(callback, classifier, data):
    classifier.set_params(early_stopping=True, lr=0.01, max_epochs=50, n_iter_no_change=50)
    recorder = Recorder(stop_after=4)
    classifier.set_callbacks(recorder).fit(*data)
    losses = [row["valid_loss"] for row in classifier.history_]
    assert classifier.n_iter_ == 4 and classifier.best_epoch_ == np.argmin(losses) + 1 < 4
    best = recorder.epochs()[classifier.best_epoch_ - 1][-1]
    assert_same_predictions(classifier, best, data[0])
    assert_same_predictions(classifier, recorder.tasks[-1][-1], data[0])  # called at the end of fit


def test_early_stopping_ends_its_last_epoch(callback, classifier, data):
    classifier.set_params(early_stopping=True, lr=0.01, max_epochs=50, n_iter_no_change=2)
    recorder = Recorder()
    classifier.set_callbacks(recorder).fit(*data)
    assert len(recorder.epochs()) == classifier.n_iter_ < 50
    assert recorder.calls[-3:] == ["end epoch", "end fit", "teardown"]


def test_an_error_in_a_callback_is_raised(callback, classifier, data):
    class Failing(Recorder):
        def on_fit_task_end(self, estimator, context):
            raise RuntimeError("disk full")

    failing = Failing()
    with pytest.raises(RuntimeError, match="disk full"):
        classifier.set_callbacks(failing).fit(*data)
    assert failing.calls[-1] == "teardown"


# ---- who has callbacks ----


def test_partial_fit_calls_none(callback, classifier, data):
    recorder = Recorder()
    classifier.set_callbacks(recorder)
    for _ in range(2):
        classifier.partial_fit(*data, classes=["fake", "real"])
    assert recorder.calls == [] and classifier.best_epoch_ == 2


def test_callbacks_stay_with_clones_and_files(callback, classifier, data):
    monitor = callback.ScoringMonitor(scoring="accuracy")
    classifier.set_callbacks(monitor)
    clone(classifier).fit(*data)
    assert len(logged_epochs(monitor)) == EPOCHS
    loaded = pickle.loads(pickle.dumps(classifier.fit(*data)))
    assert_same_predictions(loaded, classifier, data[0])
    loaded.fit(*data)
    assert len(monitor.get_logs(select="all")) == 2  # the loaded one has a monitor of its own


def test_progress_bar(progress_bar, classifier, data, capsys):
    classifier.set_callbacks(progress_bar()).fit(*data)
    out = capsys.readouterr().out
    assert "DeepFakeClassifier - fit" in out and "100%" in out and "train_loss" not in out


def test_progress_bar_in_a_pipeline(progress_bar, classifier, data, capsys):
    make_pipeline(StandardScaler(), classifier).set_callbacks(progress_bar()).fit(*data)
    out = capsys.readouterr().out
    assert "Pipeline - fit-final-estimator | DeepFakeClassifier - fit" in out
    assert not hasattr(classifier, "_skl_callbacks")  # it was lent


def test_progress_bar_of_the_detector(progress_bar, capsys):
    """No step warns that it does not support callbacks."""
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    pipe = make_deepfake_pipeline("pool", weights=None, image_size=32, max_epochs=2)
    pipe.set_callbacks(progress_bar(max_propagation_depth=None)).fit(images, np.arange(12) % 2)
    out = capsys.readouterr().out
    assert "MobileNetV2Features - fit" in out and "DeepFakeClassifier - fit" in out


# ---- in the classifier of views ----


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def detector():
    pipe = make_deepfake_pipeline("pool", weights=None, image_size=32, max_epochs=2, random_state=0)
    return AugmentedClassifier(pipe, n_views=1)


def test_search_over_views_shows_its_epochs(progress_bar, detector, images, capsys):
    """No part warns that it does not support callbacks."""
    search = GridSearchCV(detector, {"n_views": [0, 1]}, cv=2, error_score="raise")
    search.set_callbacks(progress_bar(max_propagation_depth=None)).fit(images, np.arange(12) % 2)
    out = capsys.readouterr().out
    n_fits = 2 * 2 + 1
    assert out.count("AugmentedClassifier - fit-estimator | Pipeline - fit") == n_fits
    assert out.count("Pipeline - fit-final-estimator | DeepFakeClassifier - fit") == n_fits
    assert not hasattr(search.best_estimator_.estimator_, "_skl_callbacks")  # they were lent


def test_the_classifier_of_views_tells_of_photographs(callback, detector, images):
    y, weight = np.arange(12) % 2, np.r_[0.0, np.ones(11)]
    outside, inside = Recorder(), Recorder()
    monitor = callback.ScoringMonitor(scoring="neg_log_loss")
    detector.estimator[-1].set_callbacks(inside)
    detector.set_callbacks(outside, monitor).fit(images, y, sample_weight=weight)
    calls = ["setup", "begin fit", "begin fit-estimator", "end fit-estimator", "end fit"]
    assert outside.calls == [*calls, "teardown"]
    _, told_X, told_y, metadata, fitted = outside.tasks[-1]
    np.testing.assert_array_equal(told_X, images[1:])
    np.testing.assert_array_equal(told_y, y[1:])
    np.testing.assert_array_equal(metadata["sample_weight"], weight[1:])
    assert_same_predictions(fitted, detector, images)
    assert len(inside.epochs()) == 2 and len(inside.epochs()[0][0]) == 2 * 11
    (scores,) = monitor.get_logs().data
    expected = get_scorer("neg_log_loss")(detector, images[1:], y[1:])
    assert scores["neg_log_loss"] == pytest.approx(expected)
    detector.set_callbacks()
    detector.estimator[-1].set_callbacks()
    assert_same_predictions(clone(detector).fit(images, y, sample_weight=weight), detector, images)


def test_a_callback_stops_the_training_on_views(callback, detector, images):
    detector.estimator[-1].set_callbacks(Recorder(stop_after=1))
    detector.fit(images, np.arange(12) % 2)
    assert detector.estimator_[-1].n_iter_ == 1


# ---- in a search ----


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_grid_search_over_a_pipeline(progress_bar, callback, classifier, data, capsys, n_jobs):
    """The bar is passed down by the search; the monitor belongs to the classifier."""
    monitor = callback.ScoringMonitor(scoring="accuracy")
    pipeline = make_pipeline(StandardScaler(), classifier.set_callbacks(monitor))
    search = GridSearchCV(
        pipeline, {"deepfakeclassifier__lr": [1e-4, 1e-3]}, cv=2, n_jobs=n_jobs, error_score="raise"
    )
    search.set_callbacks(progress_bar(max_propagation_depth=None)).fit(*data)
    out = capsys.readouterr().out
    n_fits = 2 * 2 + 1
    assert out.count("DeepFakeClassifier - fit") == n_fits
    assert out.count("100%") >= 1 + n_fits
    # one run, the search's, in which each fit has its scores
    assert len(monitor.get_logs(select="all")) == 1
    rows = logged_epochs(monitor)
    assert len(rows) == n_fits * EPOCHS
    assert len({row["parent_task_id_path"] for row in rows}) == n_fits
    refit = [row["accuracy"] for row in rows if row["parent_task_id_path"][1] == 1]
    measured = [row["train_accuracy"] for row in search.best_estimator_[-1].history_]
    np.testing.assert_allclose(refit, measured)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_cross_validate(callback, classifier, data, n_jobs):
    """It does not support callbacks in scikit-learn 1.9: each fit is a separate run."""
    monitor = callback.ScoringMonitor(scoring="accuracy")
    classifier.set_callbacks(monitor)
    result = cross_validate(classifier, *data, cv=2, n_jobs=n_jobs, return_estimator=True)
    runs = monitor.get_logs(select="all")
    assert len(runs) == 2
    scores = sorted([row["accuracy"] for row in run.data] for run in runs)
    histories = sorted(
        [row["train_accuracy"] for row in (*e.history_, e.history_[-1])]
        for e in result["estimator"]
    )
    for scored, measured in zip(scores, histories, strict=True):
        assert sorted(scored) == pytest.approx(sorted(measured))


# ---- without callbacks ----


def test_no_callbacks_never_stop():
    task = NoCallbacks()
    epoch = task.subcontext(task_name="epoch").call_on_fit_task_begin(estimator=None, X=None)
    assert not epoch.call_on_fit_task_end(estimator=None, reconstruction_attributes={})


def test_callbacks_are_there_from_scikit_learn_1_9_on():
    """No test of callbacks is skipped if this scikit-learn has them."""
    from_1_9_on = parse_version(sklearn.__version__) >= parse_version("1.9")
    for estimator in (DeepFakeClassifier, AugmentedClassifier):
        assert hasattr(estimator, "set_callbacks") == from_1_9_on


WITHOUT_SKLEARN_CALLBACK = """
import pickle, sys
import sklearn.model_selection, sklearn.pipeline  # these may need what is now taken away
sys.modules["sklearn.callback"] = None
import numpy as np
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn_dfd import DeepFakeClassifier, make_deepfake_pipeline
from sklearn_dfd.augmented_classifier import AugmentedClassifier

assert not hasattr(DeepFakeClassifier, "set_callbacks")
assert not hasattr(AugmentedClassifier, "set_callbacks")
images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
pipe = make_deepfake_pipeline("pool", weights=None, image_size=32, max_epochs=1)
AugmentedClassifier(pipe, n_views=1).fit(images, np.arange(12) % 2).predict(images)
X, y = make_classification(n_samples=80, n_features=20, random_state=0)
clf = DeepFakeClassifier(layer="pool", max_epochs=3, early_stopping=True, random_state=0)
pipeline = make_pipeline(StandardScaler(), clone(clf)).fit(X, y)
pickle.loads(pickle.dumps(pipeline)).predict(X)
clf.fit(X, y, sample_weight=np.arange(80)).partial_fit(X, y)
sys.stdout.write(clf.predict_proba(X).tobytes().hex())
"""


@pytest.mark.slow
def test_scikit_learn_without_callbacks():
    """With scikit-learn before 1.9 everything else works, with the same results."""
    command = [sys.executable, "-W", "error", "-c", WITHOUT_SKLEARN_CALLBACK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    X, y = make_classification(n_samples=80, n_features=20, random_state=0)
    clf = DeepFakeClassifier(layer="pool", max_epochs=3, early_stopping=True, random_state=0)
    clf.fit(X, y, sample_weight=np.arange(80)).partial_fit(X, y)
    probabilities = np.frombuffer(bytes.fromhex(done.stdout), dtype=np.float32).reshape(80, 2)
    np.testing.assert_array_equal(probabilities, clf.predict_proba(X))
