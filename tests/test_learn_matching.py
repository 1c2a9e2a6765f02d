import importlib
import json

import numpy as np
import programs
import pytest
import tensorflow as tf
from absl import flags

PROGRAM = "examples/learn_matching.py"


@pytest.fixture(scope="module")
def learn_matching():
    """The program as a module. Its flags have names of others', which stand aside."""
    others = {name: flags.FLAGS[name] for name in flags.FLAGS}
    for name in others:
        delattr(flags.FLAGS, name)
    yield importlib.import_module("learn_matching")
    for name in list(flags.FLAGS):
        delattr(flags.FLAGS, name)
    for name, flag in others.items():
        if name == flag.name:  # A short name comes back with its long one.
            flags.FLAGS[name] = flag


def test_pairs_of_sets_are_permuted_and_of_different_images(learn_matching):
    images = learn_matching.digit_images("validation")
    (first, second), permutation = learn_matching.pairs_of_sets(images, 20, 0.0, seed=0)
    assert first.shape == second.shape == (20, 10, 64)
    for axis in (1, 2):
        np.testing.assert_array_equal(permutation.sum(axis=axis), np.ones([20, 10]))
    digit = {image.tobytes(): label for label, group in enumerate(images) for image in group}
    for matched, one, other in zip(permutation, first, second, strict=True):
        labels = [np.array([digit[image.tobytes()] for image in images]) for images in (one, other)]
        np.testing.assert_array_equal(labels[0][:, np.newaxis] == labels[1], matched)
    ordered = np.einsum("bij,bjp->bip", permutation, second)
    assert np.all(np.any(first != ordered, axis=-1))


def test_the_parts_share_no_image(learn_matching):
    parts = {
        part: {image.tobytes() for group in learn_matching.digit_images(part) for image in group}
        for part in ("train", "validation", "test")
    }
    assert [len(images) for images in parts.values()] == [900, 300, 597]
    assert len(set.union(*parts.values())) == 1797


def test_sinkhorn_is_doubly_stochastic_and_tends_to_the_assignment(learn_matching):
    scores = np.random.default_rng(0).normal(size=[7, 10, 10]).astype(np.float32)
    matrix = learn_matching.GumbelSinkhorn(1.0, 50, seed=0)(scores, training=True).numpy()
    for axis in (1, 2):
        np.testing.assert_allclose(matrix.sum(axis=axis), np.ones([7, 10]), atol=1e-3)
    cold = learn_matching.GumbelSinkhorn(0.03, 300, seed=0)(scores)
    best = learn_matching.tdo.solvers.Assignment()(scores)
    assert np.mean(np.all(np.round(cold) == best, axis=(1, 2))) >= 6 / 7


def test_the_loss_of_a_permutation_is_the_number_of_elements_put_wrongly(learn_matching):
    permutation = tf.eye(10)[tf.newaxis]
    swapped = tf.gather(permutation, [1, 0, *range(2, 10)], axis=1)
    for other, expected in ((permutation, 0.0), (swapped, 2.0), (permutation[:, ::-1], 10.0)):
        np.testing.assert_allclose(learn_matching.num_wrong(permutation, other), [expected])


def test_numbers_are_put_in_order_by_their_permutation(learn_matching):
    numbers, permutation = learn_matching.numbers_to_sort(50, seed=0)
    in_order = np.einsum("bij,bi->bj", permutation, numbers[..., 0])
    np.testing.assert_array_equal(in_order, np.sort(numbers[..., 0], axis=1))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--method=direct"],
        pytest.param(["--method=gumbel_sinkhorn"], marks=pytest.mark.slow),
        pytest.param(["--method=fenchel_young", "--num_samples=2"], marks=pytest.mark.slow),
        pytest.param(["--method=direct", "--task=numbers"], marks=pytest.mark.slow),
    ],
)
def test_program_learns_and_writes_its_result(tmp_path, arguments):
    flags = ["--num_pairs=400", "--epochs=4", "--num_test=100", "--seeds=3"]
    result = programs.train(PROGRAM, *flags, *arguments, f"--output_dir={tmp_path}")
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert result["steps"] == 32
    assert result["test_exact_match"] == pytest.approx(1 - result["test_any_wrong"])
    # Nine elements in ten are put wrongly by chance.
    assert result["test_elements_wrong"] < 0.7
