"""``multibot status``: what is wrong, if anything, and what to type next."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import click

from multibot_plugin.bots.unfinished import under_way
from multibot_plugin.cli import fleet
from multibot_plugin.cli.alerting import unsent, where_alerts_go
from multibot_plugin.cli.fleet import Fleet, Row
from multibot_plugin.cli.output import (
    Context,
    clean,
    complete_bot,
    count,
    fold,
    mark,
    output_option,
    pass_context,
    say,
    show,
    show_json,
    show_rows,
    spoken,
)
from multibot_plugin.cli.remedies import remedy
from multibot_plugin.errors import MultibotError, NoSuchBot
from multibot_plugin.home import Home
from multibot_plugin.settings import Settings
from multibot_plugin.supervisor.client import STOPPED_STATES

UNWELL = 3
_DATABASE_WAIT_S = 3.0
_WORST_FIRST = "✖▲…○●"
_NAMED = 3  # so many bots that differ from the database have a line each


@dataclass(frozen=True)
class Database:
    """What the database says, if it answers: else ``problem`` says why not.

    ``bots``: how many it holds; ``pending``: those whose configuration is not applied yet, ``problems``: why it cannot
    be; ``stoppers``: who stopped a bot, and how.
    """

    kind: str
    version: str = ""
    problem: str = ""
    pending: tuple[str, ...] = ()
    stoppers: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    bots: int = 0


@click.command()
@click.argument("bots", nargs=-1, metavar="[BOT]...", shell_complete=complete_bot)
@output_option(forms=("table", "json", "name"))
@pass_context
def status(context: Context, bots: tuple[str, ...], form: str) -> int:
    """Show what is wrong or stopped, why, and what to type; with BOT (an id or a pattern) these bots in any case.

    Exit code 3: something is wrong or stopped; 5: supervisord runs without multibot's plugin, so nothing is known.
    It works without the database, the monitor or supervisord, and says that they are away. '-o name' prints the ids
    of the bots in question.
    """
    seen = fleet.look(context)
    database = context.run(ask_database(context, seen))
    ours = dict.fromkeys(under_way(context.home), " (multibot has not finished its restart)")
    database = replace(database, stoppers={**database.stoppers, **ours})
    try:
        chosen = fleet.select(seen.rows, bots)
    except NoSuchBot:
        if not set(bots) <= {*database.pending, *(row["id"] for row in seen.rows)}:
            raise
        chosen = [row for row in seen.rows if row["id"] in bots]
    alerts = _of_these(fleet.read_status(context.home), seen.rows)
    named = chosen if bots else [row for row in chosen if _is_worth_a_line(row, seen)]
    pending = tuple(bot for bot in database.pending if not bots or bot in bots)
    well = all(map(fleet.is_well, chosen)) and not seen.away
    around = _reports(seen) and not (database.problem or pending or own_troubles(alerts) or unsent(alerts))
    well = well and bool(bots or around)
    if form == "json":
        show_json(_as_json(context, seen, database, alerts, chosen, well))
    elif form == "name":
        show_rows("name", "bots", [row for row in named if bots or not fleet.is_well(row)], [])
    else:
        for line in [*header(context.home, context.settings, seen, database, alerts), *_lost(context, seen, database)]:
            show(fold(line, 2))
        told = [i for i in alerts.get("incidents", ()) if i.get("bot") and (not bots or i["bot"] in bots)]
        for line in lines(context.home, named, pending, database, seen.at, told):
            show(line)
    if seen.away and form != "table":
        say(f"multibot: {seen.away}")
    return 0 if well else UNWELL


def _of_these(alerts: Mapping[str, Any], rows: Sequence[Row]) -> Mapping[str, Any]:
    """Return the monitor's picture without the incidents of bots that were deleted since."""
    bots = {"", *(row["id"] for row in rows)}
    return {**alerts, "incidents": [i for i in alerts.get("incidents", ()) if i.get("bot", "") in bots]}


