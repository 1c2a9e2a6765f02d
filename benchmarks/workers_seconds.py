"""Seconds an epoch of one model on several workers of this machine, each with one core.

    python benchmarks/workers_seconds.py --workers=2 --batch_sizes=100,400,1600

Starts examples/train_vae.py alone and as so many workers, in turns, for each batch size, which is
that of all workers together, on the data set of --dataset. Prints one JSON line for each batch
size: the median seconds of an epoch after the first, alone and for each number of workers, and how
many times as fast as alone that is. Give no more workers than there are cores.
"""

import contextlib
import csv
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile

from absl import flags

from tf_direct_opt.runs import command_line

FLAGS = flags.FLAGS
flags.DEFINE_list("workers", ["2"], "Numbers of workers, 2 or more.")
flags.DEFINE_list("batch_sizes", ["100", "400", "1600"], "Batch sizes of all workers together.")
flags.DEFINE_integer("k", 20, "Categories of the one variable.", lower_bound=2)
flags.DEFINE_integer("epochs", 6, "Epochs, of which the first is not counted.", lower_bound=2)
flags.DEFINE_string("dataset", "mnist", "As examples/train_vae.py has it.")

PROGRAM = pathlib.Path(__file__).resolve().parents[1] / "examples" / "train_vae.py"


def addresses(count: int) -> list[str]:
    """Addresses on this machine whose ports are free."""
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [f"127.0.0.1:{server.getsockname()[1]}" for server in servers]


def epoch_seconds(workers: int, batch_size: int) -> float:
    """The median seconds of an epoch; 0 workers are one process without a strategy."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, str(PROGRAM), f"--dataset={FLAGS.dataset}", f"--k={FLAGS.k}",
            f"--batch_size={batch_size}", f"--epochs={FLAGS.epochs}", f"--output_dir={folder}/run",
            "--distribute=" + ("multi_worker" if workers else "none"),
        ]  # fmt: skip
        one_core = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
        places = addresses(workers)
        with contextlib.ExitStack() as stack:
            processes = []
            for index in range(workers or 1):
                task = {"cluster": {"worker": places}, "task": {"type": "worker", "index": index}}
                environment = (
                    os.environ | one_core | ({"TF_CONFIG": json.dumps(task)} if workers else {})
                )
                log = stack.enter_context(open(f"{folder}/{index}.log", "w"))
                processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            codes = [process.wait() for process in processes]
        if any(codes):
            said = pathlib.Path(folder, "0.log").read_text().splitlines()[-1]
            raise ValueError(said.removeprefix("error: "))
        with open(f"{folder}/run/history.csv", newline="") as file:
            seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    return statistics.median(seconds[1:])


def main():
    workers = command_line.integers("workers", 2)
    for batch_size in command_line.integers("batch_sizes", 1):
        alone = epoch_seconds(0, batch_size)
        row = {"dataset": FLAGS.dataset, "k": FLAGS.k, "batch_size": batch_size}
        row["alone_seconds"] = round(alone, 2)
        for count in workers:
            seconds = epoch_seconds(count, batch_size)
            row[f"workers_{count}_seconds"] = round(seconds, 2)
            row[f"workers_{count}_speedup"] = round(alone / seconds, 2)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    command_line.run(main)
