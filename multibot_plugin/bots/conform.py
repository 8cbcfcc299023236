"""The orders to supervisord: from what it runs to what is rendered. Only bots/apply.py calls this, under its lock."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from multibot_plugin.bots.leftovers import end_those, of_earlier_users
from multibot_plugin.bots.render import Section
from multibot_plugin.errors import MultibotError, Unreachable
from multibot_plugin.home import Home
from multibot_plugin.supervisor.client import STOPPED_STATES, Supervisor
from multibot_plugin.supervisor.faults import foreign, program
from multibot_plugin.supervisor.inside.words import Word

_POLL_S = 0.05
_STOP_MORE_S = 15.0
# The monitor takes a stop for somebody's wish once it has lasted (health/rules.py), at one of its next looks.
_WISH_WAITS_S = 10.0


@dataclass(frozen=True)
class Applied:
    """What was done, by bot. ``standing``: enabled, but somebody may have stopped it past multibot (left alone).

    ``rendered_again``: as supervisord had them all along, but the rendered file had lost them.
    ``failed``: what did not work, a line for each bot; the next apply takes it up again.
    """

    started: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    standing: tuple[str, ...] = ()
    rendered_again: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)


def differing(before: Mapping[str, Mapping[str, Any]], sections: Mapping[str, Section]) -> set[str]:
    """Return the bots that supervisord (rows of getBots by id) runs otherwise than ``sections`` say. Pure."""
    running = {bot: (row["digest"], row["enabled"]) for bot, row in before.items()}
    wanted = {bot: (section.digest, section.autostart) for bot, section in sections.items()}
    return {bot for bot in running.keys() | wanted.keys() if running.get(bot) != wanted.get(bot)}


def conform(
    home: Home, supervisor: Supervisor, answer: Mapping[str, Any], sections: Mapping[str, Section],
    left: Collection[str], written: Collection[str] = (), *, only: Collection[str] | None = None,
) -> Applied:  # fmt: skip
    """Let supervisord run what ``sections``, the rendered ones, say.

    ``answer``: that of getBots just now. ``left``: bots that somebody may have stopped in order to start them again.
    ``written``: bots whose sections were written anew, whatever of them it was. ``only``: touch no other bots.
    """
    before = {row["id"]: row for row in answer["bots"] if only is None or row["id"] in only}
    sections = {bot: section for bot, section in sections.items() if only is None or bot in only}
    failed: dict[str, str] = {}
    ask = _Asking(home, supervisor, before, sections, _held(answer, sections, left))
    names = (differing(before, sections) | {*left, *written, *ask.moved}) & (before.keys() | sections.keys())
    done = ask.update(names)
    turned = _turn(supervisor, before, sections, done, failed)
    done |= _replace(supervisor, ask, done, failed)
    failed |= {bot: foreign(bot) for bot, word in done.items() if word == Word.FOREIGN}
    anew = {bot for bot, word in done.items() if word in (Word.ADDED, Word.REPLACED)}
    due = {*left, *(bot for bot in turned if before[bot]["statename"] == "STOPPING")}
    rest = {bot: s for bot, s in sections.items() if bot in due or bot not in turned}
    begun = _start_standing(supervisor, answer, rest.keys() - anew - ask.held - failed.keys(), sections, due, failed)
    for bot in turned:  # told to end before everything else: what is left is to wait for the slow ones
        if not sections[bot].autostart:
            _attempt(failed, bot, supervisor.stop, program(bot), sections[bot].stop_wait_s + _STOP_MORE_S)
    ended = _stop_running(supervisor, answer, rest.keys() - anew, sections, failed)
    removed = sorted(bot for bot, word in done.items() if word == Word.REMOVED)
    applied = _outcome(before, sections, {*anew, *turned, *begun, *ended}, removed, failed)
    still = {bot for bot in rest if bot in before and rest[bot].autostart and before[bot]["statename"] == "STOPPED"}
    still |= {bot for bot, word in done.items() if word == Word.STANDING}
    return replace(applied, standing=tuple(sorted(still - anew - {*begun, *failed})))


class _Asking:
    """What supervisord is asked to take over, and what has to be so before that.

    ``held``: bots that are replaced without being started. ``moved``: of bots whose user changed, by what the processes
    of the earlier one are recognised. Their next runner neither sees nor may end those: they are gone before it starts.
    """

    def __init__(
        self, home: Home, supervisor: Supervisor, before: Mapping[str, Mapping[str, Any]],
        sections: Mapping[str, Section], held: frozenset[str],
    ) -> None:  # fmt: skip
        traces = {bot: of_earlier_users(home.bot(bot), section.digest) for bot, section in sections.items()}
        self.moved = {bot: found for bot, found in traces.items() if found}
        self.before, self.held = before, held
        self._supervisor, self._sections = supervisor, sections

    def update(self, bots: Collection[str]) -> dict[str, str]:
        """Do what Supervisor.update does; a bot of which an earlier user's run goes on has to end before that."""
        going_on = {bot: word for bot in self.moved.keys() & bots if (word := self._earlier(bot))}
        ready = set(bots) - going_on.keys()
        return {**going_on, **self._supervisor.update(ready, self.held & ready)}

    def _earlier(self, bot: str) -> Word | None:
        """Return what supervisord's process of an earlier user does; None: it has ended, and now all that it left."""
        row = self.before.get(bot)
        if row and row["digest"] != self._sections[bot].digest:
            info = self._supervisor.info(program(bot))
            if info["pid"]:
                return Word.STOPPING if info["statename"] == "STOPPING" else Word.RUNNING
        end_those(self.moved[bot])
        return None


