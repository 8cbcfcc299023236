"""The form ``command``: any program as this process's child, its output redacted on the way to the log."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import signal
import subprocess
import time
from typing import Any, Dict, Optional, Sequence

from multibot_runner import family, logs, notify, oom, outcome
from multibot_runner.launch import Launch
from multibot_runner.outcome import Misconfigured
from multibot_runner.protocol import Exit
from multibot_runner.record import Recorder

GRACE_S = 2.0  # what the program's own children get after it has ended
_CHUNK = 65536
_MEMORY_S = 5.0  # between two looks at the kernel's counters
_LAST_WORDS = 4096
# What Node prints after an error: its stack, the error's properties, brackets, its own version.
_AFTER_AN_ERROR = re.compile(r"at .+|\W*|Node\.js v[\d.]+|(errno|code|syscall|address|hostname|port): .*")


def run(launch: Launch, recorder: Recorder) -> Exit:
    """Run the program until it and everything it started have ended; raises Misconfigured."""
    family.adopt_orphans()
    wake, waker = os.pipe()
    for descriptor in (wake, waker):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    sayings = notify.Notify(launch.paths.run_dir / "notify", recorder, launch.settings.watchdog_s)
    child = _Child(launch, wake, sayings)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # only to wake the loop
    signal.signal(signal.SIGTERM, child.on_term)
    child.start()
    status = child.watch()
    signal.set_wakeup_fd(-1)
    sayings.close()
    return child.exit(status, recorder.stopping)


class _Child:
    def __init__(self, launch: Launch, wake: int, sayings: notify.Notify) -> None:
        self._settings = launch.settings
        self._sayings = sayings
        # Python writes into a pipe by the block, and what is in the block is lost when it is killed.
        self._environment: Dict[str, str] = {
            "PYTHONUNBUFFERED": "1", **sayings.environment, **os.environ, launch.settings.token_var: launch.token,
        }  # fmt: skip
        self._wake = wake
        self._pid = 0
        self._outputs: Dict[int, str] = {}  # the pipes that are open, and which stream each is
        self._deadline: Optional[float] = None  # of a stop
        self._forced = False
        self._status: Optional[int] = None
        self._terminal = launch.foreground and os.isatty(0)
        self._memory, self._memory_mono = oom.Watch(), time.monotonic()
        self._tail = b""

    def start(self) -> None:
        words = shlex.split(self._settings.target)
        runner = os.getpid()

        def prepare() -> None:
            os.setpgid(0, 0)
            if self._terminal:
                family.take_terminal()
            # SIGKILL: a program that outlived its runner would be a second poller, and it may ignore SIGTERM.
            family.die_with_parent(signal.SIGKILL)
            if os.getppid() != runner:
                os._exit(1)

        try:
            process = subprocess.Popen(
                words,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment,
                preexec_fn=prepare,  # this process has one thread: so early the recorder needs none to write
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise Misconfigured(f"command {words[0]}: {reason}") from None
        assert process.stdout is not None
        assert process.stderr is not None
        self._pid, self._process = process.pid, process
        self._outputs = {process.stdout.fileno(): "stdout", process.stderr.fileno(): "stderr"}
        for descriptor in self._outputs:
            os.set_blocking(descriptor, False)
        if self._deadline is not None:  # asked to stop while it was starting
            self._signal_group(signal.SIGTERM)

    def on_term(self, number: int, frame: Any) -> None:
        if self._deadline is None:
            self._deadline = time.monotonic() + self._settings.stop_wait_s
            if self._pid:
                self._signal_group(signal.SIGTERM)

    def watch(self) -> int:
        """Pass output on until the program and its descendants are gone; return the program's wait status."""
        while self._status is None:
            self._turn(self._deadline)
            if self._deadline is not None and time.monotonic() >= self._deadline and self._status is None:
                self._kill()
        self._end_descendants()
        self._drain()
        logs.release()  # what is held back, before anything is said of the end
        code = self._process.returncode = os.waitstatus_to_exitcode(self._status)  # it is reaped already
        return code

    def exit(self, code: int, stopping: bool) -> Exit:
        if stopping:
            text = f"stopped: killed {self._settings.stop_wait_s:g} s after SIGTERM" if self._forced else ""
            return outcome.stopped(code if code >= 0 else None, -code if code < 0 else None, text)
        if code < 0:
            return outcome.killed(-code, self._memory.verdict() if code == -signal.SIGKILL else "")
        lines = self._tail.decode("utf-8", "replace").split("\n")
        if len(self._tail) == _LAST_WORDS:  # the first may be the rest of a line, and of a token in it
            del lines[0]
        return outcome.ended(code, last_words(lines))

    def _turn(self, deadline: Optional[float]) -> None:
        """Wait for output, a signal or the deadline, and deal with what there is."""
        now = time.monotonic()
        if now - self._memory_mono >= _MEMORY_S:
            self._memory_mono = now
            self._memory.verdict()
        said, pause = self._sayings.watched(_MEMORY_S if deadline is None else max(0.0, deadline - now))
        ready, _, _ = select.select([self._wake, *self._outputs, *said], [], [], pause)
        self._sayings.read(ready)
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, _CHUNK)
        for descriptor in ready:
            if descriptor in self._outputs:
                self._read(descriptor)
        self._reap()

    def _read(self, descriptor: int) -> bool:
        """Pass one piece of output on; return False when there is no more now."""
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            del self._outputs[descriptor]
            return False
        self._tail = (self._tail + data)[-_LAST_WORDS:]
        with contextlib.suppress(OSError):  # supervisord is gone: its death ends us by a signal
            logs.write(self._outputs[descriptor], data)
        return True

    def _drain(self) -> None:
        for descriptor in list(self._outputs):
            while self._read(descriptor):
                pass

    def _reap(self) -> None:
        """Take note of everything that ended, adopted orphans too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                self._status = status

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, number)

    def _kill(self) -> None:
        if not self._forced:
            logs.say(f"still running {self._settings.stop_wait_s:g} s after SIGTERM: killing it")
        self._forced = True
        self._signal_group(signal.SIGKILL)
        family.signal_all(family.descendants(os.getpid()), signal.SIGKILL)
        self._deadline = time.monotonic() + 0.2  # once more: one may have been forked meanwhile

    def _end_descendants(self) -> None:
        """End what the program left behind: SIGTERM, and SIGKILL after a short grace or at the stop's deadline."""
        self._reap()
        left = family.descendants(os.getpid())
        family.signal_all(left, signal.SIGTERM)
        grace = time.monotonic() + GRACE_S
        until = grace if self._deadline is None else min(grace, self._deadline)
        while left:
            if time.monotonic() >= until:
                family.signal_all(left, signal.SIGKILL)
                until = time.monotonic() + 0.2
            self._turn(min(until, time.monotonic() + 0.2))
            left = family.descendants(os.getpid())


def last_words(lines: Sequence[str]) -> str:
    """Return the line among a program's last ones that says most likely why it ended; "" without any. Pure."""
    said = [line.strip() for line in lines]
    telling = [line for line in said if not _AFTER_AN_ERROR.fullmatch(line)] or [line for line in said if line]
    return telling[-1].removeprefix("[cause]: ") if telling else ""
