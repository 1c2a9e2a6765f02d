"""Draws the confusion matrix of a run of train_semi_supervised.py."""

import json
import pathlib

import matplotlib.figure
import numpy as np


def draw(directory: pathlib.Path) -> None:
    """Writes confusion.png beside the metrics.json that it is read from."""
    from tf_direct_opt.files import replacing

    metrics = json.loads((directory / "metrics.json").read_text())
    with replacing(directory / "confusion.png") as temporary:
        figure(np.array(metrics["confusion_matrix"])).savefig(temporary, dpi=80)


def figure(
    counts: np.ndarray,  # [K, K]
) -> matplotlib.figure.Figure:
    """Shares of each class (rows) that were taken for each class (columns), in percent."""
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    picture = matplotlib.figure.Figure(figsize=(5, 5), layout="constrained")
    axes = picture.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.05:
            colour = "white" if share > 50 else "black"
            axes.text(column, row, f"{share:.1f}", ha="center", va="center", color=colour, size=7)
    accuracy = 100 * np.trace(counts) / max(counts.sum(), 1)
    axes.set(
        xticks=range(len(counts)),
        yticks=range(len(counts)),
        xlabel="taken for",
        ylabel="class",
        title=f"test images, accuracy {accuracy:.2f} %",
    )
    return picture
