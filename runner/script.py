"""The form ``script``: an unchanged Python program, run in this process as if it had been started directly."""

from __future__ import annotations

import builtins
import contextlib
import importlib.machinery
import io
import os
import runpy
import sys
import threading
import types
from typing import Callable, Optional

from multibot_runner import logs, outcome, sight
from multibot_runner.launch import Launch
from multibot_runner.outcome import Misconfigured
from multibot_runner.protocol import Exit
from multibot_runner.record import Recorder
from multibot_runner.sight.polls import PollWatch
from multibot_runner.target import words_of


def run(launch: Launch, recorder: Recorder) -> Exit:
    """Run ``launch.settings.target`` (target.py) to its end; raises Misconfigured."""
    settings = launch.settings
    os.environ[settings.token_var] = launch.token
    watch = sight.install(launch, recorder).watch
    return to_the_end(lambda: _execute(settings.target), recorder, watch)


def to_the_end(code: Callable[[], object], recorder: Recorder, watch: PollWatch) -> Exit:
    """Run a bot's ``code`` and wait for its threads; return how it ended, with what its calls say of that.

    Raises Misconfigured.
    """
    try:
        code()
        result = outcome.ended(0)
    except Misconfigured:
        raise
    except SystemExit as error:
        result = outcome.ended(_exit_code(error))
    except BaseException as error:
        result = _report(error)
    _end_threads()
    if recorder.stopping:
        return outcome.stopped(result.code, result.signal)
    if watch.rejected:
        return outcome.rejected(watch.rejected)
    return outcome.unreachable(result) if watch.unanswered else result


def _report(error: BaseException) -> Exit:
    """Print the traceback, without our own frames, and return the exit that Python would have made of it."""
    traceback = error.__traceback__
    own = os.path.dirname(os.path.abspath(__file__))
    while traceback is not None and _is_own(traceback.tb_frame.f_code.co_filename, own):
        traceback = traceback.tb_next
    # What is left is nothing when the bot's code was never reached (a syntax error): then the error speaks.
    try:
        sys.excepthook(type(error), error.with_traceback(traceback), traceback)
    except Exception:  # the bot's own hook
        sys.__excepthook__(type(error), error, traceback)
    if isinstance(error, KeyboardInterrupt):
        return outcome.killed(2)
    return outcome.crashed(error)


def _is_own(file: str, own: str) -> bool:
    return os.path.dirname(file) == own or file.startswith("<frozen ")


def _exit_code(error: SystemExit) -> int:
    """Return the exit code as Python makes it: None is 0, a text is printed and means 1."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    with contextlib.suppress(OSError, ValueError):
        print(error.code, file=sys.stderr)
    return 1


def _execute(target: str) -> None:
    """Do what ``python TARGET`` does, in a new module ``__main__``."""
    try:
        words = words_of(target)
    except ValueError as error:
        raise Misconfigured(f"script {target}: {error}") from None
    module = types.ModuleType("__main__")
    module.__dict__.update(__builtins__=builtins, __annotations__={})
    if words[0] == "-m":
        sys.argv, sys.modules["__main__"] = words[1:], module
        sys.path.insert(0, os.getcwd())
        runpy._run_module_as_main(words[1])  # type: ignore[attr-defined]
        return
    source = _read(words[0])
    sys.argv, sys.modules["__main__"] = words, module
    if source is None:
        sys.path.insert(0, words[0])
        runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]
        return
    sys.path.insert(0, os.path.dirname(os.path.realpath(words[0])))
    # Not runpy.run_path: it takes the module away again while threads of the script may still need it.
    loader = importlib.machinery.SourceFileLoader("__main__", words[0])
    module.__dict__.update(__file__=words[0], __cached__=None, __loader__=loader)
    exec(compile(source, words[0], "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - it is what this is for


def _read(script: str) -> Optional[bytes]:
    """Return a script's source; None for a directory or a zip file, in which Python looks for ``__main__``."""
    if os.path.isdir(script):
        return None
    try:
        with io.open_code(script) as file:
            source: bytes = file.read()
    except OSError as error:
        raise Misconfigured(f"script {script}: {error.strerror}") from None
    return None if source.startswith(b"PK\x03\x04") else source


def _end_threads() -> None:
    """Wait as Python does: the process lives as long as a thread that is no daemon.

    Python's own function does it, because it first tells the executors (which resolve host names, too) to end. It is
    called again when the interpreter ends, and then does nothing.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]
    except KeyboardInterrupt:
        logs.say("interrupted while threads of the bot still run")
