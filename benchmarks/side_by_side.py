"""Times training steps of several models in turns, so that what else runs meets all of them."""

import statistics
import time

STEPS = 10  # In one call.


def compiled(model, side: int):
    """The model, compiled and built for images of that many pixels a side."""
    import keras

    model.compile(keras.optimizers.Adam(1e-3), steps_per_execution=STEPS)
    model.build((None, side, side))
    return model


def step_times(models: dict, batch: int, side: int, repeats: int) -> dict[str, float]:
    """Median CPU milliseconds of a step of each, and its ratio to that of the last one.

    Args:
        models: name -> what `compiled` gave.
        batch: images in a step; they are random bits.
        side: pixels on a side of an image.
        repeats: timed calls of ten steps, after one that is not.

    Returns:
        name_ms and name_ratio for every name.
    """
    import numpy as np

    images = np.random.default_rng(0).integers(0, 2, [batch * STEPS, side, side])
    images = images.astype(np.float32)
    times: dict[str, list[float]] = {name: [] for name in models}
    for repeat in range(repeats + 1):
        for name, model in models.items():
            start = time.process_time()
            model.fit(images, batch_size=batch, verbose=0)
            if repeat:  # The first is traced.
                times[name].append(1e3 * (time.process_time() - start) / STEPS)
    base, row = list(times.values())[-1], {}
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, base, strict=True)]
        row[f"{name}_ms"] = round(statistics.median(values), 2)
        row[f"{name}_ratio"] = round(statistics.median(ratios), 2)
    return row
