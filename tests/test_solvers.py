import numpy as np
import oracles
import pytest
import tensorflow as tf
from solver_contract import SolverContract

from tf_direct_opt import solvers


class TestCategorical(SolverContract):
    sizes = ((1, 2), (1, 40), (3, 2), (3, 7), (1, 1))

    def make(self, size):
        return solvers.Categorical()

    def event_shape(self, size):
        return size

    def configurations(self, size):
        return oracles.all_codes(*size).astype(np.float32)


@pytest.mark.parametrize("num_categories", [2, 7, 40, 1000])
def test_equal_scores_are_broken_alike_by_xla(num_categories):
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 3, [500, num_categories]).astype(np.float32)
    expected = np.eye(num_categories)[scores.argmax(axis=1)]
    for jit_compile in (False, True):
        solve = tf.function(solvers.Categorical(), jit_compile=jit_compile)
        np.testing.assert_array_equal(solve(tf.constant(scores)), expected)


def test_get_by_name_or_callable():
    assert isinstance(solvers.get("categorical"), solvers.Categorical)
    assert solvers.get(tf.sign) is tf.sign
    with pytest.raises(ValueError, match=r"one of \['categorical'\].*received 'softmax'"):
        solvers.get("softmax")
    with pytest.raises(ValueError, match="received 3"):
        solvers.get(3)


def test_name_of_a_registered_solver_only():
    assert solvers.name_of(solvers.Categorical()) == "categorical"
    assert solvers.name_of(tf.sign) is None


def test_supports_jit_is_what_the_solver_says():
    class InPython:
        supports_jit = False

    assert solvers.supports_jit(solvers.Categorical())
    assert solvers.supports_jit(tf.sign)
    assert not solvers.supports_jit(InPython())
