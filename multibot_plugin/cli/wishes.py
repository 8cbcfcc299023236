"""Whether bots shall run: stored in the database, or in the journal while that is away, and in what is rendered."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from multibot_plugin.cli.output import Context, say
from multibot_plugin.errors import MultibotError, NoSuchBot, Unwritable
from multibot_plugin.journal import AuditEntry, Journal, JournalError, Wish, new_id

if TYPE_CHECKING:
    from multibot_plugin.cli.bot_power import Act
    from multibot_plugin.supervisor.client import Supervisor


def wish(context: Context, bots: Sequence[str], enabled: bool) -> None:
    """Store whether ``bots`` shall run in the database; in the journal, which is brought there later, if it is away."""
    waited = wish_waits(context)
    try:
        missing = context.run(_store(context, bots, enabled))
    except MultibotError as error:
        say(f"{error}; the wish is kept in the journal until it answers")
        _append(context, *_wishes(context, bots, enabled))
        return
    outlast(context, bots, enabled, waited)
    if missing:
        say(f"{', '.join(missing)}: not in the database any more; '{context.home.command('apply')}' removes it")


def outlast(context: Context, bots: Sequence[str], enabled: bool, waited: bool) -> None:
    """Keep what is in the database already from being undone by an earlier wish of the journal.

    ``waited``: what ``wish_waits`` said before the database was changed (the earlier one may have arrived since).
    """
    if waited or wish_waits(context):
        _append(context, *_wishes(context, bots, enabled))  # behind it


def _wishes(context: Context, bots: Sequence[str], enabled: bool) -> list[Wish]:
    actor, now = context.actor, time.time()
    return [Wish(new_id(), now, actor.name, actor.door, bot, enabled) for bot in bots]


def wish_waits(context: Context) -> bool:
    """Return whether a wish in the journal is not in the database yet."""
    for path in context.home.journal.glob("*.jsonl"):
        with contextlib.suppress(FileNotFoundError):  # brought in just now
            if path.name != "rejected.jsonl" and b'"kind": "wish"' in path.read_bytes():
                return True
    return False


async def _store(context: Context, bots: Sequence[str], enabled: bool) -> list[str]:
    """Return the bots that the database does not know."""
    from multibot_plugin.bots.store import set_enabled

    missing = []
    async with context.database() as connection:
        for bot in bots:
            try:
                await set_enabled(connection, context.actor, bot, enabled)
            except NoSuchBot:
                missing.append(bot)
    return missing


def remember(context: Context, supervisor: Supervisor | None, bots: Sequence[str], enabled: bool) -> None:
    """Write the wish into the rendered file and supervisord's memory, so that it holds without the database.

    A file that cannot be written is no reason to leave a bot running that somebody wants to stop: then it is said, and
    the memory alone has it.
    """
    from multibot_plugin.bots.apply import set_autostart

    for bot in bots:
        try:
            set_autostart(context.home, supervisor, bot, enabled)
        except Unwritable as error:
            say(f"warning: {error}")
            if supervisor is not None:
                with contextlib.suppress(NoSuchBot):
                    supervisor.set_autostart(bot, enabled)


def record(context: Context, act: Act, bots: Sequence[str], now: bool) -> None:
    """Leave a record of who did this, for the audit log."""
    actor, at = context.actor, time.time()
    action = {"start": "bot.started", "stop": "bot.stopped", "restart": "bot.restarted"}[act]
    detail = {"now": True} if now else {}
    _append(context, *(AuditEntry(new_id(), at, actor.name, actor.door, bot, action, detail) for bot in bots))


def _append(context: Context, *entries: Wish | AuditEntry) -> None:
    try:
        Journal(context.home.journal).append(*entries)
    except JournalError as error:
        # A full disk is no reason to leave a bot running that somebody wants to stop.
        say(f"warning: {error}: this act is not recorded")
