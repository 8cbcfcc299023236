"""The parts of what runs inside supervisord: their switches, and how they are put into it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from supervisor.datatypes import boolean
from supervisor.http import deferring_http_channel

from multibot_plugin.supervisor.inside.care import Care
from multibot_plugin.supervisor.inside.ends import Ends
from multibot_plugin.supervisor.inside.patches import Patches
from multibot_plugin.supervisor.inside.stops import install_stops
from multibot_plugin.supervisor.inside.turns import Turns, quick_forks
from multibot_plugin.supervisor.inside.updates import Updates

_ANSWER_PIECE = 262144  # supervisor's own: 4096; more than a unix socket takes at once (208 KB)


def _part(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Parts:
    """What is switched on, by the option of the same name; ``listener_patience_s``: seconds, 0: never."""

    instant_restart: bool = _part(
        True,
        "a program that ended is started again at once (stock: after 1 to 2 s), and "
        "what falls due is done when it does",
    )
    quick_fork: bool = _part(
        True,
        "a new process does not close `minfds` descriptors one by one that close by themselves (27 ms each time at "
        "20000), and a stop right after a start is not lost",
    )
    parallel_stop: bool = _part(
        True,
        "at shutdown, reload and `stop all` everything of one priority stops at the same "
        "time, the highest number first (stock: one after the other; `stop all`: no order)",
    )
    large_answers: bool = _part(
        True,
        "long answers (`status` of many programs) leave in pieces of 200 KB, not 4, with a "
        "walk over all programs between two",
    )
    targeted_update: bool = _part(True, "`multibot apply` reads the bots that changed, not the whole configuration")
    listener_patience_s: float = _part(
        30.0, "a monitor that has not answered supervisord for so long is killed, and started again; 0: never"
    )

    @classmethod
    def of(cls, options: Mapping[str, str]) -> tuple[Parts, list[str]]:
        """Return what the options of the section say, and what of them means nothing: there the default holds."""
        kinds = {field.name: _patience if field.name == "listener_patience_s" else boolean for field in fields(cls)}
        values: dict[str, Any] = {}
        problems = []
        for name, text in options.items():
            if name not in kinds:
                problems.append(f"has no option {name!r}, but {', '.join(kinds)}")
                continue
            try:
                values[name] = kinds[name](text)
            except ValueError:
                problems.append(f"{name}={text}: not {_MEANT[kinds[name]]}")
        return cls(**values), problems


def _patience(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 86_400:
        raise ValueError
    return seconds


_MEANT = {_patience: "a number of seconds up to 86400 (0: never)", boolean: "true or false"}


@dataclass(frozen=True)
class Inside:
    """What the XML-RPC methods use of all this. ``prompt``: an answer that is made piece by piece comes promptly."""

    ends: Ends
    updates: Updates
    prompt: bool


def install(supervisord: Any, parts: Parts, sections: str) -> Inside:
    """Add all this to this supervisord. After ``reload`` supervisord is a new object and this is called again.

    ``sections``: the file with the bots' sections. A part that cannot be added is logged and left out.
    """
    contain = contained(supervisord.options.logger)
    patches = Patches(supervisord, contain)
    ends, turns = Ends(supervisord, contain), list[Turns]()
    for wanted, add in (
        (parts.large_answers, lambda: patches.put(deferring_http_channel, "ac_out_buffer_size", _ANSWER_PIECE)),
        (parts.quick_fork, lambda: quick_forks(supervisord.options)),
        (parts.instant_restart, lambda: turns.append(Turns(supervisord, contain, patches))),
        (parts.parallel_stop, lambda: install_stops(supervisord, contain, patches)),
        (parts.listener_patience_s, lambda: Care(supervisord, contain, parts.listener_patience_s)),
    ):
        if wanted:
            contain(add)()
    soon = turns[0].soon if turns else (lambda: None)
    return Inside(ends, Updates(supervisord, sections, soon, whole=not parts.targeted_update), bool(turns))


Contain = Callable[[Callable[..., Any]], Callable[..., None]]


def contained(logger: Any) -> Contain:
    """Return a decorator that lets no exception out of a function: it is logged, by its type and place alone."""

    def contain(function: Callable[..., Any]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            try:
                function(*arguments)
            except Exception:
                kind, _, trace = sys.exc_info()
                while trace and trace.tb_next:
                    trace = trace.tb_next
                place = f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace else "?"
                logger.warn(f"multibot: {kind.__name__ if kind else 'failure'} at {place}")

        return call

    return contain
