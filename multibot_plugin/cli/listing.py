"""``multibot list``: one line per bot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from multibot_plugin.cli import fleet
from multibot_plugin.cli.output import (
    NOTHING,
    Column,
    Context,
    complete_bot,
    count,
    duration,
    output_option,
    pass_context,
    percent,
    say,
    show_rows,
    size,
)
from multibot_plugin.health.states import Health


def _or_nothing(value: object) -> str:
    return NOTHING if value is None or value == "" else str(value)


def _of_its_code(row: fleet.Row, key: str) -> Any:
    """Return a figure of the bot's process; none while that is the runner alone, which waits for the next start."""
    return None if row["state"] in ("backing-off", "quarantined") else row[key]


# Where a terminal is narrow the turns decide what is left out; who, how and why stay.
COLUMNS: Sequence[Column] = (
    Column("BOT", lambda row: row["id"]),
    Column("STATE", lambda row: row["state"]),
    Column("HEALTH", fleet.health_words),
    Column("UPTIME", lambda row: duration(_of_its_code(row, "uptime_s")), right=True, yields=11),
    Column("RESTARTS 24h", lambda row: _or_nothing(row["restarts_24h"]), right=True, shown="full", yields=6),
    Column("MEMORY", lambda row: size(_of_its_code(row, "memory_bytes")), right=True, shown="full", yields=4),
    Column("CPU", lambda row: percent(_of_its_code(row, "cpu_percent")), right=True, shown="full", yields=3),
    Column("LAST POLL", lambda row: duration(row["last_poll_age_s"]), right=True, yields=10),
    Column("LAST UPDATE", lambda row: duration(row["last_update_age_s"]), right=True, shown="full", yields=5),
    Column("PID", lambda row: _or_nothing(row["pid"]), right=True, shown="wide", yields=9),
    Column("LAUNCH", lambda row: _or_nothing(row["launch"]), shown="wide", yields=8),
    Column("ENABLED", lambda row: "yes" if row["enabled"] else "no", shown="wide", yields=7),
    Column("CONNECTIONS", lambda row: _or_nothing(row["connections"]), right=True, shown="wide", yields=2),
    Column("DIGEST", lambda row: _or_nothing(row["digest"]), shown="wide", yields=1),
)
EVERY_CAUSE = Column("CAUSE", lambda row: row["cause"] or "", least=24)
# What is well needs no cause: "(no view)" says of a command bot that its polls cannot be seen.
CAUSE = Column("CAUSE", lambda row: "" if row["health"] == Health.HEALTHY else row["cause"] or "", least=24)


def columns_for(rows: Sequence[fleet.Row], wide: bool = False) -> Sequence[Column]:
    """Return the columns for these bots: CAUSE where a bot that is not well has one (``wide``: where any has)."""
    cause = EVERY_CAUSE if wide else CAUSE
    return [*COLUMNS, cause] if any(map(cause.cell, rows)) else COLUMNS


@click.command("list")
@click.argument("bots", nargs=-1, metavar="[BOT]...", shell_complete=complete_bot)
@output_option()
@pass_context
def list_bots(context: Context, bots: tuple[str, ...], form: str) -> int:
    """Show one line per bot: state, health and its cause, uptime, memory, last poll.

    BOT is an id or a pattern (shop-*). Ages and sizes are plain numbers in JSON: seconds and bytes. What is shown
    comes from supervisord and the monitor; without supervisord (exit 5) it is what would be started. A terminal that
    is too narrow for all columns gets fewer; into a pipe go all.
    """
    seen = fleet.look(context)
    rows = fleet.select(seen.rows, bots)
    if rows or form not in ("table", "wide"):
        show_rows(form, "bots", rows, columns_for(rows, form == "wide"))
    if seen.away:
        say(f"multibot: {seen.away}")
        return seen.away.exit_code
    if not rows:
        say(f"no bots yet: {context.home.command('bot create ID --script FILE --token-file FILE')}")
    elif not seen.monitor.get("ok"):
        say(f"the monitor does not report, so the health of {count(len(rows), 'bot')} is not known: "
            f"{context.home.command('doctor')}")  # fmt: skip
    elif (database := seen.monitor.get("database")) and not database["ok"]:
        say(f"{database['text']}; the bots go on without it")
    return 0
