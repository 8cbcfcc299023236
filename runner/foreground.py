"""What a person does with a bot in a terminal: run it there, or run a command as the bot."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from typing import Callable, List, NoReturn, Sequence

from multibot_runner import family, launch, lock, logs, process
from multibot_runner.launch import Launch
from multibot_runner.outcome import Misconfigured
from multibot_runner.record import Recorder

_REFUSED = 6
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # as a shell has it


def run(how: str, bot: str, digest: str, words: Sequence[str], go: Callable[[Launch, Recorder, int], int]) -> int:
    """``--run`` it by ``go``, which gets the bot's lock, or ``--exec`` the command ``words``; return the exit code.

    Nothing of it is written down as a run of the bot.
    """
    try:
        paths = launch.paths_of(bot, digest)
        family.rename(family.WAITING)  # until it has the lock, or is another program
        start = launch.enter(paths, digest, time.monotonic(), os.getppid(), foreground=True)
        if how == "--exec":
            _execute(start, words)
        descriptor = _take_lock(start)
        recorder = Recorder(start.paths, start.start_mono, mute=True)
        recorder.read_runs()
        return go(start, recorder, descriptor)
    except Misconfigured as error:
        sys.stderr.write(f"multibot: {logs.clean(str(error))}\n")
        return _REFUSED
    except process.ParentGone:
        return 1


def _take_lock(start: Launch) -> int:
    """Return the descriptor of the bot's lock, held; raises Misconfigured where another process has it."""
    try:
        descriptor = lock.open_lock(start.paths.lock)
    except OSError as error:
        raise Misconfigured(f"{start.paths.lock}: {error.strerror}") from None
    if not lock.try_lock(descriptor):
        raise Misconfigured(
            f"{start.paths.bot} runs already, as process {lock.holder(descriptor)}: stop that one first"
        )
    return descriptor


def begin(command: bool) -> None:
    """Make this process one that a person stops with Ctrl-C, and that no runner takes for an orphan."""
    family.rename(family.FOREGROUND)
    if command:  # any program is stopped by what 'bot stop' sends; Python code gets its KeyboardInterrupt
        signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def _execute(start: Launch, words: Sequence[str]) -> NoReturn:
    """Become the command ``words`` in the bot's environment, with the exit code of a shell where it cannot be run."""
    settings = start.settings
    family.die_with_parent(0)  # it is the person's, not the bot's:
    os.environ.pop(family.MARK, None)  # no runner ends it as something that the bot left behind
    os.environ[settings.token_var] = start.token
    python = settings.python or (sys.executable if settings.launch != "command" else "")
    if python:
        folder = os.path.dirname(python)
        os.environ["PATH"] = os.pathsep.join([folder, *filter(None, [os.environ.get("PATH")])])
        if os.path.exists(os.path.join(os.path.dirname(folder), "pyvenv.cfg")):
            os.environ["VIRTUAL_ENV"] = os.path.dirname(folder)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    argv: List[str] = list(words)
    try:
        os.execvp(shutil.which(argv[0]) or argv[0], argv)  # noqa: S606
    except OSError as error:
        # Not found in PATH is "permission denied" where one of its folders is closed to the bot.
        found = os.path.exists(argv[0]) if os.sep in argv[0] else False
        sys.stderr.write(f"multibot: {argv[0]}: {error.strerror if found else 'command not found'}\n")
        sys.stderr.flush()
        os._exit(_NOT_EXECUTABLE if found else _NOT_FOUND)
