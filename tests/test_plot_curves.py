import plot_curves
import pytest
import tensorflow as tf
from test_train_vae import train


def test_curves_of_two_runs(tmp_path):
    for seed in (0, 1):
        train(f"--seed={seed}", f"--output_dir={tmp_path / str(seed)}")
    output = tmp_path / "curves.png"
    plot_curves.plot([tmp_path / "0", tmp_path / "1"], output)
    assert tf.io.decode_png(output.read_bytes()).shape[:2] == (400, 1000)
    columns = plot_curves.read_run(tmp_path / "1")
    label = plot_curves.label_of(tmp_path / "1", columns)
    assert label == "digits direct K=5 seed=1, kl_weight 0 to 1, epsilon 1 to 0.1"


def test_folder_without_a_run(tmp_path):
    with pytest.raises(ValueError, match="Expected the output folder of a run"):
        plot_curves.read_run(tmp_path)
