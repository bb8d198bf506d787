"""Parameters of fitted classifiers, to compare."""

import numpy as np


def parameters_of(classifier):
    return {k: v.cpu().numpy().copy() for k, v in classifier.net_.module_.state_dict().items()}


def assert_same_weights(a, b, atol=0.0):
    a, b = parameters_of(a), parameters_of(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=atol, err_msg=name)
