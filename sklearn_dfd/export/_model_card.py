"""The card that goes with a detector: what it learned from, how far to trust it, and for what."""

from numbers import Real

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted

from sklearn_dfd._core.groups import check_groups
from sklearn_dfd._core.sklearn_private import HasMethods, validate_params
from sklearn_dfd._core.validation import import_extra
from sklearn_dfd._core.version import __version__
from sklearn_dfd.metrics import bootstrap_interval, equal_error_rate, tpr_at_fpr

__all__ = ["make_model_card"]

_TITLE = "Detector of manipulated photographs"
_INTENDED_USE = (
    "An aid to a person who judges whether a face photograph was manipulated, who sees the "
    "photograph, and who may overrule it. It is no proof, and no decision about a person may rest "
    "on it alone."
)
_LIMITS = (
    "It knows the kinds of manipulation, cameras and faces of its training photographs. Of others, "
    "and of photographs that were compressed, scaled or edited since, the scores below say nothing "
    "beyond what is measured there. A probability is that of the training data's mixture of "
    "classes: where manipulations are rare, most alarms are false."
)
_SCORES = {
    "ROC AUC (0.5 is guessing)": roc_auc_score,
    "Equal error rate": equal_error_rate,
    "{} photographs found, at 1 % false alarms": tpr_at_fpr,
}


@validate_params(
    {
        "estimator": [HasMethods("predict_proba")],
        "y_true": ["array-like"],
        "y_score": ["array-like"],
        "data": [str],
        "pos_label": [Real, str, "boolean", None],
        "groups": ["array-like", None],
        "robustness": [HasMethods("to_dict"), None],
        "intended_use": [str],
        "limits": [str],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_model_card(
    estimator,
    y_true,
    y_score,
    *,
    data,
    pos_label=None,
    groups=None,
    robustness=None,
    intended_use=_INTENDED_USE,
    limits=_LIMITS,
    random_state=None,
):
    """Make a card for a detector: data, honest scores, robustness, intended use and limits.

    Parameters
    ----------
    estimator : classifier
        Fitted: a pipeline of :func:`~sklearn_dfd.make_deepfake_pipeline`.

    y_true : array-like of shape (n_test,)
        Labels, of two classes, of photographs that the detector was not trained on, nor tuned on:
        a test set, or the test folds of a cross-validation.

    y_score : array-like of shape (n_test,)
        Probabilities of ``pos_label`` for them.

    data : str
        What the photographs are, where they come from, and by what right.

    pos_label : int, float, bool or str, default=None
        The class that is to be found. None for the second of ``estimator.classes_``, which are
        sorted: of ``"fake"`` and ``"real"`` that is ``"real"``.

    groups : array-like of shape (n_test,), default=None
        What belongs together among them; the intervals resample whole groups.

    robustness : DataFrame, default=None
        What :func:`~sklearn_dfd.robustness.evaluate_robustness` returned.

    intended_use, limits : str
        The paragraphs of these names. The defaults hold for any detector of this package; yours
        should know more.

    random_state : int, RandomState instance or None, default=None
        Of the intervals.

    Returns
    -------
    card : skops.card.Card
        ``card.save(path)`` writes it as Markdown; ``card.add`` adds to it.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    ValueError
        If ``y_true`` is not of the two classes of the estimator, ``pos_label`` is neither of them,
        lengths differ, or a group is missing.
    ImportError
        If skops is not installed.

    Examples
    --------
    >>> from sklearn.model_selection import GroupKFold, cross_val_predict
    >>> from sklearn_dfd import make_deepfake_pipeline
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> from sklearn_dfd.export import make_model_card
    >>> photos = make_spliced_photos(60, random_state=0)
    >>> pipe = make_deepfake_pipeline(weights=None, image_size=64, max_epochs=1, random_state=0)
    >>> probability = cross_val_predict(
    ...     pipe, photos.data, photos.target, groups=photos.groups, cv=GroupKFold(2),
    ...     method="predict_proba",
    ... )[:, 1]
    >>> card = make_model_card(
    ...     pipe.fit(photos.data, photos.target), photos.target, probability,
    ...     data="60 synthetic pictures, half of them spliced.", groups=photos.groups,
    ... )
    >>> "Intended use" in card.render()
    True
    """
    skops_card = import_extra("skops.card", "make_model_card")
    check_is_fitted(estimator)
    y_true, y_score = np.asarray(y_true), np.asarray(y_score)
    check_consistent_length(y_true, y_score)
    if groups is not None:
        groups = check_groups(groups, len(y_true), "photographs")
    classes, labels = estimator.classes_.tolist(), np.unique(y_true).tolist()
    if len(classes) != 2 or labels != classes:
        raise ValueError(
            f"y_true must hold the two classes of the estimator, {classes}, not {labels}."
        )
    if pos_label is None:
        pos_label = classes[1]
    if pos_label not in classes:
        raise ValueError(f"pos_label={pos_label!r} is not a class: {classes}.")
    card = skops_card.Card(estimator, template=None)
    for name, text in {
        "": f"Classes: {', '.join(map(str, classes))}. Made with sklearn-dfd {__version__}.",
        "/Intended use": intended_use,
        "/Limits": limits,
        "/Data": data,
    }.items():
        card.add(**{_TITLE + name: text})
    tables = {"Scores": _scores(y_true, y_score, pos_label, groups, random_state)}
    about = {"Scores": _tested_on(y_true, groups)}
    if robustness is None:
        card.add(**{f"{_TITLE}/Robustness": "Not measured."})
    else:
        tables["Robustness"] = _robustness(robustness)
    for name, table in tables.items():
        card.add_table(**{f"{_TITLE}/{name}": table}, description=about.get(name))
        card.select(f"{_TITLE}/{name}").title = name  # skops makes the whole path the title
    return card.add_hyperparams(section=f"{_TITLE}/Parameters")


def _tested_on(y_true, groups):
    labels, numbers = np.unique(y_true, return_counts=True)
    counts = ", ".join(f"{n} {label}" for label, n in zip(labels, numbers, strict=True))
    if groups is None:
        together = "Each counts as independent of the others, since no groups were given."
    else:
        together = f"They are of {len(np.unique(groups))} groups, which were resampled as a whole."
    return (
        f"On {len(y_true)} photographs that the detector was not trained on ({counts}). {together} "
        "The intervals hold 95 % of 1,000 resamples."
    )


def _scores(y_true, y_score, pos_label, groups, random_state):
    positive = y_true == pos_label
    ends = [
        bootstrap_interval(metric, positive, y_score, groups=groups, random_state=random_state)
        for metric in _SCORES.values()
    ]
    return {
        "score": [name.format(pos_label) for name in _SCORES],
        "value": [f"{metric(positive, y_score):.3f}" for metric in _SCORES.values()],
        "95 % interval": [f"{low:.3f} to {high:.3f}" for low, high in ends],
    }


def _robustness(results):
    return {
        "photographs": [
            "as they are" if name == "none" else f"{name} {level:g}"
            for name, level in zip(results["distortion"], results["level"], strict=True)
        ],
        **{
            title: [
                f"{results[score][i]:.3f} ({results[f'{score}_low'][i]:.3f} to "
                f"{results[f'{score}_high'][i]:.3f})"
                for i in range(len(results["level"]))
            ]
            for title, score in (("ROC AUC", "roc_auc"), ("accuracy", "accuracy"))
        },
    }
