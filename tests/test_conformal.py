"""The pages' recipe with MAPIE: sets of classes that cover by group what they promise."""

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.datasets import make_spliced_photos

SplitConformalClassifier = pytest.importorskip("mapie.classification").SplitConformalClassifier


def test_the_pipeline_is_taken_as_it_is(tmp_path):
    photos = make_spliced_photos(60, random_state=0)
    y = photos.target_names[photos.target]
    paths = np.array([str(tmp_path / f"{i}.png") for i in range(60)])
    for path, pixels in zip(paths, photos.data, strict=True):
        Image.fromarray(pixels).save(path)
    train = photos.groups % 2 == 0
    pipe = make_deepfake_pipeline(preset="fast", weights=None, image_size=64)
    pipe.fit(paths[train], y[train])
    one_of_each = np.unique(photos.groups[~train], return_index=True)[1]
    conformal = SplitConformalClassifier(pipe, confidence_level=0.7, prefit=True)
    conformal.conformalize(paths[~train][one_of_each], y[~train][one_of_each])
    labels, sets = conformal.predict_set(paths[~train])
    assert labels.tolist() == pipe.predict(paths[~train]).tolist()
    assert sets.shape == (len(labels), 2, 1) and sets.dtype == bool
    # a set holds the likelier class whenever it holds the other one
    likelier = pipe.predict_proba(paths[~train]).argmax(axis=1)
    alone = sets[:, :, 0].sum(axis=1) == 1
    assert (sets[alone, :, 0].argmax(axis=1) == likelier[alone]).all()


def test_sets_cover_the_class_of_new_groups():
    """One photograph of each calibration group is what makes the promise true of new groups."""
    rng = np.random.default_rng(0)
    model = LogisticRegression()
    covered, sizes = [], []

    def groups_of(n, copies):
        y = rng.integers(0, 2, n)
        X = rng.normal(1.5 * y)[:, np.newaxis] + rng.normal(scale=0.1, size=(n, copies))
        return X, np.repeat(y, copies).reshape(n, copies)

    X, y = groups_of(500, 1)
    model.fit(X, y.ravel())
    for _ in range(60):
        X, y = groups_of(60, 5)
        conformal = SplitConformalClassifier(model, confidence_level=0.8, prefit=True)
        conformal.conformalize(X[:, :1], y[:, 0])
        X, y = groups_of(200, 5)
        _, sets = conformal.predict_set(X[:, 2:3])
        covered.append(sets[np.arange(200), y[:, 2], 0].mean())
        sizes.append(sets.sum(axis=1).mean())
    assert 0.78 < np.mean(covered) < 0.86
    assert np.mean(sizes) < 1.5
