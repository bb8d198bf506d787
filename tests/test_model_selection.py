"""Splits keep groups on one side and views out of the test."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    LeaveOneGroupOut,
    LeaveOneOut,
    LeavePGroupsOut,
    PredefinedSplit,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_dfd import MobileNetV2Features
from sklearn_dfd.augmentation import View, augment
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.model_selection import OriginalsSplit, _share_out, train_test_group_split

N = 24
PATHS = [f"{i}.jpg" for i in range(N)]
Y = np.arange(N) % 2
GROUPS = np.arange(N) // 3
VIEWS = augment(PATHS, n_views=1, random_state=0)


@pytest.fixture
def faces():
    return augment(PATHS, Y, GROUPS, n_views=2, random_state=0)


def assert_sound(splits, X, groups=None):
    """Assert that only originals are tested on, and that none of their groups is trained on."""
    for train, test in splits:
        assert len(train) and len(test)
        assert not any(isinstance(X[row], View) for row in test)
        sources = {getattr(X[row], "source", X[row]) for row in train}
        assert sources.isdisjoint(X[row] for row in test)
        if groups is not None:
            assert set(groups[train]).isdisjoint(groups[test])


# OriginalsSplit ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cv",
    [
        GroupKFold(4),
        StratifiedGroupKFold(4, shuffle=True, random_state=0),
        LeaveOneGroupOut(),
        GroupShuffleSplit(3, random_state=0),
    ],
    ids=lambda cv: type(cv).__name__,
)
@pytest.mark.parametrize("masked", [False, True])
def test_folds_of_photographs_with_their_views_in_training(cv, masked, faces):
    splitter = OriginalsSplit(cv, faces.is_original if masked else None)
    splits = list(splitter.split(faces.data, faces.target, faces.groups))
    assert_sound(splits, faces.data, faces.groups)
    assert len(splits) == splitter.get_n_splits(faces.data, faces.target, faces.groups)
    plain = list(cv.split(PATHS, Y, GROUPS))
    for (train, test), (plain_train, plain_test) in zip(splits, plain, strict=True):
        assert np.array_equal(test, plain_test)
        assert np.array_equal(train[: len(plain_train)], plain_train)
        views = np.concatenate([plain_train + N, plain_train + 2 * N])
        assert sorted(train[len(plain_train) :]) == sorted(views)


@pytest.mark.parametrize(
    "cv", [KFold(4), StratifiedKFold(4), ShuffleSplit(3, random_state=0), LeaveOneOut()]
)
def test_without_groups_views_follow_their_photograph(cv):
    faces = augment(PATHS, Y, n_views=2)
    order = np.random.RandomState(0).permutation(3 * N)
    for X in (faces.data[order], faces.data[order].tolist(), pd.Series(faces.data[order])):
        splits = list(OriginalsSplit(cv).split(X, faces.target[order]))
        assert_sound(splits, np.asarray(X, dtype=object))
        for train, _ in splits:
            assert len(train) == 3 * sum(not isinstance(X[row], View) for row in train)
        assert OriginalsSplit(cv).get_n_splits(X) == cv.get_n_splits(PATHS)


def test_views_of_what_is_on_neither_side_are_left_out():
    faces = augment(PATHS, n_views=2)
    splitter = OriginalsSplit(ShuffleSplit(3, train_size=5, test_size=5, random_state=0))
    for train, test in splitter.split(faces.data):
        assert (len(train), len(test)) == (15, 5)
    assert_sound(splitter.split(faces.data), faces.data)


def test_images_in_memory_are_known_by_what_they_are():
    photos = make_spliced_photos(12, image_size=32, random_state=0)
    faces = augment(photos.data, photos.target, n_views=1)
    for train, test in OriginalsSplit(StratifiedKFold(3)).split(faces.data, faces.target):
        assert len(train) == 16
        assert set(test) | set(train[:8]) == set(range(12))
        assert sorted(train[8:] - 12) == sorted(train[:8])


def test_without_views_it_is_the_splitter():
    for X in (PATHS, np.zeros((N, 8, 8), np.uint8)):
        splits = OriginalsSplit(GroupKFold(4)).split(X, Y, GROUPS)
        for split, plain in zip(splits, GroupKFold(4).split(PATHS, Y, GROUPS), strict=True):
            assert np.array_equal(split[0], plain[0])
            assert np.array_equal(split[1], plain[1])


def test_splitter_of_features_with_a_mask(faces):
    features = np.random.default_rng(0).normal(size=(3 * N, 4))
    splitter = OriginalsSplit(GroupKFold(4), faces.is_original.tolist())
    for X in (features, scipy.sparse.csr_array(features), pd.DataFrame(features)):
        splits = list(splitter.split(X, faces.target, pd.Series(faces.groups)))
        assert_sound(splits, faces.data, faces.groups)
        assert splitter.get_n_splits(X, groups=faces.groups) == 4
    assert splitter.get_n_splits() == 4


def split_all(cv, X=PATHS, y=None, groups=None, is_original=None):
    return list(OriginalsSplit(cv, is_original).split(X, y, groups))


TWICE = [*PATHS, PATHS[0]]
VIEWED = [*PATHS, View(PATHS[0], 0)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"cv": KFold(5), "groups": GROUPS},
            r"Split 0 trains on row 5 and tests on row 3, which are of group 1: use a splitter",
        ),
        ({"cv": KFold(5), "X": TWICE}, r"on row 24 and tests on row 0, which show the same photo"),
        (
            {"cv": GroupKFold(4), "groups": np.zeros(N)},
            r"number of splits n_splits=4 greater than the number of groups: 1\. GroupKFold was "
            r"given 24 photographs, which are in 1 group\(s\): use photographs of more groups",
        ),
        (
            {"cv": GroupKFold(10), "groups": GROUPS},
            r"greater than the number of groups: 8\. .* in 8 group\(s\): use 8 splits at most, or",
        ),
        (
            {"cv": GroupKFold(50), "groups": GROUPS},
            r"given 24 photographs, which are in 8 group\(s\): use 8 splits at most, or phot",
        ),
        ({"cv": StratifiedGroupKFold(10), "groups": GROUPS}, r"in 8 group\(s\): use 8 splits at"),
        ({"cv": LeaveOneGroupOut(), "groups": np.zeros(N)}, r"in 1 group\(s\): use photographs"),
        ({"cv": LeavePGroupsOut(9), "groups": GROUPS}, r"in 8 group\(s\): use fewer splits, or ph"),
        (
            {"cv": GroupKFold(4)},
            "'groups' parameter should not be None.* in no groups: pass",
        ),
        ({"cv": StratifiedGroupKFold(4)}, "which are in no groups: pass groups"),
        (
            {"cv": StratifiedGroupKFold(4), "groups": np.where(GROUPS == 5, np.nan, GROUPS)},
            r"groups has no label in row \d+ \(nan\): a row that belongs to no other",
        ),
        (
            {"cv": GroupKFold(4), "groups": GROUPS[1:]},
            "groups has 23 values for 24 rows of X: pass",
        ),
        ({"cv": KFold(4), "y": Y[1:]}, "y has 23 values for 24 rows of X: pass one per row"),
        (
            {"cv": GroupKFold(4), "groups": GROUPS, "y": np.where(GROUPS == 5, "fake", "real")},
            r"Split \d has no image of class fake to train on\. Class fake has all its 3 photo"
            r"graphs in 1 group\(s\), 5: it cannot be on 2 sides\. Use more groups of this cl",
        ),
        (
            {
                "cv": PredefinedSplit(GROUPS // 3),
                "groups": GROUPS.astype(str),
                "y": np.where(GROUPS < 3, "fake", "real"),
            },
            "Split 0 has no image of class fake to train on: too few of its groups are left",
        ),
        (
            {"cv": KFold(4), "X": VIEWED, "y": np.isin(np.arange(N + 1), [0, N]).astype(int)},
            r"Split 0 has no image of class 1 to train on\. Class 1 has too few photographs \(1\) "
            r"to be on 2 sides\. Use more photographs of this class, or leave it out",
        ),
        (
            {"cv": GroupKFold(4), "X": VIEWED, "groups": [*GROUPS, 1]},
            r"row 0 \('0\.jpg'\) and row 24 \(view of '0\.jpg'\) show the same photograph, but "
            "are in groups 0 and 1",
        ),
        (
            {"cv": GroupKFold(4), "X": [*PATHS, View("x.jpg", 0)], "groups": [*GROUPS, 99]},
            "1 of 25 rows, starting with row 24, are views whose photograph is not in X",
        ),
        ({"cv": KFold(2), "X": [View(p, 0) for p in PATHS]}, "X holds only views"),
        (
            {"cv": GroupKFold(4), "groups": GROUPS, "is_original": [True] * 72},
            r"is_original has 72 values for 24 rows of X\. .* a part of X again, it cannot be used",
        ),
        (
            {"cv": GroupKFold(4), "groups": GROUPS, "is_original": [1] * 24},
            "is_original has dtype int64: pass booleans",
        ),
        ({"cv": KFold(4), "is_original": [True] * 24}, "but not of which photograph: pass groups"),
        (
            {"X": VIEWS.data, "cv": GroupKFold(4), "groups": range(48), "is_original": [True] * 48},
            r"is_original is True for row 24, which is a view of '.*': pass what augment returned",
        ),
        (
            {
                "X": VIEWS.data,
                "cv": GroupKFold(4),
                "groups": [*range(24), *range(23, -1, -1)],
                "is_original": VIEWS.is_original,
            },
            r"row 0 \(.*\) and row 24 \(view of .*\) show the same photograph, but are",
        ),
        ({"cv": KFold(4), "X": np.zeros((24, 9))}, "features of images, pass is_original"),
    ],
)
@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
def test_what_cannot_be_split(arguments, message):
    with pytest.raises(ValueError, match=message):
        split_all(**arguments)


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
def test_a_class_of_one_group_that_is_never_tested_on():
    y = np.where(GROUPS == 5, "fake", "real")
    assert len(split_all(PredefinedSplit(np.where(GROUPS < 4, 0, -1)), y=y, groups=GROUPS)) == 1


@pytest.mark.parametrize("cv", [5, None])
def test_what_is_no_splitter(cv):
    message = f"cv is {cv}: pass a splitter, such as StratifiedGroupKFold"
    with pytest.raises(TypeError, match=message):
        split_all(cv, groups=GROUPS)
    with pytest.raises(TypeError, match=message):
        OriginalsSplit(cv).get_n_splits()


@pytest.mark.parametrize("side", ["training", "test"])
def test_empty_sides(side):
    class Uneven(KFold):  # as StratifiedGroupKFold of older releases with too few groups
        def split(self, X, y=None, groups=None):
            rows, none = np.arange(len(X)), np.arange(0)
            yield (none, rows) if side == "training" else (rows, none)

    message = f"Split 0 has nothing on its {side} side: the photographs are in 8 groups; use fewer"
    with pytest.raises(ValueError, match=message):
        split_all(Uneven(), groups=GROUPS)


def test_targets_that_are_no_classes_are_not_checked_as_such():
    assert len(split_all(KFold(4), y=np.linspace(0, 1, N))) == 4


@pytest.fixture
def pipe():
    return make_pipeline(
        MobileNetV2Features("pool", weights=None, image_size=32), RidgeClassifier()
    )


@pytest.fixture
def photos():
    photos = make_spliced_photos(60, image_size=32, random_state=0)
    # Of one size, one of each class, so that the folds are of one size too.
    groups = np.empty(60, dtype=int)
    for label in (0, 1):
        groups[photos.target == label] = np.arange(30)
    return augment(photos.data, photos.target, groups, n_views=1, random_state=0)


def test_in_cross_validation_and_nested_search(pipe, photos, monkeypatch):
    fitted, tested = [], []
    fit, transform = MobileNetV2Features.fit, MobileNetV2Features.transform

    def watch(self, X):
        tested.append(sum(isinstance(image, View) for image in X))
        return transform(self, X)

    monkeypatch.setattr(
        MobileNetV2Features, "fit", lambda self, X, y=None: fitted.append(len(X)) or fit(self, X)
    )
    monkeypatch.setattr(MobileNetV2Features, "transform", watch)
    outer = OriginalsSplit(StratifiedGroupKFold(3))
    data, target, groups = photos.data, photos.target, photos.groups
    scores = cross_val_score(pipe, data, target, groups=groups, cv=outer)
    assert scores.shape == (3,)
    assert fitted == [80, 80, 80]
    assert tested == [40, 0] * 3

    fitted.clear()
    search = GridSearchCV(
        pipe,
        {"ridgeclassifier__alpha": [1, 2]},
        cv=OriginalsSplit(StratifiedKFold(2)),  # no groups: each photograph is one by itself
    )
    cross_val_score(search, data, target, groups=groups, cv=outer)
    assert fitted == [40, 40, 40, 40, 80] * 3
    assert clone(search).fit(data, target).best_score_ > 0


def test_groups_are_routed_to_nested_searches(pipe, photos):
    with sklearn.config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            pipe,
            {"ridgeclassifier__alpha": [1]},
            cv=OriginalsSplit(StratifiedGroupKFold(2)),
            error_score="raise",
        )
        result = cross_validate(
            search,
            photos.data,
            photos.target,
            params={"groups": photos.groups},
            cv=OriginalsSplit(StratifiedGroupKFold(3)),
            error_score="raise",
        )
    assert len(result["test_score"]) == 3


def test_mask_in_a_search_within_a_search_is_refused(faces):
    pipe = make_pipeline(FunctionTransformer(), RidgeClassifier())
    X = np.random.default_rng(0).normal(size=(3 * N, 4))
    cv = OriginalsSplit(StratifiedGroupKFold(2), faces.is_original)
    search = GridSearchCV(pipe, {"ridgeclassifier__alpha": [1]}, cv=cv)
    assert search.fit(X, faces.target, groups=faces.groups).n_splits_ == 2
    with pytest.raises(ValueError, match="is_original has 72 values for 36 rows"):
        cross_val_score(search, X, faces.target, groups=faces.groups, cv=cv, error_score="raise")


def test_repr():
    assert repr(OriginalsSplit(KFold(3))).startswith("OriginalsSplit(cv=KFold(n_splits=3")


# train_test_group_split --------------------------------------------------------------------------


def grouped(n_groups, seed, sizes="small"):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, n_groups) if sizes == "small" else rng.geometric(0.1, n_groups)
    groups = np.repeat(rng.permutation(n_groups), sizes)
    return (rng.random(len(groups)) < rng.beta(1, 2, n_groups)[groups]).astype(int), groups


@pytest.mark.parametrize("sizes", ["small", "skewed"])
@pytest.mark.parametrize(
    ("test_size", "validation_size"), [(0.25, None), (0.37, None), (0.15, 0.15), (0.9, 0.05)]
)
def test_shares_of_rows_and_classes(test_size, validation_size, sizes):
    shares = [1 - test_size - (validation_size or 0), validation_size, test_size]
    for seed in range(5):
        y, groups = grouped(200, seed, sizes)
        parts = train_test_group_split(
            np.arange(len(y)),
            groups=groups,
            stratify=y,
            test_size=test_size,
            validation_size=validation_size,
            random_state=seed,
        )
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(y)))
        assert sum(len(np.unique(groups[part])) for part in parts) == len(np.unique(groups))
        for part, share in zip(parts, filter(None, shares), strict=True):
            assert np.all(np.diff(part) > 0)
            for c in (0, 1):
                assert np.sum(y[part] == c) == pytest.approx(share * np.sum(y == c), rel=0.15)


def test_each_kind_of_array_is_returned_in_turn():
    y, groups = grouped(40, 0)
    n = len(y)
    arrays = [[str(i) for i in range(n)], np.arange(n), pd.Series(np.arange(n)), groups.tolist()]
    arrays.append(scipy.sparse.csr_array(np.arange(n)[:, np.newaxis]))
    parts = train_test_group_split(
        *arrays, groups=groups, stratify=y, validation_size=0.2, random_state=0
    )
    assert len(parts) == 15
    train, validation, test = parts[3:6]
    for k, rows in enumerate((train, validation, test)):
        assert parts[k] == [str(i) for i in rows]
        assert parts[6 + k].tolist() == rows.tolist()
        assert parts[9 + k] == groups[rows].tolist()
        assert parts[12 + k].toarray().ravel().tolist() == rows.tolist()


def test_random_state():
    y, groups = grouped(60, 0)

    def test_rows(random_state):
        rows = np.arange(len(y))
        options = {"groups": groups, "stratify": y, "random_state": random_state}
        return tuple(train_test_group_split(rows, **options)[1])

    assert test_rows(0) == test_rows(0) == test_rows(np.random.RandomState(0))
    assert len({test_rows(seed) for seed in range(5)}) == 5


def test_any_group_can_be_tested_on():
    groups = np.repeat(np.arange(8), [9, 8, 7, 6, 5, 4, 3, 2])
    tested = set()
    for seed in range(40):
        tested |= set(train_test_group_split(groups, groups=groups, random_state=seed)[1])
    assert tested == set(range(8))


def test_a_group_goes_where_it_does_not_overflow():
    goal = np.array([[70.0], [23.0]])
    part, have = _share_out(np.array([[3.0], [90.0]]), goal, [0, 1])
    assert part.tolist() == [0, 0]
    assert have.tolist() == [[93], [0]]


def test_as_many_groups_as_sides():
    parts = train_test_group_split(
        list("abc"), groups=["x", "y", "z"], validation_size=0.25, random_state=0
    )
    assert sorted(map(len, parts)) == [1, 1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": [1, 2]}, "groups has 2 values for 6 rows"),
        ({"stratify": [1, 2]}, "stratify has 2 values for 6 rows"),
        ({"groups": [1, 1, 2, 2, 3, None]}, r"groups has no label in row 5 \(None\)"),
        ({"groups": np.ones((6, 2))}, r"groups is an array of shape \(6, 2\): pass one label"),
        ({"groups": [1] * 6}, r"1 groups for 2 sides \(training, test\)"),
        (
            {"groups": [1, 1, 1, 2, 2, 2], "validation_size": 0.2},
            r"2 groups for 3 sides \(training, validation, test\)",
        ),
        (
            {"stratify": ["r", "r", "f", "f", "r", "r"], "groups": list("aabbcc")},
            r"Class f has all its 2 rows in 1 group\(s\), 'b': it cannot be on 2 sides",
        ),
        ({"test_size": 0.6, "validation_size": 0.4}, "leave nothing to train on"),
        ({"test_size": 1.5}, "'test_size' parameter"),
        ({"test_size": 0}, "'test_size' parameter"),
        ({"groups": None}, "'groups' parameter"),
        (
            {"stratify": list("aabbcc"), "groups": [1, 2, 2, 3, 1, 3]},
            r"The (training|test) side would have no row of class [abc]: its share is",
        ),
    ],
)
def test_what_cannot_be_divided(changes, message):
    arguments = {"groups": [1, 1, 2, 2, 3, 3], "random_state": 0, **changes}
    with pytest.raises(ValueError, match=message):
        train_test_group_split(list("abcdef"), **arguments)


def test_a_side_is_not_left_empty_where_it_need_not_be():
    _, test = train_test_group_split(list(range(8)), groups=[0] * 4 + [1] * 4)
    assert len(test) == 4
    y = np.array([1, 1] + [0] * 10)
    for seed in range(10):
        train, test = train_test_group_split(
            y, groups=range(12), stratify=y, validation_size=None, random_state=seed
        )
        assert sorted(set(train)) == sorted(set(test)) == [0, 1]
        assert len(test) == 3


def test_nothing_to_divide():
    with pytest.raises(ValueError, match="at least one array"):
        train_test_group_split(groups=[1, 2])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        train_test_group_split([1, 2], [1], groups=[1, 2])
