import numpy as np
import pytest
import tensorflow as tf

from tf_direct_opt import pictures
from tf_direct_opt.pictures import image_grid


def test_image_grid_by_hand():
    grid = image_grid(tf.reshape(tf.range(3.0), [3, 1, 1]), columns=2)
    expected = [[0, 0.5, 1, 0.5], [0.5] * 4, [2, 0.5, 0, 0], [0.5, 0.5, 0, 0]]
    np.testing.assert_array_equal(grid[..., 0], expected)
    assert image_grid(tf.zeros([10, 4, 3, 1])).shape == (3 * 5, 4 * 4, 1)
    with pytest.raises(ValueError, match="Expected images of shape"):
        image_grid(tf.zeros([2, 3, 4, 2]))


def test_image_grid_of_colours_is_the_grid_of_each():
    images = tf.random.stateless_uniform([5, 2, 3, 3], [1, 2])
    grid = image_grid(images)
    assert grid.shape == (2 * 3, 3 * 4, 3)
    for channel in range(3):
        np.testing.assert_array_equal(grid[..., channel], image_grid(images[..., channel])[..., 0])


def test_written_images_are_clipped_and_enlarged(tmp_path):
    images = tf.constant([-0.5, 0.2, 1.5])[:, tf.newaxis, tf.newaxis]
    pictures.write_images(tmp_path / "grid.png", images, columns=3, enlarged=2)
    pixels = tf.io.decode_png((tmp_path / "grid.png").read_bytes())
    assert pixels.shape == (4, 12, 1)
    np.testing.assert_array_equal(pixels[1, ::2, 0], [0, 128, 51, 128, 255, 128])


def test_images_may_be_arrays_of_any_float_or_bools(tmp_path):
    images = np.arange(12).reshape(3, 2, 2) % 2 == 1
    for dtype in (bool, np.float16, np.float64):
        np.testing.assert_array_equal(
            image_grid(images.astype(dtype)), image_grid(tf.cast(images, tf.float32))
        )
    pictures.write_images(tmp_path / "b.png", images, columns=3, enlarged=1)
    pixels = tf.io.decode_png((tmp_path / "b.png").read_bytes())
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 255, 128] * 3)


def test_bytes_and_no_images_are_refused(tmp_path):
    white = np.full([4, 3, 3], 100, np.uint8)
    for images in (white, tf.constant(white), white.astype(np.float32)):
        with pytest.raises(ValueError, match=r"Expected images .*received .* divide bytes by 255"):
            pictures.write_images(tmp_path / "r.png", images)
        for pair in ((images, white / 255), (white / 255, images)):
            with pytest.raises(ValueError, match="divide bytes by 255"):
                pictures.write_reconstructions(tmp_path / "r.png", *pair, columns=2)
    with pytest.raises(ValueError, match=r"received dtype uint8. Please divide bytes by 255"):
        image_grid(white)
    with pytest.raises(ValueError, match=r"at least one image; received shape \(0, 3, 3\). Please"):
        pictures.write_images(tmp_path / "r.png", np.zeros([0, 3, 3]))
    assert not list(tmp_path.iterdir())


def test_reconstructions_stand_below_their_images(tmp_path):
    images = np.arange(4.0, dtype="float32").reshape(4, 1, 1) / 10
    pictures.write_reconstructions(tmp_path / "r.png", images, images + 0.5, columns=2, enlarged=1)
    pixels = tf.io.decode_png((tmp_path / "r.png").read_bytes())
    expected = [[0.0, 0.1], [0.5, 0.6], [0.2, 0.3], [0.7, 0.8]]
    np.testing.assert_array_equal(pixels[::2, ::2, 0], np.round(255 * np.float32(expected)))
    for made in (images[:3], images[..., np.newaxis]):
        with pytest.raises(ValueError, match="Expected images and as many of the same shape"):
            pictures.write_reconstructions(tmp_path / "s.png", images, made, columns=2)
    assert [path.name for path in tmp_path.iterdir()] == ["r.png"]
    # What is left of the last row stays black.
    pictures.write_reconstructions(tmp_path / "r.png", images, images + 0.5, columns=3, enlarged=1)
    pixels = tf.io.decode_png((tmp_path / "r.png").read_bytes())
    expected = [[0.0, 0.1, 0.2], [0.5, 0.6, 0.7], [0.3, 0.0, 0.0], [0.8, 0.0, 0.0]]
    np.testing.assert_array_equal(pixels[::2, ::2, 0], np.round(255 * np.float32(expected)))
