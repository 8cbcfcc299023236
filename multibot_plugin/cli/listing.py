"""``multibot list``: one line per bot."""

from __future__ import annotations

from collections.abc import Sequence

import click

from multibot_plugin.cli import fleet
from multibot_plugin.cli.output import (
    NOTHING,
    Column,
    Context,
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


COLUMNS: Sequence[Column] = (
    Column("BOT", lambda row: row["id"]),
    Column("STATE", lambda row: row["state"]),
    Column("HEALTH", fleet.health_words),
    Column("UPTIME", lambda row: duration(row["uptime_s"]), right=True),
    Column("RESTARTS 24h", lambda row: _or_nothing(row["restarts_24h"]), right=True, shown="full"),
    Column("MEMORY", lambda row: size(row["memory_bytes"]), right=True),
    Column("CPU", lambda row: percent(row["cpu_percent"]), right=True, shown="full"),
    Column("LAST POLL", lambda row: duration(row["last_poll_age_s"]), right=True),
    Column("LAST UPDATE", lambda row: duration(row["last_update_age_s"]), right=True, shown="full"),
    Column("PID", lambda row: _or_nothing(row["pid"]), right=True, shown="wide"),
    Column("LAUNCH", lambda row: _or_nothing(row["launch"]), shown="wide"),
    Column("ENABLED", lambda row: "yes" if row["enabled"] else "no", shown="wide"),
    Column("CONNECTIONS", lambda row: _or_nothing(row["connections"]), right=True, shown="wide"),
    Column("DIGEST", lambda row: _or_nothing(row["digest"]), shown="wide"),
)
CAUSE = Column("CAUSE", lambda row: row["cause"] or "")


@click.command("list")
@click.argument("bots", nargs=-1, metavar="[BOT]...")
@output_option()
@pass_context
def list_bots(context: Context, bots: tuple[str, ...], form: str) -> int:
    """Show one line per bot: state, health and its cause, uptime, memory, last poll.

    BOT is an id or a pattern (shop-*). Ages and sizes are plain numbers in JSON: seconds and bytes. What is shown
    comes from supervisord and the monitor; without supervisord (exit 5) it is what would be started.
    """
    seen = fleet.look(context)
    rows = fleet.select(seen.rows, bots)
    # What is well needs no cause: "(no view)" says of a command bot that its polls cannot be seen.
    told = form == "wide" or any(row["cause"] and row["health"] != Health.HEALTHY for row in rows)
    columns = [*COLUMNS, CAUSE] if told else COLUMNS
    if rows or form not in ("table", "wide"):
        show_rows(form, "bots", rows, columns)
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
