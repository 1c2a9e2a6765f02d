"""What every argmax solver has to do; a test class inherits it and says how to make one."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tf_direct_opt import solvers


class SolverContract:
    """Subclasses give `solver`, `sizes`, `event_shape(size)` and `configurations(size)`.

    A size is the tuple of the solver's arguments, unless `make` says otherwise; the
    configurations are all feasible codes, the lowest first.
    """

    instances = 100
    sizes_one_by_one = ()  # Fewer, of a solver that is slow in eager mode.

    def make(self, size):
        return self.solver(*size)

    def wrong_shapes(self, size):
        *first, last = self.event_shape(size)
        return [(), (*first, last, 2), (*first, last + 1)]

    def random(self, generator, shape):
        return generator.normal(size=shape)

    def tied(self, generator, shape):
        return generator.integers(-1, 2, size=shape)

    def test_optimal_and_feasible_by_enumeration(self):
        for size in self.sizes:
            scores, values = self.instance(size, self.random)
            solver = self.make(size)
            written = json.loads(json.dumps(solvers.serialize(solver)))
            again = solvers.get(written)
            assert type(again) is type(solver) is self.solver
            assert solvers.serialize(again) == written
            code = again(tf.constant(scores)).numpy()
            assert code.dtype == np.float32
            np.testing.assert_array_equal(code, self.configurations(size)[values.argmax(axis=1)])

    def test_batched_is_one_by_one(self):
        for size in self.sizes_one_by_one or self.sizes:
            scores, _ = self.instance(size, self.random)
            solver = self.make(size)
            scores = tf.constant(scores[:6])
            single = [solver(row[tf.newaxis])[0] for row in scores]
            np.testing.assert_array_equal(solver(scores), single)
            assert solver(tf.constant(scores[:0])).shape == (0, *self.event_shape(size))

    def test_ties_go_to_the_lowest_configuration(self):
        for size in self.sizes:
            configurations = self.configurations(size)
            zeros = tf.zeros([3, *self.event_shape(size)])
            lowest = self.make(size)(zeros).numpy()
            np.testing.assert_array_equal(lowest, [configurations[0]] * 3)
            scores, values = self.instance(size, self.tied)
            code = self.make(size)(tf.constant(scores)).numpy()
            np.testing.assert_array_equal(code, configurations[values.argmax(axis=1)])

    def test_a_graph_and_xla_give_the_same(self):
        # The batch is unknown in the graph, as it is in a Keras model.
        size = self.sizes[-1]
        signature = [tf.TensorSpec([None, *self.event_shape(size)], tf.float32)]
        solver = self.make(size)
        functions = [tf.function(solver, input_signature=signature)]
        assert functions[0].get_concrete_function().output_shapes == signature[0].shape
        if solvers.supports_jit(solver):
            functions.append(tf.function(solver, jit_compile=True))
        for draw in (self.random, self.tied):
            scores = self.instance(size, draw)[0][:50]
            for function in functions:
                np.testing.assert_array_equal(function(scores), solver(tf.constant(scores)))

    def test_half_and_double_precision_give_the_same(self):
        for size in (self.sizes[0], self.sizes[-1]):
            # Quarters, which float16 holds exactly.
            scores = np.round(4.0 * self.instance(size, self.random)[0][:3]) / 4.0
            solver = self.make(size)
            expected = solver(tf.constant(scores, tf.float32))
            for dtype in (tf.float16, tf.float64):
                np.testing.assert_array_equal(solver(tf.constant(scores, dtype)), expected)

    def test_scores_of_wrong_values_or_shapes_are_refused(self):
        size = self.sizes[-1]
        solvers_of_it = self.make(size), tf.function(self.make(size))
        for bad in (np.nan, np.inf, -np.inf):
            scores = np.ones([3, *self.event_shape(size)], np.float32)
            scores.reshape([3, -1])[1, 0] = bad
            for solve in solvers_of_it:
                with pytest.raises(
                    tf.errors.InvalidArgumentError,
                    match=r"Expected finite scores for \w+, received infinite or NaN",
                ):
                    solve(tf.constant(scores))
        for shape in self.wrong_shapes(size):
            with pytest.raises(ValueError, match=r"Expected .*scores.*received shape \("):
                self.make(size)(tf.zeros([2, *shape]))
        with pytest.raises(ValueError, match=r"Expected .*scores.*received shape \(\)"):
            self.make(size)(tf.constant(1.0))

    def test_the_least_floats_give_a_feasible_configuration(self):
        # Their sums are -inf, which what lies outside of a problem may be as well.
        size = self.sizes[-1]
        scores = self.instance(size, self.random)[0][:20]
        scores = np.where(scores < 0.0, np.finfo(np.float32).min, scores)
        feasible = {code.tobytes() for code in self.configurations(size).astype(np.float32)}
        code = self.make(size)(tf.constant(scores)).numpy() + 0.0  # Not -0.
        assert all(row.tobytes() in feasible for row in code)

    def instance(self, size, draw):
        """Random scores and the value of every configuration."""
        generator = np.random.default_rng(0)
        shape = [self.instances, *self.event_shape(size)]
        scores = draw(generator, shape).astype(np.float32)
        flat = self.configurations(size).astype(np.float64)
        flat = flat.reshape([len(flat), -1])
        return scores, scores.reshape([self.instances, -1]).astype(np.float64) @ flat.T
