"""The files of a bot's log: the one that is written and those that were rotated away, read from where it is asked."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from multibot_plugin.cli.log_lines import Line, Wanted

_BLOCK = 64 * 1024
_LONGEST = 256 * 1024  # a line without an end is shown in pieces of this size
_OLDER_IN_A_ROW = 200  # lines with a time before that asked for: a few may be dates that somebody wrote
_WORD = 160  # longer than any token: what may be half of one is not shown, or not yet
_HALF_A_WORD = re.compile(rb"\A\S{1,%d}" % _WORD)
_UNFINISHED_WORD = re.compile(rb"\S*\Z")


@dataclass(frozen=True)
class Part:
    """What is to be read of one file."""

    file: BinaryIO
    start: int
    end: int

    def lines(self) -> Iterator[bytes]:
        """Yield its lines in their order, without their newlines."""
        left, rest, broken = self.end - self.start, b"", not _begins_line(self.file, self.start)
        self.file.seek(self.start)
        while left > 0 and (data := self.file.read(min(_BLOCK, left))):
            left -= len(data)
            whole, newline, rest = (rest + data).rpartition(b"\n")
            if not newline and len(rest) > _LONGEST:
                whole, rest = unfinished(rest)
                newline = b" "
            if newline:
                yield from (_HALF_A_WORD.sub(b"", whole) if broken else whole).split(b"\n")
                broken = False
        if rest:
            yield _HALF_A_WORD.sub(b"", rest) if broken else rest


def open_log(path: Path) -> BinaryIO:
    """Open a log; raises FileNotFoundError also where something else than a regular file has its name."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            raise FileNotFoundError(error.errno, error.strerror, str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def _begins_line(file: BinaryIO, position: int) -> bool:
    return position == 0 or os.pread(file.fileno(), 1, position - 1) == b"\n"


def unfinished(data: bytes) -> tuple[bytes, bytes]:
    """Split a part of an endless line before its last word, which may be half of a token."""
    cut = len(data) - len(_UNFINISHED_WORD.search(data[-_WORD:])[0])  # type: ignore[index]
    return data[:cut], data[cut:]


