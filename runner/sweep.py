"""A bot's processes that outlive its runner: how they are recognised, and ended.

Two pollers of one token take each other's updates, so nothing that a bot started may live on beside its next run.
The runner looks at its start, before the bot's code runs, and at its end; the manager looks when a bot was stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import Callable, Collection, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Set, Tuple

from multibot_runner import family

GRACE_S = 2.0  # between SIGTERM and SIGKILL
_KILLING_S = 2.0  # for what forks while it is being killed
_PAUSE_S = 0.03


@dataclass(frozen=True)
class Traces:
    """By what a process of ``bot`` is recognised.

    It has ``uid`` as its real user id and carries ``family.MARK`` in its environment (kept over an exec), or the
    command line of a runner with one of ``digests`` (kept over a fork, and readable whatever the process did to hide
    its memory), or descends from such a process. The user id alone is not enough: another installation may use it.
    """

    bot: str
    run_dir: str
    digests: Tuple[str, ...]
    uid: int


class _Process(NamedTuple):
    name: bytes
    parent: int
    uid: int


def members(traces: Traces, running: Collection[int] = ()) -> Tuple[int, ...]:
    """Return the living processes of the bot, but not this one and no runner that waits for the bot's lock.

    ``running`` (and what they started) are left out, too: runners that have the bot rightfully.
    """
    table = _processes()
    children: Dict[int, List[int]] = {}
    for pid, process in table.items():
        children.setdefault(process.parent, []).append(pid)
    found = {p for p, t in table.items() if t.uid == traces.uid and _carries(p, traces)}
    waiting = {pid for pid in found if table[pid].name == family.WAITING}
    spared = {os.getpid(), *waiting, *_with_children(running, children)}
    # Whoever started this process by a shell has the bot's id and digest on a command line, too.
    return tuple(_with_children(found - waiting - set(_ancestors(os.getpid(), table)), children) - spared)


def _ancestors(pid: int, table: Mapping[int, _Process]) -> Iterator[int]:
    while pid in table:
        pid = table[pid].parent
        yield pid


def _with_children(pids: Iterable[int], children: Dict[int, List[int]]) -> Set[int]:
    found: Set[int] = set()
    open_pids = list(pids)
    while open_pids:
        pid = open_pids.pop()
        if pid not in found:
            found.add(pid)
            open_pids.extend(children.get(pid, ()))
    return found


def _processes() -> Dict[int, _Process]:
    """Return every process that is not dead; /proc/PID/status tells the real user id, whoever owns the directory."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/status", "rb") as file:
                    lines = dict(line.split(b":", 1) for line in file.read().split(b"\n")[:12] if b":" in line)
                if lines[b"State"].split()[0] not in (b"Z", b"X"):
                    uid, parent = int(lines[b"Uid"].split()[0]), int(lines[b"PPid"])
                    found[int(entry)] = _Process(lines[b"Name"].strip(), parent, uid)
            except (OSError, KeyError, ValueError, IndexError):
                continue
    return found


def _carries(pid: int, traces: Traces) -> bool:
    words = _read(f"/proc/{pid}/cmdline").split(b"\0")
    bot = traces.bot.encode()
    for before, name, digest in zip([b"", *words], words, words[1:], strict=False):
        if name == bot and digest.decode("latin-1") in traces.digests and before != b"--exec":  # a person's command
            return True
    return f"{family.MARK}={traces.run_dir}".encode() in _read(f"/proc/{pid}/environ").split(b"\0")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def end(find: Callable[[], Iterable[int]], grace_s: float = 0.0) -> int:
    """End what ``find`` returns until it returns nothing; return how many processes that were.

    SIGTERM first where ``grace_s`` gives them time, then SIGKILL.
    """
    left = tuple(find())
    count, kill_mono = len(left), time.monotonic() + grace_s
    if grace_s > 0:
        family.signal_all(left, signal.SIGTERM)
        while left and time.monotonic() < kill_mono:
            time.sleep(_PAUSE_S)
            left = tuple(find())
    while left and time.monotonic() < kill_mono + _KILLING_S:
        family.signal_all(left, signal.SIGKILL)
        time.sleep(_PAUSE_S)
        left = tuple(find())
    return count


class LastAct:
    """Called when this process, the runner, ends: nothing that the bot started lives on."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces
        self._pid = os.getpid()

    def __call__(self) -> None:
        if os.getpid() != self._pid:  # a child that the bot forked runs our exit handlers, too
            return
        _let_go_of_resource_tracker()
        # A stop ends by a timer (stop.py): half of what it leaves is for them to finish, the rest for killing them.
        left_s = signal.getitimer(signal.ITIMER_REAL)[0]
        end(lambda: members(self._traces), min(GRACE_S, left_s / 2) if left_s else GRACE_S)


def _let_go_of_resource_tracker() -> None:
    """Let multiprocessing's helper end: it ignores SIGTERM, and frees the bot's shared memory when its pipe closes."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    with contextlib.suppress(Exception):  # of Python's own, and not documented
        tracker = module._resource_tracker  # type: ignore[union-attr]
        descriptor, tracker._fd = tracker._fd, None
        os.close(descriptor)
