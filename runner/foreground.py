"""What a person does with a bot in a terminal: run it there, or run a command as the bot."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from typing import List, NoReturn, Sequence

from multibot_runner import family, lock
from multibot_runner.launch import Launch
from multibot_runner.outcome import Misconfigured

EXIT_REFUSED = 6
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # as a shell has it


def take_lock(start: Launch) -> int:
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


def execute(start: Launch, words: Sequence[str]) -> NoReturn:
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
