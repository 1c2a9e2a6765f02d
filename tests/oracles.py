"""Closed forms and enumerations in float64 NumPy, written without the library."""

import itertools

import numpy as np
import scipy.integrate
import scipy.special

softmax = scipy.special.softmax


def direct_gradient(h, f, epsilon, difference):
    """E[epsilon-difference] of one categorical variable: h, f [..., K] -> [..., K]."""
    here, better, worse = (softmax(h + s * epsilon * f, axis=-1) for s in (0, -1, 1))
    return {
        "toward_better": (here - better) / epsilon,
        "away_from_worse": (worse - here) / epsilon,
        "central": (worse - better) / (2 * epsilon),
    }[difference]


def true_gradient(h, f):
    """d/dh E_softmax(h)[f] = p (f - E f) of one categorical variable."""
    p = softmax(h, axis=-1)
    return p * (f - np.sum(p * f, axis=-1, keepdims=True))


def joint_law(h, f, epsilon):
    """P(z* = i, z*(eps) = j) under one Gumbel noise, z*(eps) = argmax{h + noise - eps f}.

    With a = e^h and b = e^(h - eps f) the pair (i, j), i != j, needs a noise that prefers i under
    a and j under b. Integrating the density of the two winners over all noise leaves
    a_i b_j int du / (S(u) + u T(u))^2 over a_j / b_j <= u <= a_i / b_i, where S(u) sums a_k over
    a_k / b_k > u and T(u) sums b_k over the others.
    """
    a, b = np.exp(h), np.exp(h - epsilon * f)
    ratio = a / b
    joint = np.zeros([len(h)] * 2)

    def integrand(u):
        above = ratio > u
        return (a[above].sum() + u * b[~above].sum()) ** -2.0

    for i, j in itertools.permutations(range(len(h)), 2):
        if ratio[j] < ratio[i]:
            breaks = [r for r in ratio if ratio[j] < r < ratio[i]]
            area, _ = scipy.integrate.quad(integrand, ratio[j], ratio[i], points=breaks or None)
            joint[i, j] = a[i] * b[j] * area
    np.fill_diagonal(joint, softmax(h) - joint.sum(axis=1))
    return joint


def all_codes(num_variables, num_categories):
    """Every configuration as one-hots [K^N, N, K], the last variable running fastest."""
    index = list(itertools.product(range(num_categories), repeat=num_variables))
    return np.eye(num_categories)[np.array(index)]


def log_posterior(h, codes):
    """log q(z) of configurations [M, N, K] under independent softmaxes of h [N, K]: [M]."""
    return np.einsum("mnk,nk->m", codes, scipy.special.log_softmax(h, axis=-1))


def enumerated_gradient(h, losses):
    """d/dh E_q[f] of N independent variables: h [N, K], losses [K^N] -> [N, K]."""
    codes = all_codes(*h.shape)
    weights = np.exp(log_posterior(h, codes)) * losses
    return np.einsum("m,mnk->nk", weights, codes - softmax(h, axis=-1))


def enumerated_direct_gradient(h, losses, epsilon, difference):
    """E[epsilon-difference] with single-coordinate tables: h [N, K], losses [K^N] -> [N, K].

    The table of a variable depends on the other variables only, hence not on its own noise: given
    the others, the closed form of one variable holds.
    """
    num_variables, num_categories = h.shape
    codes = all_codes(num_variables, num_categories)
    probability = np.exp(log_posterior(h, codes)).reshape([num_categories] * num_variables)
    losses = losses.reshape([num_categories] * num_variables)
    gradient = np.zeros_like(h)
    for i in range(num_variables):
        others = probability.sum(axis=i).reshape(-1)
        table = np.moveaxis(losses, i, -1).reshape(-1, num_categories)
        gradient[i] = others @ direct_gradient(h[i], table, epsilon, difference)
    return gradient


def relaxed_gradients(h, temperature, slope, draws, straight_through):
    """Draws [draws, N, K] of the Gumbel-softmax gradient, written out by hand.

    With s = softmax((h + noise) / tau) the gradient is (diag(s) - s s^T) / tau times df/dz, taken
    at s, or at the argmax for straight-through; `slope` gives df/dz at codes [M, N, K].
    """
    uniform = np.random.default_rng(11).random([draws, *h.shape])
    relaxed = softmax((h - np.log(-np.log(uniform))) / temperature, axis=-1)
    at = np.eye(h.shape[-1])[relaxed.argmax(axis=-1)] if straight_through else relaxed
    upstream = slope(at)
    mean = np.sum(relaxed * upstream, axis=-1, keepdims=True)
    return relaxed * (upstream - mean) / temperature


def straight_through_gradient(h, slope, jacobian):
    """sum_z q(z) J(h, z) df/dz(z) for h [N, K], enumerated: [N, K].

    `slope` gives df/dz at codes [M, N, K], `jacobian` a matrix [M, K, K] for the logits [K] of one
    variable and its part [M, K] of every code.
    """
    codes = all_codes(*h.shape)
    weights = np.exp(log_posterior(h, codes))
    upstream = slope(codes)
    rows = [
        np.einsum("m,mkl,ml->k", weights, jacobian(h[i], codes[:, i]), upstream[:, i])
        for i in range(len(h))
    ]
    return np.stack(rows)


def softmax_jacobian(q):
    """diag(q) - q q' of distributions [..., K]: [..., K, K]."""
    return q[..., np.newaxis] * np.eye(q.shape[-1]) - q[..., np.newaxis] * q[..., np.newaxis, :]


def imle_gradients(h, epsilon, slope, draws):
    """Draws [draws, N, K] of (z* - argmax{h + noise - lambda df/dz(z*)}) / lambda, by hand."""
    scores = h - np.log(-np.log(np.random.default_rng(12).random([draws, *h.shape])))
    one_hot = np.eye(h.shape[-1])
    code = one_hot[scores.argmax(axis=-1)]
    return (code - one_hot[(scores - epsilon * slope(code)).argmax(axis=-1)]) / epsilon


def standard_error(samples):
    return samples.std(axis=0, ddof=1) / np.sqrt(len(samples))


def assert_mean_is(samples, expected, expected_error=0.0, standard_errors=4.0):
    """The mean of samples [n, ...] is `expected`, entry by entry, within some standard errors.

    `expected_error` is the standard error of an expectation that was itself sampled.
    """
    samples = np.asarray(samples, np.float64)
    error = np.hypot(standard_error(samples), expected_error)
    # A float32 sample carries about 1e-7 of its size, however many of them there are.
    slack = standard_errors * error + 1e-6 * (1 + np.abs(expected))
    deviation = np.abs(samples.mean(axis=0) - expected)
    assert np.all(deviation <= slack), (deviation / np.maximum(error, 1e-12)).max()
