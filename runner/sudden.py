"""Ends of a bot's own process after which nothing of ours runs: ``os._exit``, and ``os.exec*`` to begin itself anew.

Bots restart themselves by ``os.execv(sys.executable, [sys.executable, *sys.argv])``. What runs then would be the same
process without a runner: no log without tokens, no heartbeat, no word of how it ends. So it ends instead, and is
started anew as after a death: at once, unless it comes again and again. Any other program is executed as the bot wants.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any, Callable, List, NoReturn, Sequence

from multibot_runner import logs, outcome
from multibot_runner.launch import Launch
from multibot_runner.protocol import Exit
from multibot_runner.record import Recorder
from multibot_runner.target import words_of


def record(start: Launch, recorder: Recorder, before_end: Callable[[int], int]) -> None:
    """Have such an end written down; a forked child has no say. ``before_end`` returns the exit code it is given."""
    end, own = os._exit, os.getpid()

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

    def first(execute: Callable[..., NoReturn]) -> Callable[..., NoReturn]:
        @functools.wraps(execute)
        def instead(path: Any, argv: Any, *env: Any) -> NoReturn:
            if os.getpid() == own and all(e == os.environ for e in env) and _is_itself(path, argv, start):
                result = outcome.restarted()
                logs.say(result.text)
                leave(result)
            execute(path, argv, *env)

        return instead

    os._exit = _exit
    os.execv, os.execve = first(os.execv), first(os.execve)  # all others of ``os`` end in these


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
