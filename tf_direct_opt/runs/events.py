"""The event files of a run that goes on: without what came after its finished epochs."""

import pathlib

import tensorflow as tf

from tf_direct_opt.files import remove_temporaries, replacing


def drop_events(directory, finished_epochs: int, iterations: int) -> None:
    """Removes what a run left in its event files after its finished epochs, nothing of others.

    An epoch that was killed between its events and its checkpoint is trained again, and would
    stand there twice.

    Args:
        directory: folder of the run's events.
        finished_epochs: epochs that stay.
        iterations: the optimizer's steps in them.
    """
    found = (
        path
        for part in ("train", "validation", "images")
        for path in pathlib.Path(directory, part).glob("events.out.tfevents.*")
    )
    for path in found:
        remove_temporaries(path)
        records, cut = [], False
        try:
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                records.append(record)
        except tf.errors.DataLossError:
            cut = True  # In the middle of its last event.
        images = path.parent.name == "images"
        kept = [r for r in records if _is_before(r, finished_epochs, iterations, images)]
        if cut or len(kept) < len(records):
            with replacing(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
                for record in kept:
                    writer.write(record)


def _is_before(record: bytes, finished_epochs: int, iterations: int, images: bool) -> bool:
    event = tf.compat.v1.Event.FromString(record)
    for value in event.summary.value:
        # Keras counts iterations here, and those of a finished epoch to the last.
        if value.tag.endswith("_vs_iterations"):
            return event.step <= iterations
        if images or value.tag.startswith("epoch_"):
            return event.step < finished_epochs
    return True  # What somebody else wrote counts steps of its own.
