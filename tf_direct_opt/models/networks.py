"""The two networks of an autoencoder: the defaults, and whether those of a user fit."""

import inspect
import math

import keras
import tensorflow as tf

from tf_direct_opt.layers import PerturbedArgmax


def encoder(hidden_units: int, num_outputs: int) -> keras.Sequential:
    """The paper's: P-hidden-outputs with ReLU."""
    hidden = keras.layers.Dense(hidden_units, activation="relu")
    return keras.Sequential(
        [keras.layers.Flatten(), hidden, output_layer(num_outputs)], name="encoder"
    )


def decoder(hidden_units: int, num_outputs: int) -> keras.Sequential:
    """The paper's: inputs-hidden-outputs with ReLU."""
    hidden = keras.layers.Dense(hidden_units, activation="relu")
    return keras.Sequential([hidden, output_layer(num_outputs)], name="decoder")


def output_layer(num_outputs: int) -> keras.layers.Dense:
    """A layer that rounds nothing to half precision: logits are compared, losses summed up."""
    return keras.layers.Dense(num_outputs, dtype=keras.config.dtype_policy().variable_dtype)


def check_is_network(network, name: str) -> None:
    """ValueError unless it is a Keras model, or None."""
    if network is not None and not isinstance(network, keras.Layer):
        raise ValueError(
            f"Expected `{name}` to be a Keras model, or None for the default; received "
            f"{network!r}. Please wrap a function in keras.layers.Lambda."
        )


def image_shape(input_shape) -> tuple[int, ...]:
    """The shape of one image, of the input shape [B, *image]; ValueError for anything else."""
    if isinstance(input_shape, tf.TensorShape) and input_shape.rank is not None:
        input_shape = tuple(input_shape)
    if not isinstance(input_shape, tuple | list) or not all(
        size is None or isinstance(size, int) for size in input_shape
    ):
        raise ValueError(
            f"Expected one tensor of images [B, *image]; received {input_shape!r}. Please give "
            "the images alone, out of their dict or tuple."
        )
    shape = tuple(input_shape[1:])
    if not shape or None in shape:
        raise ValueError(
            "Expected images [B, *image] of a known size; received the input shape "
            f"{tuple(input_shape)}."
        )
    return shape


def build(
    network: keras.Layer,
    input_shape: tuple[int | None, ...],
    unit: int,
    count: int | None,
    why: str,
) -> tuple[int | None, ...]:
    """Builds a network, and checks its outputs, whose shape it returns.

    Args:
        network: built, or not.
        input_shape: [B, ...].
        unit, count: it has to have unit * count outputs an example; any multiple of `unit` where
            `count` is None.
        why: what they have to match.

    Raises:
        ValueError: another number of outputs.
    """
    if type(network).__module__.partition(".")[0] == "keras":
        if not network.built:
            network.build(input_shape)
        output_shape = network.compute_output_shape(input_shape)
    else:  # One of one's own need not say its shapes; called, it and what is in it are built.
        outputs = network(tf.zeros([1, *input_shape[1:]]), training=False)
        output_shape = getattr(outputs, "shape", None)
    if not isinstance(output_shape, tuple | tf.TensorShape) or not all(
        size is None or isinstance(size, int) for size in output_shape
    ):
        raise ValueError(
            f"Expected one tensor from `{network.name}`; received several, or none. Please give a "
            "network with one output."
        )
    received, rest = divmod(math.prod(output_shape[1:]), unit)
    if rest or received != (count or max(received, 1)):
        size = f"a multiple of {unit}" if count is None else unit * count
        raise ValueError(
            f"Expected {size} outputs an example from `{network.name}`; received the output shape "
            f"{tuple(output_shape)}. Please match {why}."
        )
    return tuple(output_shape)


def check_layout(outputs: tuple[int, ...], image: tuple[int, ...]) -> None:
    """ValueError unless the outputs of a decoder, row by row, are pixels in the image's order.

    Flat outputs are; so are [H, W, C] and [H * W, C] for an image [H, W], and [H, W, 3 C] for one
    in colour; [C, H, W] and [W, H] are not.
    """
    inner = [[size for size in shape if size != 1] for shape in (outputs, image)]
    blocks, pixels = ([math.prod(shape[:i]) for i in range(1, len(shape))] for shape in inner)
    if pixels and any(size < math.prod(image) and size not in pixels for size in blocks):
        raise ValueError(
            f"Expected a decoder whose outputs are laid out as the images, {image}; received "
            f"{outputs}. Please transpose them, with keras.layers.Permute say, or flatten them if "
            "they are no picture."
        )


def check_factors(decoder: keras.Layer) -> None:
    """ValueError for a layer that takes what a decoder decodes for the examples of a batch."""
    if any(
        isinstance(layer, PerturbedArgmax) and layer.loss_scale is None
        for layer in decoder._flatten_layers()
    ):
        raise ValueError(
            "Expected PerturbedArgmax in a decoder, which decodes several codes an image, to be "
            "given its `loss_scale`; received None, which is measured for one row an example. "
            'Please give "relative", or a number.'
        )


def with_known_shape(images: tf.Tensor, image_shape: tuple[int, ...]) -> tf.Tensor:
    """The images; those of unknown rank or sizes as [B, *image_shape], where that is theirs.

    TensorFlow traces with such shapes after several calls of different ones.
    """
    known = tf.TensorShape(images.shape)
    if known.rank is not None and None not in known[1:]:
        return images
    sizes = tf.shape(images)[1:]
    if known.rank == len(image_shape) + 1:
        right = tf.reduce_all(sizes == image_shape)
    else:
        right = tf.reduce_prod(sizes) == math.prod(image_shape)
    message = f"Expected images of the size {image_shape} that the model was built for"
    with tf.control_dependencies([tf.debugging.assert_equal(right, True, message)]):
        return tf.reshape(images, [-1, *image_shape])


def adds_losses(network: keras.Layer) -> bool:
    """Whether a network may add to the losses of its model when it is called."""
    return any(
        getattr(layer, "activity_regularizer", None) is not None
        or type(layer).__module__.partition(".")[0] != "keras"
        or type(layer).__name__ == "ActivityRegularization"
        for layer in network._flatten_layers()
    )


def depends_on_mode(network: keras.Layer) -> bool:
    """Whether a network may be another function in training than at inference.

    Keras' layers that are, Dropout and BatchNormalization say, have a state beside their weights:
    moving averages or a seed. A layer of one's own is taken at its word, `training`.
    """
    for layer in network._flatten_layers():
        own = type(layer).__module__.partition(".")[0] != "keras"
        if own and "training" in inspect.signature(layer.call).parameters:
            return True
        if layer._non_trainable_variables or layer._seed_generators:
            return True
    return False
