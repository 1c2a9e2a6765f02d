"""CPU seconds from a start of examples/train_vae.py to its first training step, imports apart.

    python benchmarks/first_step.py --dataset=mnist --k=40

The second start is what counts: the first one decodes the images, and keeps them (--nocache does
without). Prints a JSON line: seconds of the imports, and of what comes after them in its parts.
"""

import json
import pathlib
import sys
import time

from absl import flags

from tf_direct_opt.runs import command_line, training

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))

import train_vae

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(train_vae)


def main():
    marks = {"start": time.process_time()}
    train_vae.prepare()
    import tf_direct_opt

    _ = tf_direct_opt.models  # TensorFlow, Keras and TensorFlow Probability with it.
    marks["imports"] = time.process_time()
    feed = train_vae.make_feed()
    marks["data"] = time.process_time()
    model = training.compiled(feed, train_vae.build_model)
    marks["model"] = time.process_time()
    model.fit(feed.training(0, 1), steps_per_epoch=1, shuffle=False, verbose=0)
    marks["first_step"] = time.process_time()
    times = list(marks.values())
    parts = zip(list(marks)[1:], times, times[1:], strict=False)
    row = {name: round(end - begin, 2) for name, begin, end in parts}
    print(json.dumps({**row, "after_imports": round(times[-1] - times[1], 2)}))


if __name__ == "__main__":
    command_line.run(main)
