"""Codes that all variables share, as on a grid: how much each is used, and a use for dead ones."""

import math
import numbers

import keras
import numpy as np
import tensorflow as tf

from tf_direct_opt.checks import check_bool


def shares(
    probabilities: np.ndarray,  # [n, N, K]
) -> np.ndarray:
    """How often each category is drawn, over images and variables: [K]."""
    return np.asarray(np.mean(probabilities, axis=(0, 1), dtype=np.float64))


def figures(
    share: np.ndarray,  # [K]
    dead_below: float = 0.01,
) -> dict[str, float]:
    """Usage of the categories.

    Args:
        share: of each, summing to 1.
        dead_below: what is a dead code: one drawn less often than this, times 1 / K.

    Returns:
        usage, the share of the K codes that are alive; perplexity, exp of the entropy of the
        shares, from 1 to K; dead_codes, their number.
    """
    _check_share(share)
    dead = int(np.sum(share < dead_below / len(share)))
    perplexity = math.exp(-np.sum(share * np.log(np.maximum(share, 1e-30))))
    return {"usage": 1.0 - dead / len(share), "perplexity": perplexity, "dead_codes": dead}


def _check_share(share):
    if not np.isfinite(share).all() or abs(np.sum(share) - 1.0) > 1e-3:
        raise ValueError(
            f"Expected shares of codes that sum to 1; received a sum of {np.sum(share):g}."
        )


class CodeUsage(keras.callbacks.Callback):
    """Reports the usage of the categories after every epoch, and may restart dead ones.

    A dead code d is restarted as half of the code j that is used most: the encoder's column of
    logits w_d := w_j, b_d := b_j - log 2, b_j := b_j - log 2, the decoder's row v_d := v_j, and the
    logits of a learned prior as those of the encoder. So q_j is shared by two codes that mean the
    same, and whatever is decoded stays as likely as it was, but for the mass that d had, which is
    dealt out to all; the KL to a uniform prior falls by q_j log 2 a variable, to a learned one it
    stays. The two codes are told apart by what is drawn from then on. What an optimizer keeps of
    their weights stays as it was.

    Args:
        images: [n, *image] by which the usage is measured.
        restart: whether dead codes are restarted, before every epoch but the first.
        logits: name of the layer of the encoder that gives the K logits, with a kernel [..., K]
            and a bias [K].
        embedding: name of the layer of the decoder that reads the codes, with a kernel [K, ...].
        dead_below: what is a dead code, see `figures`.
    """

    def __init__(
        self, images, restart=False, logits="logits", embedding="embedding", dead_below=0.01
    ):
        super().__init__()
        if not isinstance(dead_below, numbers.Real) or not 0.0 < dead_below < 1.0:
            raise ValueError(
                f"Expected `dead_below` between 0 and 1, a share of 1 / K; received {dead_below!r}."
            )
        self.images = images
        self.restart = check_bool(restart, "restart")
        self.logits = logits
        self.embedding = embedding
        self.dead_below = dead_below

    def usage(
        self,
        images: np.ndarray,  # [n, *image]
    ) -> np.ndarray:
        """The shares [K] of the codes of these images."""
        parts = []
        for start in range(0, len(images), 100):
            batch = tf.cast(images[start : start + 100], tf.float32)
            parts.append(self.model.posterior(self.model.encode(batch)).marginals())
        return shares(np.concatenate(parts))

    def on_epoch_begin(self, epoch, logs=None):
        if self.restart and epoch > 0:
            restart_dead_codes(
                self.usage(self.images),
                self.model.encoder.get_layer(self.logits),
                self.model.decoder.get_layer(self.embedding),
                getattr(self.model, "prior_logits", None),
                self.dead_below,
            )

    def on_epoch_end(self, epoch, logs=None):
        found = figures(self.usage(self.images), self.dead_below)
        if logs is not None:  # As Keras' own callbacks do, so that those after this one report it.
            logs.update({name: float(value) for name, value in found.items()})


def restart_dead_codes(
    share: np.ndarray,  # [K]
    logits: keras.layers.Layer,
    embedding: keras.layers.Layer,
    prior_logits: keras.Variable | None = None,  # [N, K]
    dead_below: float = 0.01,
) -> int:
    """Splits a code in use for every dead one, the one used most first; see `CodeUsage`.

    Returns:
        How many there were.

    Raises:
        ValueError: layers of another number of codes, as where variables do not share them.
    """
    _check_share(share)
    num_biases = 0 if logits.bias is None else logits.bias.shape[-1]
    widths = logits.kernel.shape[-1], num_biases, embedding.kernel.shape[0]
    if set(widths) != {len(share)}:
        raise ValueError(
            f"Expected layers of the {len(share)} codes that all variables share, as those of "
            f"convolutions are; received {widths[0]} logits, {widths[1]} biases and {widths[2]} "
            "rows of the embedding. Please give such layers, or restart=False."
        )
    share = share.copy()
    dead = np.flatnonzero(share < dead_below / len(share))
    kernel, bias, rows = (
        variable.numpy() for variable in (logits.kernel, logits.bias, embedding.kernel)
    )
    prior = np.zeros([1, len(share)]) if prior_logits is None else prior_logits.numpy()
    for code in dead:
        most = np.argmax(share)
        kernel[..., code], rows[code] = kernel[..., most], rows[most]
        share[most] /= 2.0
        share[code] = share[most]
        for logit in (bias, *prior):
            logit[most] -= math.log(2.0)
            logit[code] = logit[most]
    for variable, value in (
        (logits.kernel, kernel),
        (logits.bias, bias),
        (embedding.kernel, rows),
        *([] if prior_logits is None else [(prior_logits, prior)]),
    ):
        variable.assign(value)
    return len(dead)