async def ask_database(context: Context, seen: Fleet) -> Database:
    """Return what the database adds to the picture, or why it is away; never raises for that."""
    from multibot_plugin.bots.apply import load
    from multibot_plugin.bots.store import fetch_bots, read_audit

    kind = "database_url" if context.settings["database_url"] else "embedded"
    try:
        async with asyncio.timeout(_DATABASE_WAIT_S * 2), context.database(_DATABASE_WAIT_S) as connection:
            version = connection.get_settings().server_version.partition(" ")[0]
            plan = load(context.home, context.settings, await fetch_bots(connection), taken=seen.foreign)
            stopped = [row["id"] for row in seen.rows if row["state"] == "stopped" and row["statename"]]
            stoppers = {}
            for bot in stopped[:20]:
                stoppers[bot] = fleet.stopper(await read_audit(connection, bot, 20))
    except (MultibotError, TimeoutError) as error:
        return Database(kind, problem=str(error) or "it does not answer")
    changed = {change.bot for change in plan.changed}
    pending = tuple(sorted(changed | set(plan.added) | set(plan.removed) | set(plan.problems)))
    bots = len(plan.deployments) + len(plan.problems)
    return Database(kind, version, "", pending, stoppers, plan.problems, bots)


def header(home: Home, settings: Settings, seen: Fleet, database: Database, alerts: Mapping[str, Any]) -> list[str]:
    """Return the two lines (and one for each part that is away) about the installation itself."""
    kind = "root" if os.geteuid() == 0 else "user"
    parts = [f"multibot on {socket.gethostname()} ({kind} install)"]
    if seen.away:
        parts.append("supervisord is not running")
    else:
        parts.append(f"supervisord {seen.supervisord['version']} pid {seen.supervisord['pid']}{_up(seen)}")
    if not database.problem:
        parts.append(f"database ok ({database.kind}, PostgreSQL {database.version})")
    second = [_counts(seen.rows, database.bots), count(len(alerts.get("incidents", ())), "alert")]
    if not seen.away:
        second.append(_monitor(seen.monitor))
    second.append(where_alerts_go(settings, alerts))
    found = [" · ".join(parts), " · ".join(second)]
    if seen.away:
        found.append(f"{mark('✖')} {seen.away}")
    elif not _reports(seen):
        stopped = seen.monitor.get("state") in STOPPED_STATES
        remedy = f"run: {home.command('start')}" if stopped else f"report: {home.command('doctor')}"
        found.append(f"{mark('✖')} the monitor does not {remedy}")
    if database.problem:
        found.append(f"{mark('✖')} {clean(database.problem)}; bots go on without it")
    found += [f"{mark('✖')} {clean(text)}" for text in unsent(alerts)]
    return found + [f"{mark('▲')} {clean(text)}" for text in own_troubles(alerts)]


def _lost(context: Context, seen: Fleet, database: Database) -> list[str]:
    """Return which bots were taken away past multibot; the monitor says it, too, but after a while."""
    from multibot_plugin.bots.astray import astray

    known = {str(row["id"]) for row in seen.rows}
    lost = astray(context.home, known) if database.pending and not seen.away else ""
    told = own_troubles(fleet.read_status(context.home)) if lost else []
    return [f"{mark('✖')} {clean(lost)}"] if lost and lost not in told else []


def own_troubles(alerts: Mapping[str, Any]) -> list[str]:
    """Return what the monitor reports of itself: incidents of no bot (a plugin that was disabled, a full journal)."""
    return [str(incident["text"]) for incident in alerts.get("incidents", ()) if not incident.get("bot")]


def _up(seen: Fleet) -> str:
    import psutil

    with suppress(psutil.Error):
        return f", up {spoken(time.time() - psutil.Process(seen.supervisord['pid']).create_time())}"
    return ""


def _counts(rows: Sequence[Row], stored: int) -> str:
    if not rows:
        return f"no bot in supervisord, {stored} in the database" if stored else "no bots yet"
    conditions = Counter(map(fleet.condition, rows))
    order = sorted(conditions, key=lambda word: (word != "healthy", -conditions[word], word))
    return f"{count(len(rows), 'bot')}: {', '.join(f'{conditions[word]} {word}' for word in order)}"


def _monitor(monitor: Mapping[str, Any]) -> str:
    age_s = monitor.get("tick_age_s")
    if monitor.get("state") in STOPPED_STATES:
        return f"monitor {str(monitor['state']).lower()}"
    if monitor.get("ok"):
        return f"monitor ok, last tick {spoken(age_s or 0)} ago"
    return f"monitor silent for {spoken(age_s)}" if age_s is not None else "monitor has not reported"


