"""Data sets in a folder of TFDS: what is missing or damaged is said in one line, and at once."""

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterator

import numpy as np

from tf_direct_opt import files
from tf_direct_opt.runs import command_line


class Prepared:
    """A data set that TFDS has prepared, or is to download and prepare.

    Args:
        name: as TFDS has it.
        data_dir: TFDS folder; None takes $TFDS_DATA_DIR, then ~/tensorflow_datasets.
        download: whether TFDS may download and prepare what is missing.
    """

    def __init__(self, name: str, data_dir: str | None = None, download: bool = False):
        self.name = name
        self.download = download
        data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        self.data_dir = files.expanded(data_dir)
        self.path = self.data_dir / name

    def check(self, splits: Collection[str] = ()) -> None:
        """Raises a ValueError for data, or splits of it, that are not there, without TensorFlow.

        TFDS itself would try the network for minutes before it says so.
        """
        if self.download:
            _require_tfds()
            return
        infos = list(self.path.glob("**/dataset_info.json"))
        if not infos:
            raise ValueError(
                f"Expected the data set {self.name!r} prepared by TFDS under {self.path}; received "
                "none. Please add --download to prepare it there, give the folder that has it with "
                '--data_dir, or run: python -c "import tensorflow_datasets as tfds; '
                f"tfds.load('{self.name}', data_dir='{self.data_dir}')\""
            )
        try:
            found = {
                split["name"] for info in infos for split in json.loads(info.read_bytes())["splits"]
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(f"a damaged dataset_info.json ({error})") from error
        if not found.issuperset(splits):
            raise ValueError(
                f"Expected the splits {sorted(splits)} of {self.name!r} in {self.data_dir}; "
                f"received only {sorted(found)}. Please prepare the whole data set with "
                "--download, or give another --dataset."
            )

    def kept(
        self, key: str, read: Callable[[], dict[str, np.ndarray]], cache: bool = True
    ) -> dict[str, np.ndarray]:
        """What `read` decodes, kept from one process to the next while the files are the same."""
        if self.download:
            self.builder()
        if not cache:
            return read()
        path = files.cache_folder() / f"{key}-{files.fingerprint(self.path)}.npz"
        return files.kept_arrays(path, read)

    def builder(self):
        """The `tfds.core.DatasetBuilder`, prepared; ValueError where its files are damaged."""
        _require_tfds()
        import tensorflow_datasets as tfds

        if self.download:
            builder = tfds.builder(self.name, data_dir=str(self.data_dir))
            builder.download_and_prepare()
            return builder
        with self.readable():
            builder = tfds.builder(self.name, data_dir=str(self.data_dir))
            if not builder.is_prepared():
                raise ValueError(f"no version {builder.version}")
        return builder

    @contextlib.contextmanager
    def readable(self) -> Iterator[None]:
        """One ValueError for whatever goes wrong while what was prepared is read."""
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:  # TensorFlow, TFDS, protobuf and JSON have errors of their own.
            what = str(error).partition("\n")[0] or type(error).__name__
            raise self._damaged(f"something that cannot be read ({what[:200]})") from error

    def _damaged(self, what: str) -> ValueError:
        return ValueError(
            f"Expected the data set {self.name!r} whole in {self.path}; received {what}. Please "
            "delete that folder and prepare the data set again with --download."
        )


def _require_tfds() -> None:
    command_line.require_packages("tensorflow_datasets", "importlib_resources")