def backwards(file: BinaryIO, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield (where it begins, line) of what stands before ``end``, the last line first.

    A line of more than _LONGEST bytes comes in pieces.
    """
    position, rest = end, b""
    if end and os.pread(file.fileno(), 1, end - 1) == b"\n":
        position -= 1
    while position:
        step = min(_BLOCK, position)
        position -= step
        rest, *lines = (os.pread(file.fileno(), step, position) + rest).split(b"\n")
        begin = position + len(rest) + sum(map(len, lines)) + len(lines)
        for line in reversed(lines):
            begin -= len(line)
            yield begin, line
            begin -= 1
        if len(rest) > _LONGEST and position:
            yield position, rest
            rest = b""
    if end:
        yield 0, rest


def parts_of(path: Path, follower: Follower, wanted: Wanted, line: Callable[[bytes], Line], stack: ExitStack
             ) -> list[Part]:  # fmt: skip
    """Return what is wanted of a log up to where ``follower`` began, in the order in which it was written.

    ``stack`` closes the files. A file that was last written before ``wanted.since`` holds nothing of it.
    """
    parts: list[Part] = []
    left = wanted.count
    for file, end in _opened(path, follower, stack):
        if left == 0 or (wanted.since is not None and os.fstat(file.fileno()).st_mtime < wanted.since):
            break
        begin, enough = _since(file, end, wanted.since, line)
        if begin < end and parts:  # what came after it is wanted, whatever its times say
            start, left = _last(parts[0].file, 0, parts[0].start, wanted, left, line)
            parts[0] = replace(parts[0], start=start)
        start, left = _last(file, begin, end, wanted, left, line)
        parts.insert(0, Part(file, start, end))
        if enough:
            break
    return parts


def _opened(path: Path, follower: Follower, stack: ExitStack) -> Iterator[tuple[BinaryIO, int]]:
    """Yield the files, the newest first, and where what was written before ``follower`` began ends in them.

    Whether it was rotated since is told by which file it is: all that is newer is the follower's to show.
    """
    begun = follower.began
    numbers = (file.name.rpartition(".")[2] for file in path.parent.glob(f"{path.name}.[0-9]*"))
    rotated = [path.with_name(f"{path.name}.{n}") for n in sorted(int(n) for n in numbers if n.isdecimal())]
    for place in [path, *rotated] if begun else rotated:
        with suppress(FileNotFoundError):
            file = stack.enter_context(open_log(place))
            info = os.fstat(file.fileno())
            if begun is None:
                yield file, info.st_size
            elif begun == (info.st_dev, info.st_ino):
                begun = None
                yield file, min(follower.position, info.st_size)


def _since(file: BinaryIO, end: int, since: float | None, line: Callable[[bytes], Line]) -> tuple[int, bool]:
    """Return where what was written since begins in a file, and whether there is nothing of it in an older one."""
    if since is None:
        return 0, False
    begin, older = end, 0
    for start, raw in backwards(file, end):
        at = line(raw).at
        if at is not None:
            begin, older = (start, 0) if at >= since else (begin, older + 1)
        if older == _OLDER_IN_A_ROW:
            return begin, True
    return begin if older else 0, False


def _last(
    file: BinaryIO, begin: int, end: int, wanted: Wanted, left: int | None, line: Callable[[bytes], Line]
) -> tuple[int, int | None]:
    """Return where the last ``left`` wanted lines of a part of a file begin, and how many are still missing."""
    if left is None:
        return begin, None
    reached = end
    for start, raw in backwards(file, end):
        if start < begin or left == 0:
            break
        reached = start
        if wanted.pattern is None or wanted.has(line(raw)):
            left -= 1
    return reached, left


class Follower:
    """What is appended to one file from now on; it survives the file being rotated, truncated or not there yet.

    ``position`` and ``began`` (device and number; None: there was no file): where it began.
    """

    def __init__(self, path: Path) -> None:
        self.position = 0
        self.began: tuple[int, int] | None = None
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""
        self._inside = False  # a line: its beginning is not ours
        with suppress(FileNotFoundError):
            self._file = open_log(path)
            self.position = self._file.seek(0, os.SEEK_END)
            info = os.fstat(self._file.fileno())
            self.began = info.st_dev, info.st_ino
            self._inside = not _begins_line(self._file, self.position)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file:
            self._file.close()

    def lines(self) -> list[bytes]:
        """Return the lines that were finished since the last call."""
        data = self._rest + self._read()
        if self._moved():
            data += self._read() + self._between()
            if self._file:
                self._file.close()
            with suppress(FileNotFoundError):
                self._file = None
                self._file = open_log(self._path)
            data += self._read()
        whole, newline, self._rest = data.rpartition(b"\n")
        if len(self._rest) > _LONGEST:
            whole, self._rest = unfinished(data)
            newline = b"\n"
        if newline and self._inside:
            whole, self._inside = _HALF_A_WORD.sub(b"", whole), False
        return whole.split(b"\n") if newline else []

    def _read(self) -> bytes:
        return self._file.read() if self._file else b""

    def _between(self) -> bytes:
        """Return what was written after this file and rotated away already."""
        if self._file is None:
            return b""
        here, found, number = os.fstat(self._file.fileno()), b"", 1
        with suppress(FileNotFoundError):
            while True:
                with open_log(self._path.with_name(f"{self._path.name}.{number}")) as file:
                    info = os.fstat(file.fileno())
                    if (info.st_dev, info.st_ino) == (here.st_dev, here.st_ino) or info.st_mtime_ns < here.st_mtime_ns:
                        break
                    found, number = file.read() + found, number + 1
        return found

    def _moved(self) -> bool:
        """Whether the path is another file now, or this one was cut."""
        try:
            there = self._path.lstat()
        except FileNotFoundError:
            return False
        if self._file is None:
            return True
        here = os.fstat(self._file.fileno())
        if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            return True
        if here.st_size < self._file.tell():
            self._file.seek(0)
        return False
