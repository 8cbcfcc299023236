"""Ends of a bot's own process after which nothing of ours runs: ``os._exit``, and ``os.exec*`` to begin itself anew.

Bots restart themselves by ``os.execv(sys.executable, [sys.executable, *sys.argv])``. What runs then would be the same
process without a runner: no log without tokens, no heartbeat, no word of how it ends. So it ends instead, and is
started anew as after a death: at once, unless it comes again and again. Any other program is executed as the bot wants.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any, Callable, Dict, List, NoReturn, Sequence

from multibot_runner import logs, outcome
from multibot_runner.launch import Launch
from multibot_runner.protocol import Exit
from multibot_runner.record import Recorder
from multibot_runner.target import words_of


def record(start: Launch, recorder: Recorder, before_end: Callable[[int], int]) -> None:
    """Have such an end written down; a forked child has no say. ``before_end`` returns the exit code it is given."""
    end, own = os._exit, os.getpid()
    execv, execve, begun = os.execv, os.execve, _environment(start)

    def leave(result: Exit) -> NoReturn:
        if recorder.stopping:
            result = outcome.stopped(result.code)
        result = outcome.under(start.settings.restart, result)
        recorder.finish(result)
        status = before_end(result.code or 0)
        logs.let_go()
        end(status)

    def _exit(status: int) -> NoReturn:
        if isinstance(status, int) and os.getpid() == own:
            leave(outcome.ended(status & 0xFF))
        logs.let_go()
        end(status)

    def restarts(path: Any, argv: Any) -> None:
        if os.getpid() != own or not _is_itself(path, argv, start):
            return
        if not recorder.heartbeat.polling_seen and _environment(start) != begun:
            return  # it set what only a new process heeds (LD_LIBRARY_PATH), and what a new runner would not have
        result = outcome.restarted()
        logs.say(result.text)
        leave(result)

    @functools.wraps(execv)
    def _execv(path: Any, argv: Any, /) -> NoReturn:
        restarts(path, argv)
        execv(path, argv)

    @functools.wraps(execve)
    def _execve(path: Any, argv: Any, env: Any) -> NoReturn:
        if env == os.environ:
            restarts(path, argv)
        execve(path, argv, env)

    os._exit = _exit
    os.execv, os.execve = _execv, _execve  # all others of ``os`` end in these
    if execve in os.supports_fd:
        os.supports_fd.add(_execve)


def _environment(start: Launch) -> Dict[str, str]:
    """Return the environment but for the token, which a script gets last."""
    return {name: value for name, value in os.environ.items() if name != start.settings.token_var}


def _is_itself(path: Any, argv: Sequence[Any], start: Launch) -> bool:
    """Whether the program ``path`` with ``argv`` is this interpreter, or its own first line, with the bot's target."""
    try:
        words: List[str] = [os.fsdecode(word) for word in argv[1:]]
        if not os.path.samefile(path, sys.executable):
            words.insert(0, os.fsdecode(path))
        target = start.settings.target
        own = words_of(target) if start.settings.launch == "script" else [target]
        if words in (own, sys.orig_argv[1:]):
            return True
        arguments = own[2:] if own[0] == "-m" else own[1:]
        files = (own[0], target.rpartition(":")[0], getattr(sys.modules["__main__"], "__file__", None) or "")
        return words[1:] == arguments and any(os.path.exists(f) and os.path.samefile(f, words[0]) for f in files)
    except (OSError, TypeError, ValueError, LookupError):  # whatever a stranger executes: the system's own words for it
        return False
