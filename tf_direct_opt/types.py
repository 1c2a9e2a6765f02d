"""The nouns that every module shares, and the symbols of the mathematics.

| symbol | name            | shape     | meaning                                              |
|--------|-----------------|-----------|------------------------------------------------------|
| B      | `batch`         |           | examples in a batch                                  |
| N      | `num_variables` |           | categorical variables of one example                 |
| K      | `num_categories`|           | categories of one variable                           |
| P      | `num_pixels`    |           | data dimension                                       |
| h      | `logits`        | [B, N, K] | unnormalised log-probabilities, nats                 |
| gamma  | `noise`         | [B, N, K] | i.i.d. zero-mean Gumbel                              |
|        | `scores`        | [B, N, K] | logits + noise, float32                              |
| z      | `code`          | [B, N, K] | one-hot of the sampled configuration                 |
| f      | `losses`        | [B, M]    | loss of M candidate codes, nats, summed over pixels  |
| f~     | `loss_table`    | [B, N, K] | loss of every single-coordinate choice, nats         |
| eps    | `epsilon`       | [] or [B] | finite-difference step, 1/nats                       |
| beta   | `kl_weight`     | []        | weight of KL(q || p) in the training loss            |

Where N = 1 the logits may come as [B, K]; a structured solver replaces [N, K] by an event
shape of its own, so the core only ever speaks of [B, *event].
"""

from collections.abc import Callable

import tensorflow as tf

Solver = Callable[[tf.Tensor], tf.Tensor]
"""scores [B, *event] -> code [B, *event], the 0/1 statistics of the best configuration."""

LossFn = Callable[[tf.Tensor], tf.Tensor]
"""codes [S, M, N, K] with S = 1 (shared by the batch) or S = B -> losses [B, M] in nats."""
