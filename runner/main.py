"""One start of a bot, from the command line to the exit code."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import math
import os
import sys
import time
from typing import Callable, Optional, Sequence

from multibot_runner import backoff, family, foreground, launch, lock, logs, outcome, process, stop, sudden, sweep
from multibot_runner.launch import Launch
from multibot_runner.outcome import Misconfigured
from multibot_runner.protocol import (
    CRASHED,
    EXIT_FINAL,
    EXIT_FINISHED,
    FINAL_NOT_BEFORE_S,
    KILLED,
    LOCKED_OUT,
    RUNNING,
    BotPaths,
    Exit,
    Run,
)
from multibot_runner.record import Recorder

_LOOK_S = 0.25  # between two looks at a lock that is not ours
_ANOTHER_BOOT_S = 60.0


def main(arguments: Sequence[str]) -> int:
    """Run a bot; return the exit code of this process (or end it by the signal that ended the bot).

    ``arguments``: id, digest, and after an exec into the bot's interpreter the descriptor of the hand-over. Before
    them ``--run`` (in the foreground, for a person) or ``--exec`` (a command of a person, which follows them).
    """
    start_mono = time.monotonic()
    stop.block()
    if len(arguments) >= 3 and arguments[0] in ("--run", "--exec"):
        return foreground.run(arguments[0], arguments[1], arguments[2], arguments[3:], _take_over)
    try:
        if len(arguments) == 3:
            taken = launch.take_over(int(arguments[2]))
            launch.install_logs(taken.settings, taken.token, taken.foreground)
            return _resume(taken)
        if len(arguments) != 2:
            raise Misconfigured("usage: python -P -m multibot_runner ID DIGEST")
        return _start(launch.paths_of(*arguments), arguments[1], start_mono)
    except Misconfigured as error:
        logs.say(f"cannot start: {error}")
        return _leave(EXIT_FINAL, start_mono)
    except process.ParentGone:
        logs.say("supervisord has died: not starting")
        return 1


def _start(paths: BotPaths, digest: str, start_mono: float) -> int:
    name = family.rename(family.WAITING)  # not to be taken for a process of the run that has the lock
    parent = os.getppid()
    if parent == 1 and _orphaned(paths):
        raise process.ParentGone
    try:
        start = launch.enter(paths, digest, start_mono, parent)
    except Misconfigured as error:
        return _refuse(paths, digest, start_mono, str(error))
    return _hold(start, name)


def _orphaned(paths: BotPaths) -> bool:
    """Whether supervisord died before this process could ask: its pid file names another than our new parent."""
    with contextlib.suppress(OSError, ValueError):
        return int((paths.run / "supervisord.pid").read_text()) != 1
    return False


def _refuse(paths: BotPaths, digest: str, start_mono: float, text: str) -> int:
    """Say and write down why this bot cannot be started, as the user who owns its runtime directory."""
    logs.say(f"cannot start: {text}")
    with contextlib.suppress(OSError):
        if paths.state_dir.is_dir() and not paths.run_dir.exists():
            process.make_directory(paths.run_dir, None)
        owner = os.stat(paths.run_dir, follow_symlinks=False)
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.setgroups([])
            os.setresgid(owner.st_gid, owner.st_gid, owner.st_gid)
            os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
        recorder = Recorder(paths, start_mono)
        recorder.read_runs()
        recorder.begin(digest)
        recorder.finish(outcome.misconfigured(text))
    return _leave(EXIT_FINAL, start_mono)


def _hold(start: Launch, name: bytes) -> int:
    """Take the bot's lock, write down the start, wait out the backoff, and run under ``name``."""
    recorder = Recorder(start.paths, start.start_mono, LOCKED_OUT)
    try:
        descriptor = _take_lock(start, recorder)
    except OSError as error:  # the directory is the bot's: it may have put anything there
        recorder.read_runs()
        recorder.begin(start.digest)
        text = f"{start.paths.lock} cannot be used as its lock file ({error.strerror}): remove it"
        return _end(start, recorder, outcome.misconfigured(text))
    if descriptor is None:
        return 0
    family.rename(name)
    earlier = recorder.read_runs()
    _sweep(start, recorder)
    if start.settings.restart == "never" and earlier and _was_killed(earlier[0]):
        recorder.bury(outcome.under("never", Exit(time.time(), CRASHED, KILLED)))
        logs.say(recorder.last_word)
        return _leave(EXIT_FINAL, start.start_mono)
    if recorder.spoilt:
        logs.say(f"{start.paths.runs} cannot be read: taken for two deaths")
        earlier = (Run(time.time(), start.start_mono, 0, start.digest),) * 2
    recorder.begin(start.digest)
    pause = backoff.before_start(earlier, start.settings, time.time(), os.urandom(1)[0] / 255)
    if math.isinf(pause.wait_s):
        return _end(start, recorder, outcome.gave_up(pause.text))
    if _waits(recorder, pause):
        recorder.stop()
        recorder.finish(outcome.stopped(0, text="stopped before it was started"))
        return 0
    return _go(start, recorder, descriptor)


def _was_killed(run: Run) -> bool:
    """Whether a run died without a word, and not with the machine: that is nothing of the bot's."""
    moved_s = (time.time() - time.monotonic()) - (run.started_at - run.start_mono)
    return run.exit is None and run.died and abs(moved_s) < _ANOTHER_BOOT_S


