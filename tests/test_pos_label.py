"""Which class is meant: one rule, that of scikit-learn, wherever a class matters."""

import numpy as np
import pytest

from sklearn_dfd._core.validation import check_same_two_classes, resolve_pos_label


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ([0, 1], 1),
        ([-1, 1], 1),
        ([False, True], True),
        ([0.0, 1.0], 1.0),
        ([0], 1),
        ([1], 1),
        ([-1], 1),
        (np.array([0, 1], dtype=object), 1),
        (np.array([0, 1], dtype=np.uint8), 1),
    ],
)
def test_labels_that_say_it_themselves(classes, expected):
    label = resolve_pos_label(None, classes, "f({})")
    assert label == expected and type(label) is type(expected)


@pytest.mark.parametrize(
    "classes",
    [
        ["fake", "real"],
        ["0", "1"],
        ["False", "True"],
        [1, 2],
        [0, 2],
        [-1, 0],
        [0.5, 1.0],
        [-1, 0, 1],
        [0, 1, 2],
        ["real"],
        [2],
    ],
)
def test_labels_that_leave_it_open(classes):
    with pytest.raises(ValueError, match="must be given") as error:
        resolve_pos_label(None, np.array(classes), "f(X, {})")
    assert str(classes) in str(error.value)
    assert f"f(X, pos_label={classes[0]!r})" in str(error.value)
    for label in np.array(classes):
        assert resolve_pos_label(label, np.array(classes), "f({})") == label


@pytest.mark.parametrize("label", ["Fake", 1, True, 0.0, np.str_("fak")])
def test_a_label_that_is_none_of_the_classes(label):
    with pytest.raises(ValueError, match=r"is not one of the classes \['fake', 'real'\]"):
        resolve_pos_label(label, ["fake", "real"], "f({})")
    with pytest.raises(ValueError, match="class_of_interest="):
        resolve_pos_label(label, ["fake", "real"], "f({})", name="class_of_interest")


def test_the_two_classes_of_a_detector():
    y = np.array(["real", "fake", "real"])
    assert check_same_two_classes(y, np.array(["fake", "real"])) == ["fake", "real"]
    for labels, classes in ((y[:1], ["fake", "real"]), (y, [0, 1]), (y, ["fake", "spliced"])):
        with pytest.raises(ValueError, match="both must be the same two"):
            check_same_two_classes(np.array(labels), classes)
    with pytest.raises(ValueError, match="Two classes are needed"):
        check_same_two_classes(np.arange(3), [0, 1, 2])
