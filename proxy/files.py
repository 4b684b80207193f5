"""Files that people keep: written whole or not at all.

Enters: a path and text. Leaves: the file with that text, or OSError and the file as it was. What cannot be renamed (a
device, a pipe, a file that is mounted by itself) is written in place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path


def can_write(path: str | Path) -> bool:
    """True where `write_whole` may succeed: into a folder for a file, into the thing itself for what is none."""
    if _is_special(path):
        return not os.path.isdir(path) and os.access(path, os.W_OK)
    folder = os.path.dirname(os.path.realpath(path))
    return os.path.isdir(folder) and os.access(folder, os.W_OK)


def write_whole(path: str | Path, text: str) -> None:
    """Write a file beside the old one and rename it over that; a link stays one, permissions are kept."""
    data = text.encode("utf-8", "replace")
    if _is_special(path):
        _in_place(path, data)
        return
    found = _stat(path)
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    beside = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with open(descriptor, "wb") as file:
            if found is not None:
                os.fchmod(descriptor, stat.S_IMODE(found.st_mode))
                # Who may not give files away writes one of its own.
                with contextlib.suppress(OSError):
                    os.fchown(descriptor, found.st_uid, found.st_gid)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        try:
            os.replace(beside, target)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            _in_place(target, data)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)


def _stat(path: str | Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _is_special(path: str | Path) -> bool:
    """True for a device, a pipe or a folder, and for /dev/stdout, which may stand for a file that the shell holds."""
    found = _stat(path)
    if found is None:
        return False
    return not stat.S_ISREG(found.st_mode) or os.path.abspath(path).startswith(("/dev/", "/proc/"))


def _in_place(path: str | Path, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
