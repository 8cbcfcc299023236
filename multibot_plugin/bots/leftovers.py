"""What a stopped bot left running: its runner was killed, or had no time for it. A second poller takes updates away."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from multibot_plugin.errors import Refused
from multibot_plugin.home import Home
from multibot_runner import family, lock
from multibot_runner.protocol import BOT_ID, BotPaths
from multibot_runner.readers import read_runs
from multibot_runner.sweep import Traces, end, members


def end_left(home: Home, bot: str, running: Callable[[], int] | None = None) -> int:
    """Kill the processes of a bot that is stopped, in whatever session or parent; return how many.

    ``running`` tells the pid that supervisord has for the bot now, 0 without one; None: the bot is to have no process
    at all. A runner that somebody starts meanwhile is left alone, it looks for leftovers itself, and so is the one that
    a person has in a terminal. Call it before the bot's settings are removed.
    """
    paths = home.bot(bot)
    return sum(end(lambda t=traces: _left(paths, t, running)) for traces in _traces(paths))  # type: ignore[misc]


def of_earlier_users(paths: BotPaths, digest: str) -> list[Traces]:
    """Return by what processes are recognised that a bot has as another user than its settings of ``digest`` give it.

    Settings of that time tell, which are there until an apply is through (files.sweep).
    """
    try:
        own = paths.settings(digest).lstat().st_uid
    except OSError:
        return []
    return _traces(paths, but=own)


def end_those(traces: Iterable[Traces]) -> int:
    """Kill every process that is recognised by one of ``traces``; return how many."""
    return sum(end(lambda t=one: members(t)) for one in traces)  # type: ignore[misc]


def check_terminal(paths: BotPaths, uid: int) -> None:
    """Raise Refused while a person has the bot in a terminal as another user than ``uid``, which it is to become.

    The lock of one user does not keep the other's process from polling.
    """
    with contextlib.suppress(OSError):
        if paths.lock.lstat().st_uid != uid and (pid := in_terminal(paths)):
            text = f"bot {paths.bot!r}: process {pid} runs it in a terminal as its user of before: end that first"
            raise Refused(text)


def in_terminal(paths: BotPaths) -> int:
    """Return the pid of the runner that a person has in a terminal ('bot run'), 0 without one."""
    try:
        descriptor = os.open(paths.lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0
    try:  # by the lock: a child that a bot forked has its name, too
        pid = lock.holder(descriptor)
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    return pid if pid and family.name_of(pid) == family.FOREGROUND else 0


def processes(home: Home, bot: str) -> set[int]:
    """Return every living process of a bot, its runner included."""
    return {pid for traces in _traces(home.bot(bot)) for pid in members(traces)}


def end_all_left(home: Home) -> int:
    """Kill what the bots of this installation left, when its supervisord has ended; return how many processes."""
    top = home.state / "bots"
    bots = sorted(path.name for path in top.iterdir()) if top.is_dir() else ()
    return sum(end_left(home, bot) for bot in bots if BOT_ID.fullmatch(bot))


def _left(paths: BotPaths, traces: Traces, running: Callable[[], int] | None) -> Iterable[int]:
    if running is None:
        return members(traces)
    before = running()
    found = members(traces, {before, in_terminal(paths)} - {0})
    return found if running() == before else ()


def _traces(paths: BotPaths, but: int | None = None) -> list[Traces]:
    """Return what to look for, for each user (``but`` for one) that the bot has settings for.

    The bot may have rewritten its settings, so whose they are counts: only root can change that.
    """
    settings, uids = _settings_of(paths.state_dir), set()
    for path in settings:
        with contextlib.suppress(OSError):
            uids.add(path.lstat().st_uid)
    uids.discard(but)
    digests = {path.stem for path in settings} | ({run.digest for run in read_runs(paths)} if uids else set())
    return [Traces(paths.bot, str(paths.run_dir), tuple(digests), uid) for uid in sorted(uids)]


def _settings_of(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.glob("*.json") if path.name != "live.json"]
    except OSError:
        return []
