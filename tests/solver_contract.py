"""What every argmax solver has to do; a test class inherits it and says how to make one."""

import numpy as np
import tensorflow as tf


class SolverContract:
    """Subclasses give `sizes`, `make(size)`, `event_shape(size)` and `configurations(size)`."""

    instances = 200

    def test_optimal_and_feasible_by_enumeration(self):
        for size in self.sizes:
            scores, feasible = self.instance(size)
            code = self.make(size)(tf.constant(scores)).numpy()
            best = np.tensordot(scores, feasible, [self.axes(scores), self.axes(feasible)])
            np.testing.assert_array_equal(code, feasible[best.argmax(axis=1)])

    def test_batched_is_one_by_one(self):
        for size in self.sizes:
            scores, _ = self.instance(size)
            solver = self.make(size)
            single = [solver(tf.constant(row[np.newaxis])).numpy()[0] for row in scores[:20]]
            np.testing.assert_array_equal(solver(tf.constant(scores)).numpy()[:20], single)

    def test_ties_go_to_the_lowest_configuration(self):
        for size in self.sizes:
            scores = np.zeros([3, *self.event_shape(size)], np.float32)
            lowest = self.configurations(size)[0]
            for solve in (self.make(size), tf.function(self.make(size))):
                np.testing.assert_array_equal(solve(tf.constant(scores)).numpy(), [lowest] * 3)

    def instance(self, size):
        generator = np.random.default_rng(0)
        shape = [self.instances, *self.event_shape(size)]
        return generator.normal(size=shape).astype(np.float32), self.configurations(size)

    @staticmethod
    def axes(array):
        return list(range(1, array.ndim))
