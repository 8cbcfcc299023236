"""How a file that crosses a process is read and written; a part of ``protocol``, from which others import it."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Optional, Tuple

FILE_CAP = 256 * 1024  # of every file that is read here, unless its reader says otherwise


class BadFile(Exception):
    """A file of the protocol is missing, too large, not a plain file or not what it should be."""


def replace_file(
    path: Path, data: bytes, mode: int = 0o600, owner: Optional[Tuple[int, int]] = None, fsync: bool = True
) -> None:
    """Write ``data`` to ``path`` by a temporary file and a rename: a reader sees the old or the new, whole.

    ``owner`` is (uid, gid). ``fsync`` False survives a crash of the process, not of the machine (heartbeats).
    """
    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            if owner is not None and owner != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), *owner)
            if fsync:
                file.flush()
                os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    if fsync:
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames and new names in ``directory`` survive a crash of the machine."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(path: Path, cap: int = FILE_CAP, links: bool = False) -> bytes:
    """Return a plain file's content; its owner may be hostile: no fifos, at most ``cap`` bytes, no ``links`` unasked.

    Raises BadFile (FileNotFoundError as its cause when the file is missing).
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags if links else flags | os.O_NOFOLLOW)
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # before fdopen, which fails on a directory
            raise BadFile(f"{path}: not a plain file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(cap + 1)
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if len(data) > cap:
        raise BadFile(f"{path}: larger than {cap} bytes")
    return data