def _outcome(
    before: Mapping[str, Mapping[str, Any]], sections: Mapping[str, Section], touched: Iterable[str],
    removed: Iterable[str], failed: Mapping[str, str],
) -> Applied:  # fmt: skip
    """Sort what was touched by what it did and does now."""
    ran = {bot for bot, row in before.items() if row["statename"] not in STOPPED_STATES}
    worked = sorted(bot for bot in touched if bot not in failed)
    return Applied(
        started=tuple(bot for bot in worked if sections[bot].autostart and bot not in ran),
        restarted=tuple(bot for bot in worked if sections[bot].autostart and bot in ran),
        stopped=tuple(bot for bot in worked if not sections[bot].autostart and bot in ran),
        removed=tuple(bot for bot in removed if bot not in failed),
        failed=failed,
    )


def _attempt(failed: dict[str, str], bot: str, order: Any, *arguments: Any) -> bool:
    """Carry out an order for one bot; what supervisord refuses is this bot's failure, not the others'."""
    try:
        order(*arguments)
    except Unreachable:
        raise
    except MultibotError as error:
        failed[bot] = str(error)
        return False
    return True


def _turn(
    supervisor: Supervisor, before: Mapping[str, Mapping[str, Any]], sections: Mapping[str, Section],
    done: Mapping[str, str], failed: dict[str, str],
) -> list[str]:  # fmt: skip
    """Start or stop the bots of which ``enabled`` is all that changed (in supervisord's memory it has just been)."""
    turned = []
    for bot, section in sections.items():
        same = done.get(bot) in (Word.LIVE_CHANGED, Word.UNCHANGED)
        if bot not in before or not same or before[bot]["enabled"] == section.autostart:
            continue
        order = supervisor.start if section.autostart else supervisor.stop
        waits = section.autostart and before[bot]["statename"] == "STOPPING"  # started when it has ended
        if waits or _attempt(failed, bot, order, program(bot), None):
            turned.append(bot)
    return turned


