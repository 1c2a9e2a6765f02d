"""The convolutional program: real colour images, its pictures, how its codes are used."""

import json
import signal

import numpy as np
import programs
import pytest
import tensorflow as tf
from run_folders import KILLER, assert_same_end, rows_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PROGRAM = "examples/train_conv_vae.py"
SMALL = (
    "--patch_size=8", "--stride=2", "--num_train=640", "--batch_size=32", "--k=8",
    "--hidden_units=16", "--epochs=4", "--learning_rate=0.02", "--restart_dead_codes",
    "--verbose=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a small run on the photographs, and the JSON line it ended with."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, programs.train(PROGRAM, *SMALL, "--deterministic", f"--output_dir={folder}")


def test_it_trains_on_colour_images_and_says_how_codes_are_used(finished):
    folder, line = finished
    assert (line["dataset"], line["k"]) == ("sample_images", 8)
    assert line["likelihood"] == "discretised_logistic"
    bits = [float(row["val_bits_per_dimension"]) for row in rows_of(folder)]
    # Eight bits are those of any level being as likely as another.
    assert 8.0 > bits[0] > bits[-1] + 0.3
    test = line["test"]
    nats = test["bits_per_dimension"] * 8 * 8 * 3 * np.log(2)
    assert test["negative_elbo"] == pytest.approx(nats, rel=1e-5)
    codes = line["codes"]
    assert codes["usage"] == 1 - codes["dead_codes"] / 8
    assert 1.5 < codes["perplexity"] <= 8
    assert float(rows_of(folder)[-1]["perplexity"]) > 1.5


def tiles(folder, name):
    """The 8x8 images of a picture, eight to a row, from 0 to 255."""
    picture = tf.io.decode_png((folder / name).read_bytes()).numpy()[::2, ::2]
    rows = picture.shape[0] // 9
    assert picture.shape == (rows * 9, 8 * 9, 3)
    return picture.reshape(rows, 9, 8, 9, 3)[:, :8, :, :8].swapaxes(1, 2).astype(float)


def test_reconstructions_are_those_of_their_images(finished):
    pairs = tiles(finished[0], "reconstructions.png").reshape(3, 2, 8, -1)
    images, made = (np.reshape(pairs[:, i], [24, -1]) for i in (0, 1))
    error = np.mean(np.square(images - made))
    # A model whose codes say nothing is as wrong as their average, at best.
    assert error < 0.5 * np.mean(np.var(images, axis=0))
    assert error < 0.5 * np.mean(np.square(images - np.roll(made, 1, axis=0)))
    samples = tiles(finished[0], "samples.png").reshape(24, -1)
    assert len(np.unique(samples, axis=0)) == 24


def test_pictures_of_tensorboard_are_in_colour(finished):
    events = EventAccumulator(str(finished[0] / "tensorboard/images")).Reload()
    for name, side in (("codes", 108), ("inputs", 45), ("reconstructions", 45)):
        image = tf.io.decode_png(tf.make_ndarray(events.Tensors(name)[-1].tensor_proto)[2])
        assert image.shape[1:] == (side, 3)
    assert np.any(image[..., 0] != image[..., 2])
    codes = tf.io.decode_png((finished[0] / "codes.png").read_bytes())
    assert codes.shape == (11 * 9 * 4, 12 * 9 * 4, 3)
    assert np.any(codes[..., 0] != codes[..., 2])


@pytest.mark.slow
def test_killed_and_resumed_it_ends_the_same(finished, tmp_path):
    flags = (*SMALL, "--deterministic", f"--output_dir={tmp_path / 'run'}", "--resume")
    prelude = KILLER.format(moment="before the third checkpoint is renamed")
    assert programs.run(PROGRAM, *flags, prelude=prelude)[0] == -signal.SIGKILL
    programs.train(PROGRAM, *flags)
    assert_same_end(finished[0], tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--estimator=direct", "--likelihood=gaussian", "--prior=learned"),
        ("--estimator=direct", "--num_flipped=1", "--k=3"),
        ("--estimator=gumbel_softmax", "--likelihood=categorical", "--stride=4"),
        ("--estimator=straight_through", "--dtype_policy=mixed_float16"),
    ],
    ids=" ".join,
)
def test_other_estimators_likelihoods_and_policies(flags, tmp_path):
    line = programs.train(PROGRAM, *SMALL, *flags, f"--output_dir={tmp_path / 'run'}")
    losses = [float(row["val_loss"]) for row in rows_of(tmp_path / "run")]
    assert losses[-1] < losses[0]
    assert np.isfinite(line["test"]["negative_elbo"])


# A data set of TFDS under the name of a real one, in little.
STORED = """
import json, sys
import numpy as np, tensorflow as tf, tensorflow_datasets as tfds
from absl import flags
import colour

def examples(count):
    image = np.random.default_rng(count).integers(0, 256, [count, 32, 32, 3], np.uint8)
    names = {"id": [str(i) for i in range(count)], "label": np.arange(count) % 10}
    return tf.data.Dataset.from_tensor_slices({"image": image, **names})

folder = sys.argv[1]
tfds.dataset_builders.store_as_tfds_dataset(
    name="cifar10", version="3.0.2", data_dir=folder, disable_shuffling=True,
    split_datasets={"train": examples(40), "test": examples(20)},
    features=tfds.features.FeaturesDict({
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }),
)
flags.FLAGS(["program", "--dataset=cifar10", f"--data_dir={folder}", "--num_train=30"])
colour.check_flags()
images = colour.from_flags()
expected = np.random.default_rng(20).integers(0, 256, [20, 32, 32, 3], np.uint8)
print(json.dumps({
    "shapes": [list(part.shape) for part in (images.train, images.valid, images.test)],
    "same": bool(np.all(images.test == expected / np.float32(255))),
}))
"""


@pytest.mark.slow
def test_images_of_tfds_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(programs.ROOT / "examples"))
    program = tmp_path / "stored.py"
    program.write_text(STORED)
    code, out, err = programs.run(program, tmp_path / "tfds")
    assert code == 0, err
    said = json.loads(out.splitlines()[-1])
    assert said == {"shapes": [[30, 32, 32, 3], [4, 32, 32, 3], [20, 32, 32, 3]], "same": True}