def _waits(recorder: Recorder, pause: backoff.Pause) -> bool:
    """Wait as long as ``pause`` says; return True as soon as this process is asked to stop."""
    if not pause.wait_s:
        return stop.wait(0)
    logs.say(f"{pause.text}: {pause.phase} for {pause.wait_s:.{0 if pause.wait_s > 9 else 1}f} s")
    began = time.monotonic()
    recorder.waits(pause.wait_s)  # should it be killed meanwhile, that was no work either
    recorder.update(phase=pause.phase, until_mono=began + pause.wait_s, status=pause.text)
    stopped = stop.wait(pause.wait_s)
    recorder.waits(time.monotonic() - began)
    return stopped


def _take_over(start: Launch, recorder: Recorder, descriptor: int) -> int:
    """Run a bot, whose lock this process has, for a person."""
    _sweep(start, recorder)
    return _go(start, recorder, descriptor)


def _go(start: Launch, recorder: Recorder, descriptor: int) -> int:
    """Run the bot, in its own interpreter where it has one."""
    if start.settings.python and start.settings.launch != "command":
        return _exec(start, recorder, descriptor)
    return _run(start, recorder)


def _sweep(start: Launch, recorder: Recorder) -> None:
    """End what an earlier run left behind; this process has the bot's lock."""
    traces = _traces(start, recorder)
    count = sweep.end(lambda: sweep.members(traces))
    if count:
        logs.say(f"killed {count} process(es) that the last run left behind")


def _traces(start: Launch, recorder: Recorder) -> sweep.Traces:
    """Return by what a process of this bot is recognised."""
    digests = (start.digest, *recorder.digests)
    return sweep.Traces(start.paths.bot, str(start.paths.run_dir), digests, os.getuid())


def _take_lock(start: Launch, recorder: Recorder) -> Optional[int]:
    """Return the descriptor of the lock, held; None when asked to stop while waiting."""
    descriptor = lock.open_lock(start.paths.lock)
    waiting = lock.Waiting(descriptor, start.settings.stop_wait_s + lock.PATIENCE_S, logs.say)
    for look in itertools.count():
        if waiting.look(time.monotonic()):
            break
        if look % 8 == 0:
            recorder.update(phase=LOCKED_OUT)
        if stop.wait(_LOOK_S):
            return None
    return descriptor


def _exec(start: Launch, recorder: Recorder, descriptor: int) -> int:
    """Go on in the bot's own interpreter, with this folder as the only thing of ours that it can import."""
    handed = launch.hand_over(start, descriptor)
    python = start.settings.python
    folder = os.path.dirname(os.path.abspath(__file__))
    logs.release()
    try:
        os.execv(python, [python, folder, start.settings.bot, start.digest, str(handed)])  # noqa: S606
    except OSError as error:
        return _end(start, recorder, outcome.misconfigured(f"interpreter {python}: {error.strerror}"))


def _resume(start: Launch) -> int:
    recorder = Recorder(start.paths, start.start_mono, mute=start.foreground)
    recorder.read_runs()
    if sys.version_info < (3, 10):
        version = ".".join(map(str, sys.version_info[:2]))
        text = f"interpreter {start.settings.python} is Python {version}: a bot needs 3.10 or later"
        return _end(start, recorder, outcome.misconfigured(text))
    with contextlib.suppress(ImportError, OSError):  # an exec makes the memory readable again
        if start.dropped:
            family.hide_memory()
    return _run(start, recorder)


def _run(start: Launch, recorder: Recorder) -> int:
    """Run the bot in its form; nothing of it is imported before this."""
    command = start.settings.launch == "command"
    if start.foreground:
        foreground.begin(command)
    last = sweep.LastAct(_traces(start, recorder))
    atexit.register(last)  # called last: Python waits for the bot's own children (multiprocessing) before it
    # A command's stop is enforced by its own loop; the timer is for a loop that hangs itself.
    stop.Stopper(recorder, start.settings.stop_wait_s + (1.0 if command else 0.0), last).install()
    recorder.update(phase=RUNNING, start_mono=time.monotonic(), until_mono=None, status="")
    if not command and not start.foreground:
        sudden.record(start, recorder, lambda code: _leave(code, start.start_mono))
    try:
        result = _form(start.settings.launch)(start, recorder)
    except Misconfigured as error:
        result = outcome.misconfigured(str(error))
    if recorder.stopping:  # no time to wait for them
        last()
    return _end(start, recorder, result)


def _form(name: str) -> Callable[[Launch, Recorder], Exit]:
    if name == "command":
        from multibot_runner import command

        return command.run
    if name == "build":
        from multibot_runner import build

        return build.run
    from multibot_runner import script

    return script.run


def _end(start: Launch, recorder: Recorder, result: Exit) -> int:
    """Write down how it ended, and end this process the same way, or as the setting ``restart`` wants it."""
    if not start.foreground:
        result = outcome.under(start.settings.restart, result)
    recorder.finish(result)
    if result.cause != "stopped":
        logs.say(result.text)
    if result.signal is not None:
        atexit._run_exitfuncs()  # as Python does before it dies of an interrupt
        logs.release()
        stop.die_by(result.signal)
    return _leave(result.code or 0, start.start_mono)


def _leave(code: int, start_mono: float) -> int:
    """Return ``code``; a final one not before supervisord takes the process for started."""
    if code in (EXIT_FINAL, EXIT_FINISHED):
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(max(0.0, start_mono + FINAL_NOT_BEFORE_S - time.monotonic()))
    return code
