"""Files that people keep: a write that fails leaves the old one, and what is no plain file is written in place."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pgtattle.proxy.files import can_write, write_whole


def test_a_file_is_written_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_whole(path, "one\n")
    write_whole(str(path), "zwei ünï \ud800\n")
    assert path.read_text(encoding="utf-8") == "zwei ünï ?\n"
    assert os.listdir(tmp_path) == ["report.json"]


def test_permissions_are_kept_and_a_new_file_has_the_umasks(tmp_path: Path) -> None:
    kept, new = tmp_path / "kept", tmp_path / "new"
    kept.write_text("old")
    kept.chmod(0o640)
    before = os.umask(0o027)
    try:
        write_whole(kept, "x")
        write_whole(new, "x")
    finally:
        os.umask(before)
    assert (kept.stat().st_mode & 0o777, new.stat().st_mode & 0o777) == (0o640, 0o640)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "baseline.toml", tmp_path / "baseline.toml"
    target.write_text("old")
    link.symlink_to(target)
    write_whole(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "real" / "made")
    write_whole(dangling, "new")
    assert (tmp_path / "real" / "made").read_text() == "new"


def test_a_pipe_and_a_device_are_written_in_place(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_whole(pipe, "x" * 300_000)
    reader.join(60)
    assert read == ["x" * 300_000]
    write_whole("/dev/null", "x")
    with pytest.raises(OSError, match="No space left"):
        write_whole("/dev/full", "x")


def test_standard_output_that_is_a_file_stays_the_shells(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = "from pgtattle.proxy.files import write_whole; write_whole('/dev/stdout', 'report\\n'); print('after')"
    with open(out, "ab") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert out.read_text() == "report\nafter\n"
    assert os.listdir(tmp_path) == ["out"]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    assert can_write(tmp_path / "new.json")
    assert can_write("/dev/null")
    assert not can_write(tmp_path / "absent" / "new.json")


@pytest.mark.parametrize("old", [None, "old and dear\n"])
def test_a_full_disk_destroys_nothing(tmp_path: Path, old: str | None) -> None:
    path = tmp_path / "baseline.toml"
    if old is not None:
        path.write_text(old)
    code = f"from pgtattle.proxy.files import write_whole; write_whole({str(path)!r}, 'x' * 100_000)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert (path.read_text() if path.exists() else None) == old
    assert os.listdir(tmp_path) == ([] if old is None else ["baseline.toml"])
