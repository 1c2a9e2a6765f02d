"""Callbacks: checkpoints that survive being killed, and TensorBoard with images."""

import math
import pathlib
import re

import keras
import tensorflow as tf

from tf_direct_opt.files import replacing

_CHECKPOINT_NAME = re.compile(r"epoch-(\d+)\.weights\.h5")


class Checkpoint(keras.callbacks.Callback):
    """Saves weights, optimizer and noise state after every epoch; restores the newest.

    The file of an epoch appears whole, under a name that carries the number of finished epochs,
    before its predecessor is deleted; a run killed at any point therefore goes on from the last
    epoch that it finished, and ends where the uninterrupted run would have ended, bit for bit on
    CPU, provided the batches are a function of the epoch. (`keras.callbacks.BackupAndRestore`
    writes in place, keeps the epoch in a second file, and deletes both at the end.)

    Args:
        directory: folder of the checkpoints, made when the first one is saved.

    Example:
        checkpoint = Checkpoint("runs/a/checkpoints")
        initial_epoch = checkpoint.restore(model)   # 0 where there is nothing to restore
        model.fit(..., initial_epoch=initial_epoch, epochs=30, callbacks=[checkpoint])
    """

    def __init__(self, directory):
        super().__init__()
        self.directory = pathlib.Path(directory)

    def restore(self, model: keras.Model) -> int:
        """Loads the newest checkpoint into a built and compiled model.

        Returns:
            The number of epochs that are finished, 0 where there is no checkpoint.

        Raises:
            ValueError: the file cannot be read, or belongs to another model.
        """
        epochs = self._finished_epochs()
        if not epochs:
            return 0
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        path = self._path(max(epochs))
        try:
            model.load_weights(path)
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(
                f"Expected a readable checkpoint of this model in {path}; received: {error}. "
                "Please delete the file to start over, or give the arguments of the run that "
                "wrote it."
            ) from error
        return max(epochs)

    def on_epoch_end(self, epoch, logs=None):
        if logs and not math.isfinite(logs.get("loss", 0.0)):
            return  # Nobody wants to go on from a model that diverged.
        self.directory.mkdir(parents=True, exist_ok=True)
        stale = self._finished_epochs()
        with replacing(self._path(epoch + 1)) as temporary:
            self.model.save_weights(temporary)
        for finished in stale:
            if finished != epoch + 1:
                self._path(finished).unlink()

    def _path(self, finished: int) -> pathlib.Path:
        return self.directory / f"epoch-{finished:05d}.weights.h5"

    def _finished_epochs(self) -> list[int]:
        if not self.directory.is_dir():
            return []
        matches = (_CHECKPOINT_NAME.fullmatch(path.name) for path in self.directory.iterdir())
        return [int(match[1]) for match in matches if match]


class TensorBoard(keras.callbacks.TensorBoard):
    """Keras' TensorBoard for a VAE, with its `pictures` of every epoch under `log_dir`/images.

    Everything is on disk when the epoch ends, so that a killed run loses no finished epoch.

    Args:
        log_dir: folder of the event files.
        images: [n, *image] a few images to follow.
        **kwargs: as for `keras.callbacks.TensorBoard`.
    """

    def __init__(
        self,
        log_dir,
        images,  # [n, *image]
        **kwargs,
    ):
        super().__init__(log_dir=str(log_dir), **kwargs)
        self.images = tf.cast(images, tf.float32)
        self._image_writer = tf.summary.create_file_writer(str(pathlib.Path(log_dir) / "images"))

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        with self._image_writer.as_default():
            for name, images in self.model.pictures(self.images).items():
                tf.summary.image(name, image_grid(images)[tf.newaxis], step=epoch)
        for writer in (self._image_writer, *self._writers.values()):
            writer.flush()

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        self._image_writer.close()


def image_grid(
    images: tf.Tensor,  # [n, height, width] or [n, height, width, 1]
    columns: int | None = None,
) -> tf.Tensor:
    """Tiles images row by row into one, [height', width', 1], with a border of one grey pixel."""
    if images.shape.rank == 3:
        images = images[..., tf.newaxis]
    if images.shape.rank != 4 or images.shape[-1] != 1:
        raise ValueError(
            "Expected images of shape [n, height, width] or [n, height, width, 1]; received "
            f"{tuple(images.shape)}."
        )
    count, height, width, _ = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    images = tf.pad(images, [[0, 0], [0, 1], [0, 1], [0, 0]], constant_values=0.5)
    images = tf.pad(images, [[0, rows * columns - count], [0, 0], [0, 0], [0, 0]])
    tiles = tf.reshape(images, [rows, columns, height + 1, width + 1])
    tiles = tf.transpose(tiles, [0, 2, 1, 3])
    return tf.reshape(tiles, [rows * (height + 1), columns * (width + 1), 1])