def lines(home: Home, rows: Sequence[Row], pending: Sequence[str], database: Database, now: float,
          incidents: Sequence[Mapping[str, Any]] = ()) -> list[str]:  # fmt: skip
    """Return a line for each bot in question, the worst first, below it what to type, and one for each of
    ``incidents`` of others."""
    others = [incident for incident in incidents if incident["bot"] not in {row["id"] for row in rows}]
    rows = sorted(rows, key=lambda row: _WORST_FIRST.index(fleet.symbol(row)))
    differing = [bot for bot in pending if bot not in database.problems]
    named = pending if len(differing) <= _NAMED else [bot for bot in pending if bot in database.problems]
    names = [*(str(row["id"]) for row in rows), *(str(incident["bot"]) for incident in others), *named]
    width = max(map(len, names), default=0) + 2
    found = [""] if names or differing else []

    def tell(symbol: str, bot: str, sentence: str, *commands: str) -> None:
        found.append(fold(f"{mark(symbol)} {bot:<{width}} {clean(sentence)}", width + 3))
        found.extend(f"  {'':<{width}} → {command}" for command in commands)

    for row in rows:
        cause = str(row["cause"] or row["spawn_error"] or "")
        to_do = remedy(row, cause, home.command)
        tell(fleet.symbol(row), row["id"], _sentence(row, database, now), *to_do.commands)
        if to_do.why and not to_do.commands:
            found.append(fold(f"  {'':<{width}} → {to_do.why}", width + 5))
    for incident in others:
        since = f" since {moment(incident['since_at'], now)}" if incident.get("since_at") else ""
        tell("✖" if incident.get("level") == "critical" else "▲", incident["bot"], f"alert{since}: {incident['text']}")
    for bot in named:
        tell("▲", bot, database.problems.get(bot, "differs from the database"))
    if len(differing) > _NAMED:  # after a change of a default these are all bots: no line each
        more = f"{', '.join(differing[:_NAMED])} and {len(differing) - _NAMED} more"
        found.append(fold(f"{mark('▲')} {len(differing)} bots differ from the database: {more}", 2))
    if differing:
        found.extend(f"  {'':<{width}} → {home.command(words)}" for words in ("render-config --diff", "apply"))
    return found


def _is_worth_a_line(row: Row, seen: Fleet) -> bool:
    """Whether a bot is not simply well. That no bot's health is known without the monitor is said once, for all."""
    if row["state"] == "finished":
        return False
    return fleet.symbol(row) != "●" and (row["state"] != "running" or row["health"] != "unknown" or _reports(seen))


def _reports(seen: Fleet) -> bool:
    return bool(seen.monitor.get("ok"))


def _sentence(row: Row, database: Database, now: float) -> str:
    state, health = row["state"], row["health"]
    word = health if state == "running" else state
    at = fleet.began(row)
    since = f" since {moment(at, now)}" if at else ""
    if state == "running" and health != "unknown":
        since = f", up {spoken(row['uptime_s'])}" if row["uptime_s"] is not None else ""
    elif at and state != "stopped":
        since += f" ({spoken(now - at)})"
    if state == "stopped" and not at and row["statename"]:
        since = " (not started since supervisord began)"
    who = _who(row, database) if state == "stopped" else ""
    return fleet.in_words(word, f"{since}{who}", row["cause"] or row["spawn_error"] or "")


def _who(row: Row, database: Database) -> str:
    """Return who stopped a bot: the audit log knows; before it does, autostart shows that it went past multibot."""
    return database.stoppers.get(row["id"]) or (" (supervisorctl)" if row["enabled"] and row["stop_at"] else "")


def moment(at: float, now: float) -> str:
    """Return a time for people: ``14:03`` today, ``yesterday``, else ``Nov 21``."""
    then, today = datetime.fromtimestamp(at), datetime.fromtimestamp(now).date()
    if then.date() == today:
        return f"{then:%H:%M}"
    return "yesterday" if then.date() == today - timedelta(days=1) else f"{then:%b} {then.day}"


def _as_json(context: Context, seen: Fleet, database: Database, alerts: Mapping[str, Any], rows: Sequence[Row],
             well: bool) -> dict[str, Any]:  # fmt: skip
    return {
        "ok": well,
        "host": socket.gethostname(),
        "install": "root" if os.geteuid() == 0 else "user",
        "supervisord": {"ok": not seen.away, **seen.supervisord, "problem": str(seen.away or "")},
        "monitor": {"ok": bool(seen.monitor.get("ok")), "tick_age_s": seen.monitor.get("tick_age_s")},
        "database": {"ok": not database.problem, "kind": database.kind, "version": database.version,
                     "problem": database.problem},
        "alerts": {name: alerts.get(name, []) for name in ("channels", "deliveries", "incidents")},
        "pending": list(database.pending),
        "bots": [dict(row) for row in rows],
    }  # fmt: skip
