"""What a runner writes down: its heartbeat, its runs and how the last one ended."""

from __future__ import annotations

import _thread
import contextlib
import dataclasses
import os
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple

from multibot_runner import logs
from multibot_runner.protocol import (
    RUNNING,
    STOPPING,
    BotPaths,
    Exit,
    Heartbeat,
    Run,
    encode,
    replace_file,
    with_run,
)
from multibot_runner.readers import read_runs

_WRITES_PER_S = 0.5  # besides the beats and what is urgent
_BURST = 20.0
_REST_S = 3.0  # as between two beats of a loop


class Recorder:
    """Keeps the two files of one process (``mute``: writes none of them). No failure to write reaches the bot, whose
    threads may all tell something.

    Neither file is forced to the disk: the runtime directory is gone after a reboot anyway.
    """

    def __init__(self, paths: BotPaths, start_mono: float, phase: str = RUNNING, mute: bool = False) -> None:
        self.paths = paths
        self._mute = mute
        self.stopping = False
        self.heartbeat = Heartbeat(pid=os.getpid(), phase=phase, start_mono=start_mono)
        self._runs: Tuple[Run, ...] = ()
        self._lock = threading.RLock()  # SIGTERM may come, and be written down, within an update
        self._written = self.heartbeat
        self._told = False
        self._awaited = False  # a write that comes by itself
        self._credit = _BURST
        self._credited_mono = time.monotonic()

    def read_runs(self) -> Tuple[Run, ...]:
        """Return the earlier runs, newest first; none when the file is missing or broken."""
        self._runs = read_runs(self.paths)
        return self._runs

    @property
    def spoilt(self) -> bool:
        """Return whether there is a record of runs that cannot be read: the bot may have made it so.

        One that belongs to somebody else is no such thing: the bot had another user then.
        """
        try:
            return not self._runs and os.lstat(self.paths.runs).st_uid == os.geteuid()
        except OSError:
            return False

    @property
    def digests(self) -> Tuple[str, ...]:
        """Return the digests of this run and the earlier ones."""
        return tuple({run.digest for run in self._runs})

    @property
    def last_word(self) -> str:
        """Return what was written down of how the newest run ended."""
        return self._runs[0].exit.text if self._runs and self._runs[0].exit else ""

    def waits(self, seconds: float) -> None:
        """Write down how long this run waits, or has waited, before it runs the bot's code."""
        self._change(waited_s=seconds)

    def bury(self, exit: Exit) -> None:
        """Write down how the last run, which left no word, ended: nothing follows it."""
        self._runs = (dataclasses.replace(self._runs[0], exit=exit), *self._runs[1:])
        self._write_runs()

    def begin(self, digest: str) -> None:
        """Write down a new run of this process."""
        run = Run(time.time(), self.heartbeat.start_mono, os.getpid(), digest)
        self._runs = with_run(self._runs, run)
        self._write_runs()

    def stop(self) -> None:
        """Write down that this process was asked to stop."""
        if self._foreign() or self.stopping:
            return
        self.stopping = True
        self._change(stopping=True)
        self.update(phase=STOPPING)

    def finish(self, exit: Exit) -> None:
        """Write down how this process ends; only the first word counts."""
        if not self._foreign() and self._runs and self._runs[0].exit is None:
            self._change(exit=exit)

    def update(self, **changes: Any) -> None:
        """Change the heartbeat.

        What is urgent (``_is_urgent``) is written at once, the rest with the next beat of the bot's loop or, some times
        sooner, when it comes: a bot costs one small file per beat, however busy it is.
        """
        self._update(lambda _: changes)

    def _update(self, changes: Callable[[Heartbeat], Dict[str, Any]], at_once: bool = False) -> None:
        if self._foreign():  # before the lock, which another thread may have held when this child was forked
            return
        with self._lock:
            new = dataclasses.replace(self.heartbeat, **changes(self.heartbeat))
            self.heartbeat = dataclasses.replace(new, phase=STOPPING) if self.stopping else new
            due = self._may_write() or at_once or _is_urgent(self._written, self.heartbeat)
            failure = self.write() if due else ""
            if not due and self.heartbeat.loop_mono is None:
                self._write_soon()
            told, self._told = self._told, self._told or bool(failure)
        if failure and not told:  # without the lock: a handler of a signal may wait for it while its thread prints
            logs.say(f"no heartbeat, so multibot sees nothing of this bot: {failure}")

    def _write_soon(self) -> None:
        """Have what is not written yet written after a rest: nothing beats, and the bot may not come here again.

        A thread does it, for there is nobody else; not one of ``threading``, whose lock the handler of a signal may
        have come into, and where a bot would find it among its own.
        """
        if self._awaited or self._mute:
            return
        self._awaited = True
        try:
            _thread.start_new_thread(self._write_late, ())
        except RuntimeError:  # no room for one more, or the end of the interpreter
            self._awaited = False

    def _write_late(self) -> None:
        time.sleep(_REST_S)
        self._awaited = False
        self._update(lambda _: {}, at_once=True)

    def write(self) -> str:
        """Write the heartbeat as it is; return what is in the way where that cannot be done."""
        if self._mute:
            return ""
        self._written = self.heartbeat
        data = encode(self.heartbeat)
        try:
            replace_file(self.paths.heartbeat, data, fsync=False)
        except OSError:
            try:
                _overwrite(self.paths.heartbeat, data)
            except OSError as error:
                with contextlib.suppress(OSError):  # somebody cleaned up: the next one finds it again
                    self.paths.run_dir.mkdir(0o700)
                return f"{self.paths.heartbeat}: {error.strerror}"
        return ""

    def beat(self, at_once: bool = True) -> None:
        """Write down that the event loop turns."""
        now = time.monotonic()
        self._update(lambda _: {"loop_mono": now}, at_once=at_once)

    def loop_left(self) -> None:
        """Write down that the event loop need not turn."""
        self._update(lambda _: {"loop_mono": None}, at_once=self._written.loop_mono is not None)

    def poll_started(self, timeout_s: Optional[float]) -> None:
        now = time.monotonic()
        self._update(
            lambda before: {
                "polling_seen": True,
                "poll_start_mono": now,
                "poll_timeout_s": timeout_s,
                "poll_count": before.poll_count + 1,
            }
        )

    def poll_succeeded(self, updates: int) -> None:
        self.delivered(updates)
        self.update(poll_success_mono=time.monotonic(), poll_code=None, poll_webhook=False, flood_until_mono=None)

    def poll_failed(self, code: Optional[int], retry_after_s: Optional[float] = None, webhook: bool = False) -> None:
        """``code``: the HTTP status, None where no answer came. ``retry_after_s``: what Telegram wants with a 429.

        ``webhook``: it is a 409 because a webhook is active.
        """
        now = time.monotonic()
        until = None if retry_after_s is None else now + retry_after_s
        self.update(poll_failure_mono=now, poll_code=code, poll_webhook=webhook, flood_until_mono=until)

    def delivered(self, updates: int) -> None:
        """So many updates arrived, by a poll or by webhook."""
        if updates:
            now = time.monotonic()
            self._update(lambda before: {"update_mono": now, "update_count": before.update_count + updates})

    def handled(self, updates: int, latency_s: float) -> None:
        """The bot is done with so many updates, the last of them so long after its arrival."""
        self._update(lambda before: {"handled_count": before.handled_count + updates, "handler_latency_s": latency_s})

    def handler_failed(self) -> None:
        self._update(lambda before: {"handler_errors": before.handler_errors + 1})

    def sent(self) -> None:
        """The bot sent something, and Telegram took it."""
        now = time.monotonic()
        self._update(lambda before: {"sent_mono": now, "sent_count": before.sent_count + 1})

    def _foreign(self) -> bool:
        """Whether this is a child that the bot forked: it has no say here."""
        return os.getpid() != self.heartbeat.pid

    def _change(self, **changes: Any) -> None:
        if self._runs and self._runs[0].pid == self.heartbeat.pid:
            self._runs = (dataclasses.replace(self._runs[0], **changes), *self._runs[1:])
            self._write_runs()

    def _write_runs(self) -> None:
        try:
            replace_file(self.paths.runs, encode(self._runs), fsync=False)
        except OSError:
            with contextlib.suppress(OSError):
                _overwrite(self.paths.runs, self._fitting())

    def _fitting(self) -> bytes:
        """Return as many of the newest runs as the blocks of the file that is there have room for."""
        info = os.lstat(self.paths.runs)
        room, runs = max(info.st_size, info.st_blocks * 512), self._runs
        while runs and len(encode(runs)) > room:
            runs = runs[:-1]
        return encode(runs)

    def _may_write(self) -> bool:
        now = time.monotonic()
        self._credit = min(_BURST, self._credit + (now - self._credited_mono) * _WRITES_PER_S)
        self._credited_mono = now
        if self._credit < 1.0:
            return False
        self._credit -= 1.0
        return True


def _is_urgent(written: Heartbeat, new: Heartbeat) -> bool:
    """Whether who reads what is written would take a bot for worse, or better, than it is. Pure."""
    if (written.phase, written.poll_code) != (new.phase, new.poll_code):
        return True
    if written.oldest_update_mono is not None and new.oldest_update_mono is None:
        return True
    fed, limit_s = new.watchdog_mono, new.watchdog_s
    if fed is None or not limit_s:
        return False
    return written.watchdog_mono is None or abs(fed - written.watchdog_mono) > limit_s / 4


def _overwrite(path: Path, data: bytes) -> None:
    """Write into the file that is there: a full disk has no room for a second one, and a bot that polls is not deaf."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, data.ljust(os.fstat(descriptor).st_size), 0)  # one page: a reader sees all of it or none
    finally:
        os.close(descriptor)
