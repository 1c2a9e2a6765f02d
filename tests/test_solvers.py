import itertools
import sys

import networkx
import numpy as np
import oracles
import pytest
import scipy.sparse
import tensorflow as tf
from solver_contract import SolverContract

from tf_direct_opt import binary, solvers
from tf_direct_opt.solvers import base
from tf_direct_opt.solvers.in_python import InPython


class TestCategorical(SolverContract):
    solver = solvers.Categorical
    sizes = ((1, 2), (1, 40), (1, 1), (3, 2), (3, 7))

    def make(self, size):
        return solvers.Categorical()

    def event_shape(self, size):
        return size

    def wrong_shapes(self, size):
        return [()]

    def configurations(self, size):
        return oracles.all_codes(*size).astype(np.float32)


class TestTopK(SolverContract):
    solver = solvers.TopK
    sizes = ((1, 1), (0, 1), (0, 4), (4, 4), (1, 6), (3, 6), (5, 9))  # (k, n)

    def make(self, size):
        return solvers.TopK(size[0])

    def event_shape(self, size):
        return size[1:]

    def wrong_shapes(self, size):
        return [(), (size[0] - 1,), (9, 1)]

    def configurations(self, size):
        k, n = size
        subsets = itertools.combinations(range(n), k)
        return np.array([np.isin(np.arange(n), subset) for subset in subsets], np.float32)


class TestChain(SolverContract):
    solver = solvers.Chain
    sizes = ((1, 1), (1, 4), (3, 1), (2, 3), (4, 3), (5, 2))

    def event_shape(self, size):
        length, num_categories = size
        return (length * num_categories + (length - 1) * num_categories**2,)

    def configurations(self, size):
        length, num_categories = size
        eye = np.eye(num_categories, dtype=np.float32)
        codes = []
        for labels in itertools.product(range(num_categories), repeat=length):
            pairs = [np.outer(eye[a], eye[b]).ravel() for a, b in itertools.pairwise(labels)]
            codes.append(np.concatenate([*(eye[label] for label in labels), *pairs]))
        return np.array(codes)


class TestAssignment(SolverContract):
    solver = solvers.Assignment
    sizes = (1, 2, 3, 5)

    def make(self, size):
        return solvers.Assignment()

    def event_shape(self, size):
        return size, size

    def configurations(self, size):
        return np.eye(size, dtype=np.float32)[list(itertools.permutations(range(size)))]


