"""A bot and the open incidents as supervisorctl shows them."""

from __future__ import annotations

import re
import xmlrpc.client
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from supervisor.xmlrpc import Faults

from multibot_plugin.cli import fleet, listing
from multibot_plugin.cli.ends import ends
from multibot_plugin.cli.output import NOTHING, one_line
from multibot_plugin.cli.remedies import remedy
from multibot_plugin.cli.status import moment
from multibot_plugin.cli.tables import Column
from multibot_plugin.home import Home
from multibot_plugin.supervisor.inside.requests import MONITOR_AWAY
from multibot_runner.protocol import Run
from multibot_runner.readers import read_runs

_MARKS = {"critical": "✖", "warning": "▲"}
_SAME_S = 3.0  # the runner says why it ends, and leaves not before supervisord takes it for started
_LEFT_OUT = ("BOT", "STATE", "CAUSE", "DIGEST")  # the head has them; a digest tells people nothing


def describe(answer: Mapping[str, Any], home: Home | None, ctl: str = "") -> Iterator[str]:
    """Yield the lines about one bot out of the answer of getBot, and what to type (``home`` None: not known).

    ``ctl``: what stands before a command of supervisorctl ("" in its shell).
    """
    row = answer["bot"] if home is None else fleet.explained(home, answer["bot"])
    yield f"{fleet.symbol(row)} {row['id']} — {fleet.in_words(row['state'], '', one_line(row['cause'] or ''))}"
    for column in listing.COLUMNS:
        if column.title not in _LEFT_OUT and (cell := column.cell(row)) != NOTHING:
            yield f"   {column.title:<14} {one_line(cell)}"
    runs = read_runs(home.bot(row["id"])) if home is not None else ()
    yield from (f"   {name:<14} {one_line(text)}" for name, text in _past(row, answer["at"], runs))
    for incident in answer["incidents"]:
        yield f"   {_MARKS.get(incident['level'], '▲')} {_since(incident, answer['at'])}: {one_line(incident['text'])}"
    if not answer["monitor"]["ok"]:
        yield f"   {as_typed(answer['monitor']['text'], ctl)}"
    if home is not None:
        commands = remedy(row, str(row["cause"] or ""), lambda words: command(home, words, ctl)).commands
        yield from (f"   → {line}" for line in commands)


def _past(row: Mapping[str, Any], now: float, runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """Yield how it ended last, as supervisord saw it and the runner says, and how often nobody had asked for that."""
    end, deaths = row["end"], row["deaths"]
    if end:
        how = f"killed by {end['signal']}" if end["signal"] else f"exit {end['code']}"
        why = next((e.text for e in ends(runs, row, ()) if e.at and abs(e.at - end["at"]) < _SAME_S), "")
        yield "LAST END", f"{moment(end['at'], now)}, {how}{f': {why}' if why else ''}"
        yield "DEATHS", ", ".join(f"{deaths[window]} in {window}" for window in deaths)
    if row["spawn_error"] is not None and not row["pid"]:
        yield "SPAWN ERROR", str(row["spawn_error"])


def command(home: Home, words: str, ctl: str = "") -> str:
    """Return what is typed for a subcommand of multibot: supervisorctl's own name of it, where it has one."""
    match = re.fullmatch(r"(?:bot )?(logs|start|stop|restart) (\S+)", words)
    return f"{ctl}bot_{match[1]} {match[2]}" if match else home.command(words)


def as_typed(text: str, ctl: str = "") -> str:
    """Return why the monitor is away, with what helps as it is typed: behind ``ctl``, or in supervisorctl's shell."""
    return re.sub(r"(start|restart) the program (\S+)$", rf"type '{ctl}\1 \2'", text)


def in_words(fault: xmlrpc.client.Fault, ctl: str = "") -> str:
    """Return what a fault means to a person."""
    known = {
        Faults.UNKNOWN_METHOD: "this supervisord runs without multibot's plugin",
        Faults.SHUTDOWN_STATE: "supervisord is shutting down",
        Faults.BAD_NAME: "supervisord knows no such bot",
    }
    text = known.get(fault.faultCode) or fault.faultString.partition(": ")[2] or fault.faultString
    if fault.faultCode == MONITOR_AWAY:
        return as_typed(text, ctl)
    return text if fault.faultCode in known else f"supervisord: {text}"


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
