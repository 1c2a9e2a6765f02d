import shutil
import signal
import subprocess
import sys

import pytest
from programs import ROOT, run

from tf_direct_opt.files import (
    cache_folder,
    expanded,
    kept_arrays,
    locked,
    remove_temporaries,
    replacing,
    require_space,
)  # fmt: skip


def test_success_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".json"
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(tmp_path):
    (tmp_path / ".tmp-3-a.json").mkdir()
    foreign = (".tmp-a.json", ".tmp-x-a.json", ".tmp-1-b.json", "a.json", ".tmp-1-a.json.bak")
    for name in (".tmp-1-a.json", ".tmp-22-a.json", *foreign):
        (tmp_path / name).write_text("")
    remove_temporaries(tmp_path / "a.json")
    assert {path.name for path in tmp_path.iterdir()} == {".tmp-3-a.json", *foreign}


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
    with locked(tmp_path / "a"):
        code, _, err = run_snippet(tmp_path, f"with files.locked({str(tmp_path / 'a')!r}): pass")
        assert code == 1
        assert "Expected a folder that no other process is filling; received" in err
    with locked(tmp_path / "a"):
        pass


def test_a_held_folder_leaves_no_trace_but_what_was_put_there(tmp_path):
    with locked(tmp_path / "a" / "b"):
        pass
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a"):
        (tmp_path / "a" / "result").write_text("")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["result"]


def test_the_lock_ends_with_a_killed_process(tmp_path):
    code, _, _ = run_snippet(
        tmp_path,
        f"with files.locked({str(tmp_path / 'a')!r}): os.kill(os.getpid(), signal.SIGKILL)",
    )
    assert code == -signal.SIGKILL
    with locked(tmp_path / "a"):
        pass


def test_needs_no_tensorflow():
    # In a process of its own that has imported nothing.
    code = (
        "import sys, tf_direct_opt.files, tf_direct_opt.runs.training as t, "
        "tf_direct_opt.runs.vae_flags; sys.exit('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0


def run_snippet(folder, code):
    path = folder / "snippet.py"
    path.write_text(f"import os, signal\nfrom tf_direct_opt import files\n{code}\n")
    return run(path)


def test_a_home_that_cannot_be_found(monkeypatch):
    with pytest.raises(ValueError, match=r"^Expected a folder or file; received ~nobody-here/x, "):
        expanded("~nobody-here/x")
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody-here")
    kept = cache_folder() / "a.npz"
    assert kept_arrays(kept, lambda: {"a": 3}) == {"a": 3}
    assert not kept.exists()


def test_room_on_the_disk(tmp_path, monkeypatch):
    require_space(tmp_path, 1000)
    free = shutil.disk_usage(tmp_path).free
    for _ in range(2):
        with pytest.raises(OSError, match=r"No space left|too large"):
            require_space(tmp_path, 2 * free)
        monkeypatch.delattr("os.posix_fallocate", raising=False)  # As on a Mac.
    require_space(tmp_path, 1000)
    assert list(tmp_path.iterdir()) == []
