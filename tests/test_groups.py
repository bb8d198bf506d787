"""Groups have one label per row, none missing, and one per photograph."""

import numpy as np
import pandas as pd
import pytest

from sklearn_dfd._core.groups import check_groups, check_groups_of_views
from sklearn_dfd.augmentation import View


@pytest.mark.parametrize(
    "groups",
    [
        ["a", "b", "a"],
        np.array([[1], [2], [1]]),
        pd.Series(["a", "b", "a"], dtype="category"),
        pd.Series([1, 2, 1], index=[7, 8, 9]),
    ],
)
def test_one_label_a_row(groups):
    labels = check_groups(groups, 3)
    assert labels.shape == (3,)
    assert labels[0] == labels[2] != labels[1]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([1, 2], "groups has 2 values for 3 images: pass one for each, in the same order"),
        (np.ones((3, 2)), r"groups is an array of shape \(3, 2\): pass one label per row"),
        (7, r"groups is an array of shape \(\): pass one label per row"),
        (
            [0, np.nan, 1],
            r"groups has no label in row 1 \(nan\): a row that belongs to no other row",
        ),
        (["a", "b", None], r"groups has no label in row 2 \(None\)"),
        (["a", np.nan, "b"], r"groups has no label in row 1 \(nan\)"),
        (np.array(["2024-01-01", "NaT", "2024-01-02"], "M8[D]"), r"no label in row 1 \(NaT\)"),
        (np.array(["a", 1, "b"], dtype=object), "groups has labels that cannot be put in order"),
        (pd.Series([pd.NA, "a", "b"], dtype=object), r"groups has no label in row 0 \(<NA>\)"),
        (pd.Series(["a", np.nan, "b"], dtype=object), r"groups has no label in row 1 \(nan\)"),
    ],
)
def test_what_are_no_groups(groups, message):
    with pytest.raises(ValueError, match=message):
        check_groups(groups, 3, "images")


def test_a_photograph_and_its_views_are_in_one_group():
    images = ["a.jpg", "b.jpg", View("a.jpg", 0), View(View("b.jpg", 1), 2)]
    check_groups_of_views(images, np.array([5, 6, 5, 6]))
    message = (
        r"row 1 \('b\.jpg'\) and row 3 \(view of view of 'b\.jpg'\) show the same photograph, but "
        "are in groups 6 and 5: give them the same group"
    )
    with pytest.raises(ValueError, match=message):
        check_groups_of_views(images, np.array([5, 6, 5, 5]))
