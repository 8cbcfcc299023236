"""What a stopped bot left running: its runner was killed, or had no time for it. A second poller takes updates away."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

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


def _traces(paths: BotPaths) -> list[Traces]:
    """Return what to look for, for each user that the bot has settings for.

    The bot may have rewritten its settings, so whose they are counts: only root can change that.
    """
    digests, uids = {run.digest for run in read_runs(paths)}, set()
    for path in _settings_of(paths.state_dir):
        digests.add(path.stem)
        with contextlib.suppress(OSError):
            uids.add(path.lstat().st_uid)
    return [Traces(paths.bot, str(paths.run_dir), tuple(digests), uid) for uid in sorted(uids)]


def _settings_of(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.glob("*.json") if path.name != "live.json"]
    except OSError:
        return []
