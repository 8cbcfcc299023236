"""Processes around a bot: what the kernel does for them, and who descends from whom (read from /proc)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from typing import Dict, List, Optional, Tuple

MARK = "MULTIBOT_BOT_RUN"  # in the environment of everything that a bot starts: the bot's runtime directory
# Names (/proc/PID/comm) of a runner: until it has the bot's lock, and for as long as a person runs it in a terminal.
WAITING, FOREGROUND = b"mb-waits", b"mb-run"

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 4, 15, 36


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def die_with_parent(number: int) -> None:
    """Have the kernel send signal ``number`` when the parent dies. A change of user clears it."""
    _prctl(_PR_SET_PDEATHSIG, number)


def hide_memory() -> None:
    """Keep other processes of the same user out of this one's memory and environment."""
    _prctl(_PR_SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def rename(name: bytes) -> bytes:
    """Give this process a name (at most 15 bytes) and return the one that it had."""
    with open("/proc/self/comm", "rb") as file:
        before = file.read().strip()
    text = ctypes.create_string_buffer(name, 16)
    ctypes.CDLL(None).prctl(_PR_SET_NAME, text, 0, 0, 0)
    return before


def name_of(pid: int) -> bytes:
    """Return a process's name; empty when there is no such process."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return file.read().strip()
    except OSError:
        return b""


def take_terminal() -> None:
    """Make this process's group the one that has the terminal: it may read, and Ctrl-C is for it alone."""
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # we are in the background until then
    with contextlib.suppress(OSError):
        os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, before)


def parent_of(pid: int) -> Optional[int]:
    """Return the parent's pid; None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may hold anything; state and parent follow it.
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def descendants(pid: int) -> Tuple[int, ...]:
    """Return all living descendants of ``pid``, zombies included."""
    children: Dict[int, List[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            parent = parent_of(int(entry))
            if parent is not None:
                children.setdefault(parent, []).append(int(entry))
    found: List[int] = []
    waiting = list(children.get(pid, ()))
    while waiting:
        current = waiting.pop()
        found.append(current)
        waiting.extend(children.get(current, ()))
    return tuple(found)


def signal_all(pids: Tuple[int, ...], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
