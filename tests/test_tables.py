import numpy as np
import oracles
import pytest
import scipy.special
import tensorflow as tf

from tf_direct_opt import losses, tables


def make_problem(batch, num_variables, num_categories, num_pixels=11):
    """A random two-layer Bernoulli decoder, images, codes, and every loss by enumeration."""
    generator = np.random.default_rng(0)
    size = num_variables * num_categories
    first = tf.Variable(generator.normal(size=[size, 8]).astype(np.float32))
    second = tf.Variable(generator.normal(size=[8, num_pixels]).astype(np.float32))
    images = generator.integers(0, 2, [batch, num_pixels]).astype(np.float32)

    def loss_fn(codes):
        outer = tf.shape(codes)[:2]
        flat = tf.reshape(codes, [-1, size])
        pixels = tf.nn.tanh(flat @ first) @ second
        shape = [codes.shape[0] or outer[0], outer[1], num_pixels]
        return losses.bernoulli_nll(images, tf.reshape(pixels, shape))

    chosen = generator.integers(0, num_categories, [batch, num_variables])
    code = tf.one_hot(chosen, num_categories)

    def brute_force(b, z):
        pixels = np.tanh(z.reshape(-1) @ first.numpy()) @ second.numpy()
        return np.sum(np.logaddexp(0, pixels) - images[b] * pixels)

    return loss_fn, code, brute_force, [first, second]


def brute_force_table(code, brute_force):
    code = code.numpy()
    batch, num_variables, num_categories = code.shape
    table = np.zeros_like(code)
    for b, i, k in np.ndindex(batch, num_variables, num_categories):
        z = code[b].copy()
        z[i] = np.eye(num_categories)[k]
        table[b, i, k] = brute_force(b, z)
    return table


@pytest.mark.parametrize("num_categories", [2, 7])
def test_all_codes_is_every_loss(num_categories):
    loss_fn, code, brute_force, _ = make_problem(5, 1, num_categories)
    loss, table = tables.all_codes(loss_fn, code)
    expected = brute_force_table(code, brute_force)
    np.testing.assert_allclose(table, expected, rtol=1e-5)
    np.testing.assert_allclose(loss, np.sum(expected * code, axis=(1, 2)), rtol=1e-5)


def test_candidates_are_decoded_as_they_are_and_the_first_with_gradient():
    loss_fn, code, brute_force, weights = make_problem(5, 3, 4)
    codes = tf.stack([tf.roll(code, shift, axis=-1) for shift in range(4)], axis=1)
    with tf.GradientTape(persistent=True) as tape:
        loss, table = tables.of_candidates(loss_fn, codes)
        alone = loss_fn(codes[:, :1])
    expected = [[brute_force(b, z) for z in codes[b].numpy()] for b in range(5)]
    np.testing.assert_allclose(table, expected, rtol=1e-5)
    np.testing.assert_allclose(loss, table[:, 0], rtol=1e-6)
    for weight in weights:
        np.testing.assert_allclose(tape.gradient(loss, weight), tape.gradient(alone, weight))
        assert tape.gradient(table, weight) is None


@pytest.mark.parametrize(("num_variables", "num_categories"), [(1, 2), (1, 5), (3, 2), (4, 5)])
@pytest.mark.parametrize("max_candidates", [1, 5, 64])
def test_single_flips_is_every_flip(num_variables, num_categories, max_candidates):
    loss_fn, code, brute_force, _ = make_problem(5, num_variables, num_categories)
    loss, table = tables.single_flips(loss_fn, code, max_candidates)
    np.testing.assert_allclose(table, brute_force_table(code, brute_force), rtol=1e-5)
    expected = [brute_force(b, code.numpy()[b]) for b in range(5)]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_flips_of_some_variables_are_those_rows():
    weights = tf.random.stateless_normal([4, 3], [1, 2])
    code = tf.one_hot([[0, 1, 2, 0], [2, 1, 0, 0]], 3)

    def loss_fn(codes):
        return tf.sin(3 * tf.einsum("bmnk,nk->bm", codes, weights))

    loss, whole = tables.single_flips(loss_fn, code)
    _, some = tables.single_flips(loss_fn, code, variables=tf.constant([[1, 1], [0, 3]]))
    for image, flipped in enumerate([[1], [0, 3]]):
        for variable in range(4):
            expected = whole[image, variable] if variable in flipped else loss[image]
            np.testing.assert_allclose(
                some[image, variable], np.broadcast_to(expected, 3), rtol=1e-6
            )


def test_drawn_variables_weigh_as_much_as_all():
    # 0.6 of the importance is more than half: the first one always comes, sometimes twice. 100,000
    # draws, 4 standard errors, 4 weights: fails for 1 seed in 4,000.
    importance = tf.tile([[6.0, 1.0, 1.0, 2.0]], [100_000, 1])
    variables, weights = tables.draw_variables(importance, 2, [0, 1])
    oracles.assert_mean_is(weights, np.ones(4))
    drawn = tf.reduce_sum(tf.one_hot(variables, 4), axis=1)
    np.testing.assert_allclose(weights, drawn / [1.2, 0.2, 0.2, 0.4], rtol=1e-5)
    assert set(np.unique(drawn[:, 0])) == {1.0, 2.0}
    uniform, weights = tables.draw_variables(tf.ones([500, 6]), 3, [0, 1])
    assert all(len(set(row)) == 3 for row in uniform.numpy())
    assert set(np.unique(np.round(weights, 5))) == {0.0, 2.0}


