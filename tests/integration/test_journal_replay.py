"""The journal between processes, killed ones included, and its way into a real database."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from postgres import Database, Server
from watched import TOKEN, until

from multibot_plugin.bots import store
from multibot_plugin.bots.config import BotConfig
from multibot_plugin.errors import DatabaseAway
from multibot_plugin.health.replay import Replayer, replay
from multibot_plugin.journal import AuditEntry, Entry, Journal, JournalError, Wish, new_id

ADA = store.Actor("ada", "test")
WRITER = """
import sys
from multibot_plugin.journal import AuditEntry, Journal, new_id
journal, name = Journal(__import__("pathlib").Path(sys.argv[1]), segment=4096), sys.argv[2]
for number in range(int(sys.argv[3])):
    journal.append(*(AuditEntry(new_id(), 0.0, name, "test", None, action) for action in (str(number), "x")))
    print(number, flush=True)
"""


@contextlib.contextmanager
def writer(directory: Path, name: str, count: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-P", "-c", WRITER, str(directory), name, str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def drain(journal: Journal) -> list[AuditEntry]:
    found: list[AuditEntry] = []
    while (batch := journal.pending()) is not None:
        found.extend(e for e in batch.entries if isinstance(e, AuditEntry))
        journal.done(batch)
    return found


def test_entries_of_several_processes_and_a_replayer_at_work_are_all_there_once(tmp_path: Path) -> None:
    journal, found = Journal(tmp_path / "journal"), []
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(writer(tmp_path / "journal", name, 60)) for name in "abc"]
        while any(w.poll() is None for w in writers):
            found.extend(drain(journal))
        assert [w.returncode for w in writers] == [0, 0, 0]
    found.extend(drain(journal))
    for name in "abc":
        assert [e.action for e in found if e.actor == name and e.action != "x"] == [str(n) for n in range(60)]
    assert len({e.id for e in found}) == len(found) == 3 * 60 * 2


def test_a_writer_killed_at_any_moment_loses_nothing_that_it_was_told_is_written(tmp_path: Path) -> None:
    for round_ in range(6):
        with writer(tmp_path / "journal", f"killed{round_}", 10_000) as process:
            assert process.stdout is not None
            told = [int(process.stdout.readline()) for _ in range(4 + round_)][-1]
            process.send_signal(signal.SIGKILL)
            told = max([told, *(int(line) for line in process.stdout if line.endswith("\n"))])
        with writer(tmp_path / "journal", f"after{round_}", 2) as process:
            process.wait(60)
        found = drain(Journal(tmp_path / "journal"))
        numbers = [int(e.action) for e in found if e.actor == f"killed{round_}" and e.action != "x"]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) in (told + 1, told + 2)  # the last one may be written and not told
        assert len([e for e in found if e.actor == f"after{round_}"]) == 4


def entry(action: str = "act", **changes: Any) -> AuditEntry:
    usual: dict[str, Any] = {"id": new_id(), "at": 1_700_000_000.0, "actor": "ada", "door": "test", "bot": "greeter"}
    return AuditEntry(**{**usual, "action": action, **changes})


def wish(enabled: bool, at: float, door: str = "supervisorctl", bot: str = "greeter") -> Wish:
    return Wish(new_id(), at, "operator", door, bot, enabled)


@pytest.fixture
def journal(database: Database) -> Journal:
    return Journal(database.home.journal)


async def greeter(connection: asyncpg.Connection) -> float:
    """Store a bot and return a moment just after that."""
    config = BotConfig("greeter", True, "script", "/srv/bot.py", TOKEN)
    await store.insert_bot(connection, ADA, config)
    return float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())"))


async def actions(connection: asyncpg.Connection, door: str = "test") -> list[str]:
    rows = await connection.fetch("SELECT action FROM audit_log WHERE door = $1 ORDER BY at", door)
    return [row["action"] for row in rows]


async def enabled(connection: asyncpg.Connection) -> bool:
    return bool((await store.fetch_bot(connection, "greeter"))["enabled"])


async def test_entries_come_into_the_audit_log_once(database: Database, journal: Journal) -> None:
    connection = await database.connect()
    entries = [entry("one", detail={"text": "é ✖", "n": 1}), entry("two", bot=None)]
    journal.append(*entries)
    assert await replay(journal, connection) == 2
    assert await replay(journal, connection) == 0
    journal.append(*entries)  # as after a crash between the transaction and the removal of the file
    assert await replay(journal, connection) == 2
    rows = await store.read_audit(connection)
    assert sorted(r["action"] for r in rows) == ["one", "two"]
    one = next(r for r in rows if r["action"] == "one")
    assert (one["actor"], one["bot_id"], one["detail"]) == ("ada", "greeter", {"text": "é ✖", "n": 1})
    assert one["host"]


async def test_a_wish_changes_the_bot_and_leaves_its_trace_under_its_door(database: Database, journal: Journal) -> None:
    connection = await database.connect()
    now = await greeter(connection)
    stop = wish(False, now)
    journal.append(stop)
    await replay(journal, connection)
    assert not await enabled(connection)
    assert await actions(connection, "supervisorctl") == ["bot.stopped"]
    assert await actions(connection, "supervisorctl (from the journal)") == ["bot.disabled"]

    await store.set_enabled(connection, ADA, "greeter", True)
    journal.append(stop)  # replayed twice: it must not undo what came after
    await replay(journal, connection)
    assert await enabled(connection)


async def test_of_several_wishes_the_last_one_counts(database: Database, journal: Journal) -> None:
    connection = await database.connect()
    now = await greeter(connection)
    for number, on in enumerate([False, True, False, True, False]):
        journal.append(wish(on, now + number))
        if number == 2:
            await replay(journal, connection)
    await replay(journal, connection)
    assert not await enabled(connection)


@pytest.mark.parametrize("back_s", [0, 3600, 10 * 365 * 86400])
async def test_a_wish_holds_whatever_the_clock_says(database: Database, journal: Journal, back_s: float) -> None:
    connection = await database.connect()
    now = await greeter(connection)
    await store.set_enabled(connection, ADA, "greeter", False)
    await store.set_enabled(connection, ADA, "greeter", True)
    journal.append(wish(False, now - back_s))
    await replay(journal, connection)
    assert not await enabled(connection)
    (row,) = [r for r in await store.read_audit(connection) if r["door"] == "supervisorctl"]
    assert row["detail"] == {"enabled": False}


async def test_another_change_of_the_bot_does_not_overtake_a_wish(database: Database, journal: Journal) -> None:
    connection = await database.connect()
    now = await greeter(connection)
    journal.append(wish(False, now))
    await store.update_bot(connection, ADA, "greeter", {"settings": {"stop_wait_s": 5.0}})
    await replay(journal, connection)
    assert not await enabled(connection)


async def test_a_wish_for_a_bot_that_is_gone_holds_up_nothing(database: Database, journal: Journal) -> None:
    connection = await database.connect()
    journal.append(wish(False, 1.0, bot="gone"), entry("after"))
    await replay(journal, connection)
    assert await actions(connection) == ["after"]


@pytest.mark.parametrize(
    "bad",
    [entry(id="no uuid"), entry(at=float("1e30")), entry(actor="a\0b"), Wish("no uuid", 1.0, "a", "d", "greeter", True),
     Wish(new_id(), 1e30, "a", "d", "greeter", True)],
)  # fmt: skip
async def test_an_entry_that_the_database_cannot_take_is_set_aside_and_holds_up_nothing(
    database: Database, journal: Journal, bad: Entry
) -> None:
    connection = await database.connect()
    journal.append(entry("before"), bad, entry("after"))
    await replay(journal, connection)
    assert sorted(await actions(connection)) == ["after", "before"]
    assert bad.id in (database.home.journal / "rejected.jsonl").read_text()
    assert journal.pending() is None


async def test_an_unreadable_line_is_set_aside(database: Database, journal: Journal) -> None:
    connection = await database.connect()
    journal.append(entry("before"))
    with (database.home.journal / "active.jsonl").open("ab") as file:
        file.write(b'{"half')
    journal.append(entry("after"))
    await replay(journal, connection)
    assert sorted(await actions(connection)) == ["after", "before"]
    assert '{\\"half' in (database.home.journal / "rejected.jsonl").read_text()


async def test_the_replayer_outlives_the_database_and_brings_everything_once_it_is_back(
    database: Database, journal: Journal, postgres: Server
) -> None:
    replayer = Replayer(database.home, database.settings, journal)
    task = asyncio.create_task(replayer.run())
    try:
        await until(lambda: replayer.ok)
        journal.append(entry("there"))
        replayer.nudge()
        await until(lambda: journal.size() == 0)
        postgres.stop()
        await until(lambda: not replayer.ok)
        assert "does not answer" in replayer.text or "was lost" in replayer.text
        journal.append(entry("away"))
        postgres.start()
        await until(lambda: replayer.ok and journal.size() == 0, 60)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if postgres.process is None:
            postgres.start()
    assert await actions(await database.connect()) == ["there", "away"]


async def test_a_connection_lost_in_the_middle_leaves_the_batch(database: Database, journal: Journal) -> None:
    connection = await database.connect()
    journal.append(entry("later"))
    await connection.close()
    with pytest.raises(DatabaseAway):
        await replay(journal, connection)
    assert await replay(journal, await database.connect()) == 1


async def test_without_tables_the_journal_waits(database: Database, journal: Journal) -> None:
    connection = await database.connect()
    await connection.execute("ALTER TABLE audit_log RENAME TO elsewhere")
    journal.append(entry("kept"))
    replayer = Replayer(database.home, database.settings, journal)
    task = asyncio.create_task(replayer.run())
    try:
        await until(lambda: "no tables" in replayer.text)
        await connection.execute("ALTER TABLE elsewhere RENAME TO audit_log")
        await until(lambda: journal.size() == 0)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert await actions(connection) == ["kept"]


async def test_a_journal_that_cannot_be_read_does_not_end_the_replayer(
    database: Database, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def broken(self: Journal) -> None:
        tries.append(1)
        raise JournalError("the journal cannot be read: Input/output error")

    monkeypatch.setattr(Journal, "pending", broken)
    replayer = Replayer(database.home, database.settings, journal)
    task = asyncio.create_task(replayer.run())
    try:
        await until(lambda: len(tries) == 1)
        replayer.nudge()
        await until(lambda: len(tries) == 2)
        assert replayer.ok
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
