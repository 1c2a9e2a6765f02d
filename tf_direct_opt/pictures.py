"""Images side by side: in TensorBoard, and as PNG files."""

import math

import numpy as np
import tensorflow as tf

from tf_direct_opt.files import replacing


def image_grid(
    images: tf.Tensor,  # [n, height, width] or [n, height, width, C], C = 1 or 3
    columns: int | None = None,
) -> tf.Tensor:
    """Tiles images row by row into one, [height', width', C], with a border of one grey pixel.

    Raises:
        ValueError: integers, which would be white from 1 on; images of another shape, or none.
    """
    images = _floats(images)
    check_images(images.shape)
    if images.shape.rank == 3:
        images = images[..., tf.newaxis]
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    images = tf.pad(images, [[0, 0], [0, 1], [0, 1], [0, 0]], constant_values=0.5)
    images = tf.pad(images, [[0, rows * columns - count], [0, 0], [0, 0], [0, 0]])
    tiles = tf.reshape(images, [rows, columns, height + 1, width + 1, channels])
    tiles = tf.transpose(tiles, [0, 2, 1, 3, 4])
    return tf.reshape(tiles, [rows * (height + 1), columns * (width + 1), channels])


def write_images(path, images, columns: int | None = None, enlarged: int = 4) -> None:
    """Writes the grid of images to a PNG file, each pixel `enlarged` times as high and wide.

    Values are clipped to [0, 1], black and white.

    Raises:
        ValueError: bytes, as integers or as floats; images of another shape, or none.
    """
    images = _floats(images)
    _check_no_bytes(images)
    grid = np.clip(image_grid(images, columns), 0.0, 1.0)
    pixels = np.kron(
        np.round(255 * grid).astype(np.uint8), np.ones((enlarged, enlarged, 1), np.uint8)
    )
    with replacing(path) as temporary:
        temporary.write_bytes(tf.io.encode_png(pixels).numpy())


def write_reconstructions(path, images, made, columns: int = 8, enlarged: int = 2) -> None:
    """Writes images to a PNG file, rows of `columns`, each image above what was made of it.

    Args:
        path: of the file.
        images: [n, height, width] or [n, height, width, C], n >= 1.
        made: of the same shape.
        columns: images beside each other.
        enlarged: height and width of a pixel.

    Raises:
        ValueError: bytes, as integers or as floats; images of another shape or number, or none.
    """
    shape = np.shape(images)
    if shape != np.shape(made):
        raise ValueError(
            f"Expected images and as many of the same shape; received {shape} and "
            f"{np.shape(made)}. Please leave some out."
        )
    rows, rest = [], [(0, -shape[0] % columns), *[(0, 0)] * (len(shape) - 1)]
    for each in map(_floats, (images, made)):
        _check_no_bytes(each)
        rows.append(np.reshape(np.pad(each, rest), [-1, columns, *shape[1:]]))
    write_images(path, np.stack(rows, axis=1).reshape([-1, *shape[1:]]), columns, enlarged)


def check_images(shape) -> None:
    """ValueError unless images of that shape can be shown: some, grey or of three channels."""
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[-1] not in (1, 3)):
        raise ValueError(
            "Expected images of shape [n, height, width], or with 1 or 3 channels; received "
            f"{tuple(shape)}. Please reshape flat images to their height and width."
        )
    if shape[0] == 0:
        raise ValueError(
            f"Expected at least one image; received shape {tuple(shape)}. Please give some."
        )


def _floats(images):
    """The images as float32; ValueError for integers, bools excepted."""
    images = tf.convert_to_tensor(images)
    if images.dtype.is_integer:
        raise ValueError(
            "Expected images of floats from 0, black, to 1, white, or of bools; received dtype "
            f"{images.dtype.name}. Please divide bytes by 255."
        )
    return tf.cast(images, tf.float32)


def _check_no_bytes(images):
    """ValueError for bytes that were cast to floats; a decoder may well leave [0, 1]."""
    greatest = np.max(images, initial=0.0)
    if greatest > 1.0 and np.array_equal(images, np.round(images)):
        raise ValueError(
            "Expected images from 0, black, to 1, white; received whole numbers up to "
            f"{greatest:g}. Please divide bytes by 255."
        )