def test_single_flips_of_one_variable_is_all_codes():
    loss_fn, code, _, _ = make_problem(5, 1, 7)
    for one, other in zip(
        tables.single_flips(loss_fn, code), tables.all_codes(loss_fn, code), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_linearised_is_the_derivative_and_exact_for_a_linear_loss():
    weights = tf.constant(np.random.default_rng(0).normal(size=[3, 4]), tf.float32)
    code = tf.one_hot([[0, 1, 2], [3, 3, 3]], 4)
    loss, table = tables.linearised(lambda codes: tf.einsum("bmnk,nk->bm", codes, weights), code)
    np.testing.assert_allclose(table, [weights, weights], rtol=1e-6)
    np.testing.assert_allclose(loss, np.einsum("bnk,nk->b", code, weights), rtol=1e-6)


@pytest.mark.parametrize("make_table", [tables.all_codes, tables.single_flips, tables.linearised])
def test_decoder_gets_the_gradient_at_the_code_and_none_from_the_table(make_table):
    loss_fn, code, _, weights = make_problem(5, 1, 7)
    with tf.GradientTape(persistent=True) as tape:
        loss, table = make_table(loss_fn, code)
        at_code = loss_fn(code[:, tf.newaxis])[:, 0]
    for got, expected in zip(
        tape.gradient(loss, weights), tape.gradient(at_code, weights), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert tape.gradient(table, weights) == [None, None]


def largest_tensor(function, *inputs):
    """Entries of the largest tensor anywhere in the traced function."""
    graph = tf.function(function).get_concrete_function(*inputs).graph
    graphs = [graph, *(f.graph for f in graph._functions.values() if hasattr(f, "graph"))]
    sizes = []
    for op in (op for g in graphs for op in g.get_operations()):
        for output in op.outputs:
            if output.shape.is_fully_defined():
                sizes.append(output.shape.num_elements())
    return max(sizes)


def test_all_codes_never_makes_a_tensor_of_batch_by_codes_by_pixels():
    batch, categories, pixels = 64, 32, 512
    loss_fn, code, _, _ = make_problem(batch, 1, categories, pixels)
    allowed = batch * pixels
    assert allowed < batch * categories * pixels
    assert largest_tensor(lambda z: tables.all_codes(loss_fn, z), code) <= allowed


def test_all_codes_of_several_variables_is_refused():
    loss_fn, code, _, _ = make_problem(2, 3, 2)
    with pytest.raises(ValueError, match=r"Expected one variable .* received 3"):
        tables.all_codes(loss_fn, code)


def test_chunks_see_at_most_that_many_candidates():
    seen = []

    def loss_fn(codes):
        seen.append(codes.shape[1])
        return tf.reduce_sum(codes, axis=[2, 3])

    values = tf.reshape(tf.range(10.0), [1, 10, 1, 1])
    got = tables.losses_in_chunks(loss_fn, lambda i: tf.gather(values, i, axis=1), 10, 4)
    np.testing.assert_array_equal(got, [np.arange(10.0)])
    assert max(seen) <= 4


def test_enumeration_oracle_agrees_with_a_finite_difference():
    # The oracle that the estimators face, against the definition of a derivative.
    generator = np.random.default_rng(0)
    h, f = generator.normal(size=[3, 2]), generator.normal(size=8)
    codes = oracles.all_codes(3, 2)
    step = 1e-6
    for i, k in np.ndindex(3, 2):
        up, down = h.copy(), h.copy()
        up[i, k] += step
        down[i, k] -= step
        slope = (
            np.exp(oracles.log_posterior(up, codes)) @ f
            - np.exp(oracles.log_posterior(down, codes)) @ f
        ) / (2 * step)
        assert oracles.enumerated_gradient(h, f)[i, k] == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_flips_are_drawn_where_the_posterior_is_undecided(power):
    draws = 20_000
    h = np.array([[0.0, 0.0], [3.0, 0.0], [40.0, 0.0]], np.float32)
    logits = tf.repeat(h[np.newaxis], draws, axis=0)
    code = tf.repeat(tf.one_hot([[0, 0, 0]], 2), draws, axis=0)
    _, _, weights = tables.drawn_flips(
        lambda codes: tf.reduce_sum(codes[..., 0], axis=-1), code, logits, 1, power, [1, 2]
    )
    undecided = np.maximum(1 - (scipy.special.softmax(h, axis=1) ** 2).sum(axis=1), 1e-6) ** power
    importance = undecided + 0.1 * undecided.mean()
    share = importance / importance.sum()
    drawn = weights.numpy()[..., 0] > 0
    # 3 shares at 4 standard errors, 0.014 at most: fails for 1 seed in 5,000.
    np.testing.assert_allclose(drawn.mean(axis=0), share, atol=0.014)
    np.testing.assert_allclose(weights.numpy()[..., 0].max(axis=0), 1 / share, rtol=1e-5)
