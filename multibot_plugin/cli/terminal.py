"""A command of another user in a terminal of its own: it can neither type into the caller's nor keep it.

As ``sudo`` does with ``use_pty``: the command has a new session and a pseudo terminal; what is typed goes there, what
it shows comes from there. Job control ends there, too: Ctrl-Z is for the command.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Mapping
from typing import NoReturn

_CHUNK = 64 * 1024


def controlling() -> int | None:
    """Return a descriptor of the terminal that this process has; None without one."""
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return None


def run(terminal: int, words: list[str], environment: Mapping[str, str]) -> NoReturn:
    """Run ``words`` in a terminal of their own beside ``terminal``, and end as they end.

    What is redirected (no terminal now) is theirs as it is.
    """
    redirected = {number: os.dup(number) for number in (0, 1, 2) if not os.isatty(number)}
    child, inner = pty.fork()
    if child == 0:
        try:
            for number, kept in redirected.items():
                os.dup2(kept, number)
            os.execve(words[0], words, environment)  # noqa: S606
        finally:
            os._exit(126)
    for kept in redirected.values():
        os.close(kept)
    reads = 0 not in redirected and os.tcgetpgrp(terminal) == os.getpgrp()
    _resize(terminal, inner)
    signal.signal(signal.SIGWINCH, lambda *_: _resize(terminal, inner))
    signal.signal(signal.SIGINT, lambda *_: os.write(inner, b"\x03"))  # in a pipe: the terminal is not ours alone
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(child, number))
    with _raw(terminal) if reads else contextlib.nullcontext():
        _relay(child, inner, terminal, reads)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _resize(terminal: int, inner: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.ioctl(inner, termios.TIOCSWINSZ, fcntl.ioctl(terminal, termios.TIOCGWINSZ, bytes(8)))


@contextlib.contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Have every key go to the command, Ctrl-C too."""
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal, termios.TCSADRAIN)  # what was typed already is for it, too
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # it was closed
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _relay(child: int, inner: int, terminal: int, reads: bool) -> None:
    """Pass on what is typed and what is shown until the command has ended, and what it has shown until then."""
    ended, shows, typed = os.pidfd_open(child), True, b""
    while True:
        sources = [ended, *([inner] if shows else ()), *([terminal] if reads and not typed else ())]
        ready, writable, _ = select.select(sources, [inner] if typed else [], [])
        if inner in ready:
            shown = _read(inner)
            shows = bool(shown)
            with contextlib.suppress(OSError):  # nobody looks any more
                while shown:
                    shown = shown[os.write(terminal, shown) :]
        elif ended in ready:
            return
        if terminal in ready:
            typed = _read(terminal)
            reads = bool(typed)
        if writable:
            typed = typed[os.write(inner, typed[:1024]) :]


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _CHUNK)
    except OSError:  # the other side is closed
        return b""
