"""Gradients of one's own: a value as it is, with another slope, and first derivatives only."""

from collections.abc import Callable

import tensorflow as tf

from tf_direct_opt.perturbation import per_example


def attach_slope(
    loss: tf.Tensor,  # [B]
    logits: tf.Tensor,  # [B, *event]
    slope: tf.Tensor | Callable[[], tf.Tensor],  # [B, *event]
) -> tf.Tensor:
    """`loss` as it is, with `slope` for its gradient towards `logits`.

    A function is called when a gradient is asked for.

    Raises:
        ValueError: inside of tf.vectorized_map.
    """
    refuse_vectorized_map()

    @tf.custom_gradient
    def attached(loss, logits):
        def backward(upstream):
            upstream = tf.convert_to_tensor(upstream)  # That of a gather is sparse.
            found = slope() if callable(slope) else slope
            gradient = per_example(tf.cast(upstream, found.dtype), found) * found
            gradient = first_order_only(gradient, upstream, logits)
            return upstream, tf.cast(gradient, logits.dtype)

        return tf.identity(loss), backward

    return attached(loss, logits)


@tf.custom_gradient
def first_order_only(
    gradient,
    *sources,
):
    """`gradient` as it is, which refuses to be differentiated towards itself and its sources."""

    def refuse(*_):
        raise ValueError(
            "Expected a first derivative of an argmax; received a second one, which is not "
            "defined. Take tf.stop_gradient of the first, or differentiate a relaxation."
        )

    return tf.identity(gradient), refuse


def refuse_vectorized_map() -> None:
    """ValueError where TensorFlow would leave out a gradient of one's own: it becomes 0.

    A tf.function that was traced before, outside, is not seen.
    """
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:  # Those around a tf.function that is traced within.
        if graph.get_name_scope().split("/")[0] == "loop_body":
            raise ValueError(
                "Expected no tf.vectorized_map around an argmax, as it drops gradients of one's "
                "own; received one. Please give all rows as one batch, or use tf.map_fn."
            )
        graph = getattr(graph, "outer_graph", None)
