"""From the journal into the database: the monitor's connection, kept open, renewed when it is lost."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Sequence

import asyncpg

from multibot_plugin.bots import store
from multibot_plugin.database import pool
from multibot_plugin.database.queries import sql
from multibot_plugin.errors import BadValue, MultibotError, NoSuchBot
from multibot_plugin.home import Home
from multibot_plugin.journal import AuditEntry, Entry, Journal, JournalError
from multibot_plugin.settings import Settings

LOOK_EVERY_S = 2.0
LONGEST_PAUSE_S = 30.0
_REPLAYED = " (from the journal)"
_log = logging.getLogger("multibot.replay")


class Replayer:
    """Brings the journal into the database as long as it runs. ``ok`` and ``text`` say how the database is."""

    def __init__(self, home: Home, settings: Settings, journal: Journal) -> None:
        self._home = home
        self._settings = settings
        self._journal = journal
        self._news = asyncio.Event()
        self.ok = False
        self.text = "not connected yet"

    def nudge(self) -> None:
        """Say that the journal has something new (it is looked at every LOOK_EVERY_S anyway: others write too)."""
        self._news.set()

    async def run(self) -> None:
        """Run until cancelled."""
        pause_s = 1.0
        while True:
            try:
                connection = await pool.connect(self._home, self._settings)
                try:
                    self._say(True, "ok")
                    pause_s = 1.0
                    await self._serve(connection)
                finally:
                    connection.terminate()
            except MultibotError as error:
                self._say(False, str(error))
            except Exception as error:
                _log.exception("replaying the journal")
                self._say(False, f"{type(error).__name__}: see the monitor's log")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _serve(self, connection: asyncpg.Connection) -> None:
        while True:
            self._news.clear()
            try:
                await replay(self._journal, connection)
            except JournalError as error:
                _log.error("%s", error)
            with pool.translated(connection):
                await connection.execute("SELECT 1", timeout=10)
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._news.wait()
            except TimeoutError:
                pass

    def _say(self, ok: bool, text: str) -> None:
        if (ok, text) != (self.ok, self.text):
            _log.info("database: %s", text)
        self.ok, self.text = ok, text


async def replay(journal: Journal, connection: asyncpg.Connection) -> int:
    """Bring everything that waits into the database, a file at a time, each in one transaction; return how many.

    Raises DatabaseAway (the rest stays), MultibotError, JournalError.
    """
    count = 0
    while (batch := journal.pending()) is not None:
        for line in batch.unreadable:
            _log.error("a line of the journal cannot be read (a process died while writing it?): set aside")
            journal.reject(line, "not an entry")
        try:
            with pool.translated(connection):
                async with connection.transaction():
                    for entry in batch.entries:
                        await _bring(connection, entry)
        except BadValue:
            await _one_by_one(journal, connection, batch.entries)
        journal.done(batch)
        count += len(batch.entries)
    return count


async def _one_by_one(journal: Journal, connection: asyncpg.Connection, entries: Sequence[Entry]) -> None:
    """Bring in what can be: one entry that the database will never take must not hold up the rest for ever."""
    for entry in entries:
        try:
            with pool.translated(connection):
                async with connection.transaction():
                    await _bring(connection, entry)
        except BadValue as error:
            _log.error("the database cannot take a journal entry of %s: set aside: %s", entry.bot, error)
            journal.reject(entry, str(error))


async def _bring(connection: asyncpg.Connection, entry: Entry) -> None:
    if isinstance(entry, AuditEntry):
        await store.append_audit(connection, [entry])
        return
    try:
        number = uuid.UUID(entry.id)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise BadValue(f"an entry of the journal is not one: {error}") from error
    with pool.translated(connection):
        if await connection.fetchval(sql("has_wish"), number):
            return
    # The row that tells of the act itself, and that this wish was brought in; the change has its own, by the trigger.
    act = "bot.started" if entry.enabled else "bot.stopped"
    detail = {"enabled": entry.enabled}
    record = AuditEntry(entry.id, entry.at, entry.actor, entry.door, entry.bot, act, detail, entry.host)
    await store.append_audit(connection, [record])
    try:
        # It counts, whatever the clocks say: our own doors put what they do behind a wish that waits (see bot_power).
        actor = store.Actor(entry.actor, entry.door + _REPLAYED)
        await store.set_enabled(connection, actor, entry.bot, entry.enabled)
    except NoSuchBot:
        _log.warning("the bot %s of a wish from %s is not there any more", entry.bot, entry.door)
