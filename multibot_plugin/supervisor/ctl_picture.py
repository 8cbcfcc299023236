"""A bot and the open incidents as supervisorctl shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from multibot_plugin.cli import fleet, listing
from multibot_plugin.cli.output import NOTHING, one_line
from multibot_plugin.cli.remedies import remedy
from multibot_plugin.cli.status import moment
from multibot_plugin.cli.tables import Column
from multibot_plugin.home import Home

_MARKS = {"critical": "✖", "warning": "▲"}
_IN_THE_HEAD = ("BOT", "STATE", "CAUSE")


def describe(answer: Mapping[str, Any], home: Home | None) -> Iterator[str]:
    """Yield the lines about one bot out of the answer of getBot, and what to type (``home`` None: not known)."""
    row = answer["bot"] if home is None else fleet.explained(home, answer["bot"])
    cause = f": {one_line(row['cause'])}" if row["cause"] else ""
    yield f"{fleet.symbol(row)} {row['id']} — {row['state']}{cause}"
    for column in listing.COLUMNS:
        if column.title not in _IN_THE_HEAD and (cell := column.cell(row)) != NOTHING:
            yield f"   {column.title:<14} {one_line(cell)}"
    for name, key in (("EXIT CODE", "exit_code"), ("SPAWN ERROR", "spawn_error")):
        if row[key] is not None and not row["pid"]:
            yield f"   {name:<14} {one_line(str(row[key]))}"
    for incident in answer["incidents"]:
        yield f"   {_MARKS.get(incident['level'], '▲')} {_since(incident, answer['at'])}: {one_line(incident['text'])}"
    if not answer["monitor"]["ok"]:
        yield f"   {as_typed(answer['monitor']['text'])}"
    if home is not None:
        commands = remedy(row, str(row["cause"] or ""), lambda words: command(home, words)).commands
        yield from (f"   → {line}" for line in commands)


def command(home: Home, words: str) -> str:
    """Return what is typed for a subcommand of multibot: supervisorctl's own name of it, where it has one."""
    match = re.fullmatch(r"(?:bot )?(logs|start|stop|restart) (\S+)", words)
    return f"bot_{match[1]} {match[2]}" if match else home.command(words)


def as_typed(text: str) -> str:
    """Return why the monitor is away, with what helps as it is typed in supervisorctl."""
    return re.sub(r"(start|restart) the program (\S+)$", r"type '\1 \2'", text)


def incident_columns(now: float) -> Sequence[Column]:
    """Return the columns of a table of incidents; ``now``: when they were asked for."""
    return (
        Column("", lambda i: _MARKS.get(i["level"], "▲")),
        Column("BOT", lambda i: i["bot"] or "(monitor)"),
        Column("SINCE", lambda i: _since(i, now)),
        Column("CHECK", lambda i: i["check"], yields=1),
        Column("TOLD", lambda i: ", ".join(i["told"]) or "log only", yields=2),
        Column("WHAT", lambda i: i["text"], least=24),
    )


def _since(incident: Mapping[str, Any], now: float) -> str:
    return moment(incident["since_at"], now) if incident["since_at"] else NOTHING
