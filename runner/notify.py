"""sd_notify for command bots: a socket on which the program says that it is ready, alive, and what it does.

The protocol of systemd (READY, STATUS, STOPPING, WATCHDOG, WATCHDOG_USEC), for which every language has a library.
It is read in the runner's own loop, no more often than REST_S allows, so that a program that floods the socket waits
itself. Only processes of the bot are listened to.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from multibot_runner import family, logs
from multibot_runner.protocol import is_number
from multibot_runner.record import Recorder

REST_S = 0.2  # no look before that
SHORTEST_S = 5.0  # of a watchdog: a look at its file may come as long after it was fed
_MOST_AT_ONCE = 32  # messages of one look
_LARGEST = 4096
_LONGEST_STATUS = 200
_LONGEST_PATH = 107  # of a socket
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_DEEPEST = 64  # of a family


class Notify:
    """The socket, and what was said on it, in the heartbeat. ``environment``: how a program finds it.

    WATCHDOG_PID is left out on purpose: with it only the very process that was started would feed the watchdog, and
    that is often a shell or npm.
    """

    def __init__(self, path: Path, recorder: Recorder, watchdog_s: float) -> None:
        self._path, self._recorder = path, recorder
        self._look_mono = 0.0
        self.environment: Dict[str, str] = {}
        self._socket = self._listen()
        if self._socket is not None and watchdog_s:
            watchdog_s = max(SHORTEST_S, watchdog_s)
            self.environment["WATCHDOG_USEC"] = str(round(watchdog_s * 1e6))
            recorder.update(watchdog_s=watchdog_s)

    def watched(self, pause: Optional[float]) -> Tuple[List[int], Optional[float]]:
        """Return the descriptor to wait for, if it is time to, and how long to wait at most (None: for ever)."""
        if self._socket is None:
            return [], pause
        rest_s = self._look_mono - time.monotonic()
        if rest_s <= 0:
            return [self._socket.fileno()], pause
        return [], rest_s if pause is None else min(pause, rest_s)

    def read(self, ready: List[int]) -> None:
        """Take note of what was said, if the socket is among what is ``ready``."""
        if self._socket is None or self._socket.fileno() not in ready:
            return
        self._look_mono = time.monotonic() + REST_S
        changes: Dict[str, Any] = {}
        with contextlib.suppress(OSError):
            for _ in range(_MOST_AT_ONCE):
                # No room for descriptors: the kernel closes those that are sent, which is what BARRIER=1 waits for.
                data, extra, _, _ = self._socket.recvmsg(_LARGEST, socket.CMSG_SPACE(_CREDENTIALS.size))
                if _is_of_the_bot(extra):
                    changes.update(meaning(data, time.monotonic(), self._recorder.heartbeat.watchdog_s))
        if changes:
            self._recorder.update(**changes)

    def close(self) -> None:
        if self._socket is not None:
            self.read([self._socket.fileno()])  # its last words
            self._socket.close()
            self._remove()

    def _listen(self) -> Optional[socket.socket]:
        """Return the bound socket; None where there can be none, which the log says."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        try:
            if len(os.fsencode(self._path)) > _LONGEST_PATH:
                made.bind("")  # a name without a file, chosen by the kernel
                self.environment["NOTIFY_SOCKET"] = "@" + made.getsockname()[1:].decode("ascii")
                return made
            self._remove()
            made.bind(str(self._path))
        except OSError as error:
            logs.say(f"no NOTIFY_SOCKET: {self._path}: {error.strerror}")
            made.close()
            return None
        self.environment["NOTIFY_SOCKET"] = str(self._path)
        return made

    def _remove(self) -> None:
        with contextlib.suppress(OSError):  # the directory is the bot's: it may have put anything there
            os.unlink(self._path)


def meaning(message: bytes, now: float, watchdog_s: Optional[float]) -> Dict[str, Any]:
    """Return what a message changes in the heartbeat; what it does not know says nothing."""
    changes: Dict[str, Any] = {}
    for line in message.decode(errors="replace").splitlines():
        name, _, value = line.partition("=")
        if name == "READY" and value == "1":
            changes["ready_mono"] = now
        elif name == "STOPPING" and value == "1":
            changes["ready_mono"] = None
        elif name == "STATUS":
            changes["status"] = logs.clean(value)[:_LONGEST_STATUS]
        elif name == "WATCHDOG" and value == "1":
            changes["watchdog_mono"] = now
        elif name == "WATCHDOG" and value == "trigger" and watchdog_s:
            changes["watchdog_mono"] = max(0.0, now - watchdog_s - 1.0)
        elif name == "WATCHDOG_USEC" and value.isdecimal() and len(value) < 20 and is_number(int(value) / 1e6):
            changes["watchdog_s"] = max(SHORTEST_S, int(value) / 1e6) if int(value) else None
    return changes


def _is_of_the_bot(extra: List[Tuple[int, int, bytes]]) -> bool:
    """Whether the sender is this bot's user and, if it still lives, descends from us (systemd-notify ends at once)."""
    for level, kind, data in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and len(data) == _CREDENTIALS.size:
            pid, uid, _ = _CREDENTIALS.unpack(data)
            return uid == os.getuid() and _descends(pid)
    return False


def _descends(pid: int) -> bool:
    """Whether a process descends from this one, or is gone."""
    current: Optional[int] = pid
    for _ in range(_DEEPEST):
        if current is None or current == os.getpid():
            return True
        if current <= 1:
            return False
        current = family.parent_of(current)
    return False