class TestSpanningTree(SolverContract):
    solver = solvers.SpanningTree
    sizes = ((2,), (3,), (4,), (5,))

    def event_shape(self, size):
        return (size[0] * (size[0] - 1) // 2,)

    def configurations(self, size):
        (m,) = size
        edges = list(itertools.combinations(range(m), 2))
        codes = []
        for chosen in itertools.combinations(range(len(edges)), m - 1):
            graph = networkx.empty_graph(m)
            graph.add_edges_from(edges[edge] for edge in chosen)
            if networkx.is_tree(graph):
                codes.append(np.isin(np.arange(len(edges)), chosen))
        return np.array(codes, np.float32)


class TestShortestPath(SolverContract):
    solver = solvers.ShortestPath
    sizes = (  # (diagonal, height, width)
        (False, 1, 1),
        (True, 1, 1),
        (False, 1, 4),
        (True, 4, 1),
        (False, 2, 3),
        (False, 5, 4),
        (True, 3, 4),
    )

    def make(self, size):
        return solvers.ShortestPath(size[0])

    def event_shape(self, size):
        return size[1:]

    def wrong_shapes(self, size):
        return [(), (3,), (3, 0), (3, 3, 1)]

    def configurations(self, size):
        diagonal, height, width = size
        moves = [(0, 1), (1, 0), (1, 1)][: 2 + diagonal]

        def paths(row, column):
            if (row, column) == (height - 1, width - 1):
                yield [(row, column)]
            for down, right in moves:
                if row + down < height and column + right < width:
                    for path in paths(row + down, column + right):
                        yield [(row, column), *path]

        codes = []
        for path in paths(0, 0):
            codes.append(np.zeros([height, width], np.float32))
            codes[-1][tuple(np.transpose(path))] = 1.0
        return np.array(codes)


class TestDagPath(SolverContract):
    solver = solvers.DagPath
    sizes = (
        ([(0, 1)], None, None),
        ([(1, 0), (1, 0), (1, 2)], None, 0),  # Two edges of the same nodes; one that leads nowhere.
        ([(0, 3), (0, 1), (1, 2), (2, 3), (1, 3), (4, 1)], 0, 3),
        (solvers.grid_edges(3, 4), None, None),
    )

    def event_shape(self, size):
        return (len(size[0]),)

    def configurations(self, size):
        edges, source, target = size
        source = edges[0][0] if source is None else source
        target = edges[-1][1] if target is None else target

        def paths(node):
            if node == target:
                yield []
            for index, (tail, head) in enumerate(edges):
                if tail == node:
                    for path in paths(head):
                        yield [index, *path]

        found = sorted(paths(source))
        return np.array([np.isin(np.arange(len(edges)), path) for path in found], np.float32)


class TestDagPathStepByStep(TestDagPath):
    """As graphs of many paths are solved."""

    sizes = (*TestDagPath.sizes[:3], (solvers.grid_edges(3, 3), None, None))

    @pytest.fixture(autouse=True)
    def every_path_is_one_too_many(self, monkeypatch):
        monkeypatch.setattr("tf_direct_opt.solvers.dag_path._FEW_PATHS", 0)


class TestGridPath(SolverContract):
    solver = solvers.GridPath
    sizes = (  # (costs, neighbours, height, width)
        ("edges", 8, 1, 1),
        ("nodes", 4, 1, 4),
        ("edges", 8, 2, 3),
        ("nodes", 4, 3, 4),
        ("nodes", 8, 3, 3),
    )

    sizes_one_by_one = sizes[2:3]

    def make(self, size):
        return solvers.GridPath(*size[:2])

    def event_shape(self, size):
        return size[2:] if size[0] == "nodes" else (*size[2:], size[1])

    def wrong_shapes(self, size):
        return [(), (3,), (3, 0), (3, 3, 1)]

    def random(self, generator, shape):
        return -generator.random(shape)

    def tied(self, generator, shape):
        return -generator.integers(0, 3, shape)

    def configurations(self, size):
        costs, neighbours, height, width = size
        moves = [move for move in itertools.product((-1, 0, 1), repeat=2) if any(move)]
        moves = [move for move in moves if neighbours == 8 or 0 in move]

        def paths(cells, taken):
            row, column = cells[-1]
            if (row, column) == (height - 1, width - 1):
                yield cells, taken
                return
            for index, (down, right) in enumerate(moves):
                cell = row + down, column + right
                if 0 <= cell[0] < height and 0 <= cell[1] < width and cell not in cells:
                    yield from paths([*cells, cell], [*taken, index])

        codes = []
        for cells, taken in sorted(paths([(0, 0)], []), key=lambda path: (len(path[1]), path[1])):
            codes.append(np.zeros(self.event_shape(size), np.float32))
            if costs == "nodes":
                codes[-1][tuple(np.transpose(cells))] = 1.0
            for cell, index in zip(cells, taken, strict=False):
                if costs == "edges":
                    codes[-1][(*cell, index)] = 1.0
        return np.array(codes)

    def test_positive_scores_are_refused_or_clipped(self):
        scores = tf.constant([[[-1.0, 2.0], [-0.5, -1.0]]])
        with pytest.raises(tf.errors.InvalidArgumentError, match="at most 0 for GridPath"):
            solvers.GridPath(neighbours=4)(scores)
        code = solvers.GridPath(neighbours=4, clip=True)(scores)
        np.testing.assert_array_equal(code, [[[1.0, 1.0], [0.0, 1.0]]])
        compiled = tf.function(solvers.GridPath(), jit_compile=True)
        assert np.isnan(compiled(scores)).all()

    @pytest.mark.parametrize("costs", ["nodes", "edges"])
    def test_codes_have_the_dtype_of_the_scores(self, costs):
        scores = tf.constant(-1.0, shape=[1, 2, 2] if costs == "nodes" else [1, 2, 2, 8])
        expected = solvers.GridPath(costs)(scores)
        for dtype in (tf.float16, tf.float64):
            code = solvers.GridPath(costs)(tf.cast(scores, dtype))
            assert code.dtype == dtype
            np.testing.assert_array_equal(code, expected)

    def test_sums_beyond_the_greatest_float16_are_compared(self):
        # Four cells of 60000 on every path; of those the one of the lowest moves.
        scores = tf.constant(-6e4, tf.float16, [1, 4, 3])
        expected = [[[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]]
        np.testing.assert_array_equal(solvers.GridPath()(scores), expected)

    def test_long_ways_around_a_wall_are_those_of_networkx(self):
        generator = np.random.default_rng(0)
        costs = generator.random([4, 9, 11]).astype(np.float32) ** 8 + 0.01
        costs[:, 1:8:2, :-1] = costs[:, 3:8:4, 1:] = 5.0
        costs[:, 3:8:4, 0] = 0.01
        code = solvers.GridPath(neighbours=4)(-costs).numpy()
        for cost, visited in zip(costs, code, strict=True):
            graph = networkx.grid_2d_graph(9, 11, create_using=networkx.DiGraph)
            for tail, _, edge in graph.edges(data=True):
                edge["weight"] = cost[tail]
            path = networkx.shortest_path(graph, (0, 0), (8, 10), weight="weight")
            expected = np.zeros([9, 11])
            expected[tuple(np.transpose(path))] = 1.0
            np.testing.assert_array_equal(visited, expected)


class TestKnapsack(SolverContract):
    solver = solvers.Knapsack
    sizes = (([1], 0), ([2, 0, 3], 2), ([4, 6, 10, 8], 16), ([3, 5, 2, 4, 9, 3, 1, 30], 11))

    def event_shape(self, size):
        return (len(size[0]),)

    def configurations(self, size):
        codes = np.array(list(itertools.product([0, 1], repeat=len(size[0]))), np.float32)
        return codes[codes @ size[0] <= size[1]]

    def test_a_capacity_without_end_takes_what_is_of_value(self):
        scores = tf.constant([[1.0, -1.0, 2.0]])
        solver = solvers.Knapsack([1, 2, 3], 2**40)
        np.testing.assert_array_equal(solver(scores), [[1.0, 0.0, 1.0]])
        assert solver.get_config() == {"weights": [1, 2, 3], "capacity": 2**40}
        # A weight that is no int32 either, and does not fit.
        np.testing.assert_array_equal(solvers.Knapsack([1, 2, 2**40], 3)(scores), [[1.0, 0.0, 0.0]])


class TestMILP(SolverContract):
    solver = solvers.MILP
    instances = 15
    sizes = (
        ([[1.0]], 0.5, None),
        ([[1.0, -1.0, 0.5], [1.0, 1.0, 1.0]], [0.5, 2.0], None),
        ([[1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0]], [3.0, 8.0], [1.0, 5.0]),
    )

    def event_shape(self, size):
        return (len(size[0][0]),)

    def configurations(self, size):
        matrix, upper, lower = size
        codes = np.array(list(itertools.product([0, 1], repeat=len(matrix[0]))), np.float32)
        values = codes @ np.transpose(matrix)
        return codes[np.all((values <= upper) & (values >= (lower or -np.inf)), axis=1)]

    def test_equations_of_an_assignment_may_be_relaxed(self):
        rows = np.kron(np.eye(3), np.ones(3)), np.kron(np.ones(3), np.eye(3))
        solver = solvers.MILP(np.concatenate(rows), upper=1.0, lower=1.0, relax=True, ties="any")
        scores = np.random.default_rng(0).normal(size=[20, 3, 3]).astype(np.float32)
        expected = solvers.Assignment()(scores)
        np.testing.assert_array_equal(
            tf.reshape(solver(scores.reshape([20, 9])), [-1, 3, 3]), expected
        )

    def test_a_share_of_the_examples_takes_the_best_solution_seen(self):
        scores = np.random.default_rng(0).normal(size=[200, 5]).astype(np.float32)
        exact = solvers.MILP([[1.0] * 5], 2.0, ties="any")
        some = solvers.MILP([[1.0] * 5], 2.0, ties="any", solve_ratio=0.2)
        best, found = ((scores * solver(scores).numpy()).sum(axis=1) for solver in (exact, some))
        assert np.all(found <= best + 1e-6)
        assert np.mean(found < best - 1e-6) > 0.05  # Of 16 solutions not all have been seen.
        second = (scores * some(scores).numpy()).sum(axis=1)
        assert np.mean(second < best - 1e-6) < 0.5 * np.mean(found < best - 1e-6)

    def test_a_sparse_matrix_is_the_dense_one(self):
        solver = solvers.MILP(scipy.sparse.csr_matrix([[1.0, 0.0, 2.0]]), upper=2.0)
        assert solver.get_config() == solvers.MILP([[1.0, 0.0, 2.0]], upper=2.0).get_config()
        np.testing.assert_array_equal(solver(tf.constant([[1.0, 1.0, 3.0]])), [[0.0, 1.0, 1.0]])

    def test_what_has_no_solution_is_an_error(self):
        with pytest.raises(RuntimeError, match=r"programme of 1 variables; received status 2"):
            solvers.MILP([[1.0]], upper=-1.0)(tf.ones([1, 1]))
        with pytest.raises(RuntimeError, match=r"entry 0.500. Give relax=False"):
            solvers.MILP([[2.0]], upper=1.0, relax=True)(tf.ones([1, 1]))


class TestPairwiseBinary(SolverContract):
    solver = solvers.PairwiseBinary
    sizes = ((1,), (2,), (3,), (6,), (9,))

    def event_shape(self, size):
        return (binary.num_statistics(*size),)

    def configurations(self, size):
        bits = np.array(list(itertools.product([0, 1], repeat=size[0])), np.float32)
        pairs = np.array(list(itertools.combinations(range(size[0]), 2)), int)
        first, second = pairs.reshape([-1, 2]).T
        return np.concatenate([bits, bits[:, first] * bits[:, second]], axis=1)


class TestPairwiseBinaryMaxFlow(TestPairwiseBinary):
    solver = solvers.PairwiseBinaryMaxFlow

    # Couplings of both kinds that the solver takes: zero (about a third) and positive. The first
    # n entries are unary scores.
    def random(self, generator, shape):
        n = {binary.num_statistics(*size): size[0] for size in self.sizes}[shape[-1]]
        scores = generator.normal(size=shape) - 0.5 * (np.arange(shape[-1]) < n) * (n - 1) / 2
        scores[:, n:] = np.maximum(scores[:, n:] + 0.5, 0.0)
        return scores

    def tied(self, generator, shape):
        return np.round(self.random(generator, shape))


class TestPairwiseBinaryMILP(TestPairwiseBinary):
    solver = solvers.PairwiseBinaryMILP
    sizes = ((1,), (2,), (5,))
    instances = 30  # Each of them several integer programmes.

    def test_any_of_the_best_where_ties_do_not_matter(self):
        for size in self.sizes:
            scores, values = self.instance(size, self.tied)
            code = self.solver(*size, ties="any")(tf.constant(scores)).numpy()
            np.testing.assert_array_equal((scores * code).sum(axis=1), values.max(axis=1))

    def test_unknown_ties(self):
        with pytest.raises(ValueError, match="Expected `ties` in"):
            self.solver(3, ties="highest")


def test_every_solver_inherits_the_contract():
    tested, queue = set(), [SolverContract]
    while queue:
        queue += (subclasses := queue.pop().__subclasses__())
        tested |= {test.solver for test in subclasses if test.__module__ != "test_extending"}
    exported = {getattr(solvers, name) for name in solvers.__all__ if name[0].isupper()}
    assert tested == exported == set(solvers._REGISTRY.values())


@pytest.mark.parametrize("num_categories", [2, 7, 40, 1000])
def test_equal_scores_are_broken_alike_by_xla(num_categories):
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 3, [500, num_categories]).astype(np.float32)
    expected = np.eye(num_categories)[scores.argmax(axis=1)]
    for jit_compile in (False, True):
        solve = tf.function(solvers.Categorical(), jit_compile=jit_compile)
        np.testing.assert_array_equal(solve(tf.constant(scores)), expected)


def test_a_single_node_has_the_empty_tree():
    assert solvers.SpanningTree(1)(tf.zeros([3, 0])).shape == (3, 0)


def test_large_spanning_trees_are_those_of_networkx():
    scores = np.random.default_rng(0).normal(size=[5, 40 * 39 // 2]).astype(np.float32)
    code = solvers.SpanningTree(40)(scores).numpy()
    for row, chosen in zip(scores, code, strict=True):
        graph = networkx.Graph()
        for (i, j), weight in zip(itertools.combinations(range(40), 2), row, strict=True):
            graph.add_edge(i, j, weight=weight)
        tree = networkx.maximum_spanning_tree(graph)
        expected = [tree.has_edge(i, j) for i, j in itertools.combinations(range(40), 2)]
        np.testing.assert_array_equal(chosen, expected)


def test_solvers_of_pairwise_scores_agree_where_several_apply():
    # n = 16 is enumerated in chunks.
    n, generator = 16, np.random.default_rng(0)
    scores = generator.normal(size=[6, binary.num_statistics(n)]).astype(np.float32)
    expected = solvers.PairwiseBinary(n)(scores)
    np.testing.assert_array_equal(solvers.PairwiseBinaryMILP(n)(scores), expected)
    scores[:, n:] = np.maximum(scores[:, n:], 0.0)
    scores[:, :n] -= 3.0
    expected = solvers.PairwiseBinary(n)(scores)
    assert 0 < np.mean(expected[:, :n]) < 1
    np.testing.assert_array_equal(solvers.PairwiseBinaryMaxFlow(n)(scores), expected)
    np.testing.assert_array_equal(solvers.PairwiseBinaryMILP(n)(scores), expected)


def test_the_integer_programme_does_not_depend_on_the_unit_of_the_scores():
    scores = np.random.default_rng(0).normal(size=[20, 21])
    scores *= np.repeat([1e-12, 1e-6, 1e6, 1e12], 5)[:, np.newaxis]
    scores = scores.astype(np.float32)
    np.testing.assert_array_equal(
        solvers.PairwiseBinaryMILP(6)(scores), solvers.PairwiseBinary(6)(scores)
    )


@pytest.mark.parametrize("size", [8, 30])
def test_assignment_of_one_tied_pair_of_rows(size):
    # Two equal rows may swap their columns: the lower of the two takes the lower column.
    generator = np.random.default_rng(0)
    scores = generator.normal(size=[20, size, size]).astype(np.float32)
    scores[:, 5] = scores[:, 2]
    column = solvers.Assignment()(scores).numpy().argmax(axis=-1)
    assert np.all(column[:, 2] < column[:, 5])


def test_an_exception_in_python_surfaces():
    message = r"Expected couplings of at least 0 .* received one of -1.0.* use PairwiseBinary"
    solver, scores = solvers.PairwiseBinaryMaxFlow(2), tf.constant([[0.0, 0.0, -1.0]])
    with pytest.raises(ValueError, match=message):
        solver(scores)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"ValueError: {message}"):
        tf.function(solver)(scores)


@pytest.mark.parametrize("threads", [False, True])
def test_an_exception_of_one_example_surfaces(threads):
    def solve(row):
        raise KeyError("the solver's own message")

    def solver(scores):
        return base.solve_in_python(lambda batch: base.one_by_one(solve, batch, threads), scores)

    with pytest.raises(KeyError, match="the solver's own message"):
        solver(tf.zeros([4, 2]))
    with pytest.raises(tf.errors.UnknownError, match='KeyError: "the solver\'s own message"'):
        tf.function(solver)(tf.zeros([4, 2]))


def test_an_integer_programme_that_is_not_solved_is_an_error(monkeypatch):
    import scipy.optimize

    result = scipy.optimize.OptimizeResult(success=False, status=1, message="Time limit.")
    monkeypatch.setattr(scipy.optimize, "milp", lambda *args, **kwargs: result)
    with pytest.raises(RuntimeError, match=r"of 2 variables; received status 1: Time limit"):
        solvers.PairwiseBinaryMILP(2)(tf.ones([1, 3]))


def test_a_missing_library_is_named(monkeypatch):
    for solver, arguments, missing in (
        (solvers.Assignment, (), "scipy.optimize"),
        (solvers.PairwiseBinaryMILP, (3,), "scipy.optimize"),
        (solvers.PairwiseBinaryMaxFlow, (3,), "maxflow"),
        (solvers.MILP, ([[1.0]],), "scipy.optimize"),
    ):
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(ImportError, match=r"needs (SciPy|PyM).*pip install tf_direct_opt\["):
            solver(*arguments)


def test_bad_arguments_are_refused():
    for make, message in (
        (lambda: solvers.TopK(-1), "`k` to be an integer of at least 0; received -1"),
        (lambda: solvers.TopK(2.0), "`k` to be an integer of at least 0; received 2.0"),
        (lambda: solvers.Chain(0, 2), "`length` to be an integer of at least 1; received 0"),
        (lambda: solvers.Chain(2, True), "`num_categories` to be .* received True"),
        (lambda: solvers.SpanningTree(0), "`num_nodes` to be an integer of at least 1"),
        (lambda: solvers.PairwiseBinary(0), "`num_variables` .* from 1 to 20.*received 0"),
        (lambda: solvers.PairwiseBinary(21), "`num_variables` .* received 21.*MaxFlow .*MILP"),
        (lambda: solvers.PairwiseBinaryMaxFlow(0), "`num_variables` to be an integer of at least"),
        (lambda: solvers.PairwiseBinaryMILP("3"), "`num_variables` to be .* received '3'"),
        (lambda: solvers.DagPath([0, 1]), "`edges` to be pairs of integers"),
        (lambda: solvers.DagPath([(0, -1)]), "nodes from 0; received -1"),
        (lambda: solvers.DagPath([(0, 1), (2, 1)]), r"one source .* nodes \[0, 2\]. Give `source`"),
        (lambda: solvers.DagPath([(0, 1), (1, 2)], 1, 0), "a path from node 1 to node 0"),
        (lambda: solvers.DagPath([(0, 1), (1, 2), (2, 1), (2, 3)]), "a graph without cycles"),
        (lambda: solvers.GridPath("cells"), "`costs` in .* received 'cells'"),
        (lambda: solvers.GridPath(neighbours=6), "4 or 8 `neighbours`; received 6"),
        (lambda: solvers.Knapsack([1.5], 2), r"`weights` .* integers .* received \[1.5\]. Give"),
        (lambda: solvers.Knapsack([1], 2.0), "`capacity` to be an integer of at least 0"),
        (lambda: solvers.MILP([1.0]), r"a finite `matrix` \[m, n\]; received shape \(1,\)"),
        (lambda: solvers.MILP([[1.0]], [1.0, 2.0]), "`upper` to be a number or 1 of them"),
        (lambda: solvers.MILP([[1.0]], ties="all"), "`ties` in"),
        (lambda: solvers.MILP([[1.0]], solve_ratio=0.0), "`solve_ratio` in"),
        (lambda: solvers.register(""), "a `name` for the solver"),
    ):
        with pytest.raises(ValueError, match=f"Expected {message}"):
            make()


def test_large_grids_are_those_of_networkx():
    edges = solvers.grid_edges(30, 30)
    costs = np.random.default_rng(0).random([3, len(edges)]).astype(np.float32)
    code = solvers.DagPath(edges)(-costs).numpy()
    for cost, taken in zip(costs, code, strict=True):
        graph = networkx.DiGraph()
        graph.add_weighted_edges_from((*edge, c) for edge, c in zip(edges, cost, strict=True))
        path = networkx.shortest_path(graph, 0, 899, weight="weight")
        chosen = set(itertools.pairwise(path))
        np.testing.assert_array_equal(taken, [edge in chosen for edge in edges])


def test_edges_of_a_grid_are_ordered_row_by_row():
    assert solvers.grid_edges(2, 3) == [(0, 1), (1, 2), (0, 3), (1, 4), (2, 5), (3, 4), (4, 5)]


def test_a_slow_solver_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr("tf_direct_opt.solvers.base.SLOW_SECONDS", -1.0)
    with pytest.warns(RuntimeWarning, match="one of 3 problems took 0 s, and every training step"):
        code = solvers.Assignment()(tf.zeros([3, 2, 2]))
    np.testing.assert_array_equal(code, [np.eye(2)] * 3)


@pytest.mark.parametrize("batched", [False, True])
def test_a_function_in_numpy_is_a_solver_by_its_name(batched):
    name = f"test_solvers/best_{batched}"

    @solvers.register(name, batched=batched, threads=not batched)
    def best(scores):
        assert scores.ndim == 1 + batched
        return scores == scores.max(axis=-1, keepdims=True)

    scores = tf.constant([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    for solver in (best, solvers.get(name), solvers.get(solvers.serialize(best))):
        assert solver is best
        np.testing.assert_array_equal(solver(scores), [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert solvers.name_of(best) == name
    assert not solvers.supports_jit(best)
    with pytest.raises(ValueError, match=r"received 'unknown'.*has to be registered before"):
        solvers.get("unknown")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda s: s, "to return 0/1 entries .* received other entries"),
        (lambda s: s * np.nan, "to return 0/1 entries .* received other entries"),
        (lambda s: s[:2], r"in the shape of its scores, \(3,\); received shape \(2,\)"),
        (lambda s: {}["no plan"], "no plan"),
    ],
)
def test_a_function_that_raises_or_returns_rubbish_is_named(result, message):
    solver = InPython(result, "test_solvers/rubbish", batched=False, threads=False)
    scores = tf.constant([[0.5, 2.0, 3.0]])
    with pytest.raises((ValueError, KeyError), match=message):
        solver(scores)
    with pytest.raises(tf.errors.OpError, match=message):
        tf.function(solver)(scores)


def test_the_lowest_of_ties_has_bits_that_the_first_solution_has_not():
    # Worth 2: 1100 is too heavy; of 0010 and 0001, which HiGHS may find, the second is the lower.
    solver = solvers.MILP([[1, 2, 2, 1], [2, 1, 0, 0]], upper=[2, 1])
    np.testing.assert_array_equal(solver(tf.constant([[1.0, 2.0, 2.0, 2.0]])), [[0, 0, 0, 1]])


def test_get_by_name_or_callable():
    assert isinstance(solvers.get("categorical"), solvers.Categorical)
    assert solvers.get("top_k", k=3).k == 3
    assert solvers.get(tf.sign) is tf.sign
    with pytest.raises(ValueError, match=r"one of \['assignment', .*received 'softmax'"):
        solvers.get("softmax")
    with pytest.raises(ValueError, match="received 3"):
        solvers.get(3)
    with pytest.raises(ValueError, match=r"arguments of the solver 'top_k'; received {}: .*'k'"):
        solvers.get("top_k")


def test_name_of_a_registered_solver_only():
    assert solvers.name_of(solvers.Categorical()) == "categorical"
    assert solvers.name_of(tf.sign) is None
    assert solvers.serialize(tf.sign) is None
    assert solvers.serialize(solvers.TopK(3)) == {"name": "top_k", "config": {"k": 3}}


def test_supports_jit_is_what_the_solver_says():
    class InPython:
        supports_jit = False

    assert solvers.supports_jit(solvers.Categorical())
    assert solvers.supports_jit(tf.sign)
    assert not solvers.supports_jit(InPython())