def _replace(
    supervisor: Supervisor, ask: _Asking, words: Mapping[str, str], failed: dict[str, str]
) -> dict[str, str]:  # fmt: skip
    """Stop bots that run at the same time and let supervisord replace (or remove) each as soon as it has ended.

    supervisord takes a bot out and in again in one go, so it is never missing. ``words``: what it said of each.
    """
    done: dict[str, str] = {}
    began = time.monotonic()
    left = {bot for bot, word in words.items() if word in (Word.RUNNING, Word.STOPPING)}
    while left:
        for bot in sorted(left):
            wait_s = ask.before[bot]["stop_wait_s"] + _STOP_MORE_S
            if time.monotonic() - began > wait_s:
                failed[bot] = f"bot {bot!r} is still {words[bot]} after {wait_s:g} s"
            elif words[bot] == Word.RUNNING:  # or again: something may have started it in between
                ask.held -= {bot}
                _attempt(failed, bot, supervisor.stop, program(bot), None)
        left -= failed.keys()
        try:
            words = ask.update(left)
        except Unreachable:
            raise
        except MultibotError as error:  # they have been told to stop: that it is them must not get lost
            why = str(error).partition(";")[0]  # not: "everything runs as before"
            failed |= dict.fromkeys(left, f"it was told to stop, then {why}; the monitor tries again")
            return done
        over = {bot: word for bot, word in words.items() if word not in (Word.RUNNING, Word.STOPPING)}
        done |= over
        left -= over.keys()
        if left:
            time.sleep(_POLL_S)
    return done


def _start_standing(
    supervisor: Supervisor, answer: Mapping[str, Any], bots: Iterable[str], sections: Mapping[str, Section],
    due: Collection[str], failed: dict[str, str],
) -> list[str]:  # fmt: skip
    """Start those of ``bots`` that should run and stand still; return which. ``due``: their stop was one of ours."""
    rows = {row["id"]: row for row in answer["bots"] if row["id"] in sections and sections[row["id"]].autostart}

    def stands(row: Mapping[str, Any]) -> bool:
        return row["statename"] in ("STOPPED", "FATAL") or (row["statename"] == "STOPPING" and row["id"] in due)

    standing = [bot for bot in bots if bot in rows and stands(rows[bot])]
    if not standing:
        return []
    wanted = {row["id"] for row in supervisor.bots()["bots"] if row["enabled"]}  # a 'bot stop' may have come between
    begun = []
    for bot in sorted(wanted.intersection(standing), key=lambda bot: (rows[bot]["statename"] == "STOPPING", bot)):
        start = partial(supervisor.start, stopping_s=sections[bot].stop_wait_s + _STOP_MORE_S)
        if _attempt(failed, bot, start, program(bot), None):
            begun.append(bot)
    return begun


def _stop_running(
    supervisor: Supervisor, answer: Mapping[str, Any], bots: Collection[str], sections: Mapping[str, Section],
    failed: dict[str, str],
) -> list[str]:  # fmt: skip
    """Stop those of ``bots`` that should not run and do; return which. A start of a moment ago may be a wish, too."""
    if not answer["monitor"]["ok"]:
        return []
    over = [
        row["id"]
        for row in answer["bots"]
        if row["id"] in bots and not row["enabled"] and not sections[row["id"]].autostart
        and row["statename"] in ("STARTING", "RUNNING", "BACKOFF")
        and abs(answer["at"] - row["start_at"]) > _WISH_WAITS_S
    ]  # fmt: skip
    wait_s = {bot: sections[bot].stop_wait_s + _STOP_MORE_S for bot in over}
    return [bot for bot in over if _attempt(failed, bot, supervisor.stop, program(bot), wait_s[bot])]


def _held(answer: Mapping[str, Any], sections: Mapping[str, Section], due: Collection[str]) -> frozenset[str]:
    """Return the bots that should run and stand still, or are about to: somebody may have wished it past multibot.

    The monitor is about to write such a wish down: it is left to the monitor. ``due``: their stop was one of ours.
    """
    if _is_settled(answer):
        return frozenset()
    return frozenset(
        row["id"]
        for row in answer["bots"]
        if row["id"] in sections.keys() - due and sections[row["id"]].autostart and row["enabled"]
        and (row["statename"] == "STOPPING" or (row["statename"] == "STOPPED" and row["stop_at"]))
    )  # fmt: skip


def _is_settled(answer: Mapping[str, Any]) -> bool:
    """Return whether the monitor has judged every stop: it looks, and none is too new."""
    if not answer["monitor"]["ok"]:
        return False
    rows = answer["bots"]
    # abs: after the clock was set back a stop lies in the future.
    ages = [abs(answer["at"] - (row["stop_at"] or 0.0)) for row in rows if row["statename"] == "STOPPED"]
    moving = any(row["statename"] == "STOPPING" for row in rows)
    return not moving and min(ages, default=answer["at"]) > _WISH_WAITS_S
