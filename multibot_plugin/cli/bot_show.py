"""``multibot bot show``: everything about one bot on one screen, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click

from multibot_plugin.cli.bot_picture import Picture, gather, masked, show_value
from multibot_plugin.cli.fleet import condition, symbol
from multibot_plugin.cli.output import (
    Context,
    clean,
    duration,
    mark,
    one_line,
    pass_context,
    show,
    show_json,
    size,
    spoken,
)
from multibot_runner.protocol import Exit, Run

_LAST_ENDS = 5
_DAY_S = 86400.0


@click.command("show")
@click.argument("bot", metavar="ID")
@click.option("--json", "json_wanted", is_flag=True, help="The same as JSON, with stable keys.")
@pass_context
def show_bot(context: Context, bot: str, json_wanted: bool) -> None:
    """Show everything about one bot: how it is, why, what changed, how it ended, the end of its log, what to do."""
    picture = gather(context, bot)
    if json_wanted:
        show_json(as_json(picture))
        return
    head, *lines = describe(picture, context.home.command)
    show(f"{mark(symbol(picture.row))} {head}")
    for line in lines:
        show(f"   {line}".rstrip())


def describe(picture: Picture, command: Any) -> Iterator[str]:
    """Yield the screen's lines; the first without its symbol. ``command``: what to type for a subcommand."""
    yield headline(picture)
    for title, text in (*_state(picture), *_configuration(picture), *_history(picture)):
        yield f"{title:<10} {text}"
    ends = [run for run in picture.runs if run.exit is not None or run.pid != picture.row["pid"]][:_LAST_ENDS]
    if ends:
        yield ""
        yield "Last ends"
        for run in ends:
            yield f"  {_end(run, picture.at)}"
    yield ""
    yield f"Log (the end of {picture.log})" if picture.log_lines else f"Log (nothing in {picture.log})"
    yield from (f"  {line}" for line in picture.log_lines)
    following = next_step(picture)
    if following:
        words, why = following
        yield f"Next: {command(words) if words else ''}{'   ' if words else ''}{f'({why})' if why else ''}".rstrip()


def headline(picture: Picture) -> str:
    """Return ``shop — quarantined since 14:03:11 (21 min): token rejected``."""
    row, word = picture.row, condition(picture.row)
    cause = one_line(str(row["cause"] or "")).removeprefix(f"{word}: ") or _ended_because(picture)
    who = _stopped_by(picture) if row["state"] == "stopped" else ""
    return f"{picture.bot} — {word}{_since(picture)}{who}{f': {cause}' if cause else ''}"


def _since(picture: Picture) -> str:
    """Return since when it is so: its oldest incident, its end, or how long it is up."""
    row = picture.row
    begun = [i["since_at"] for i in picture.incidents if isinstance(i.get("since_at"), int | float)]
    if row["pid"] and (row["health"] == "healthy" or not begun):
        return f", up {duration(row['uptime_s'])}"
    since_at = min(begun) if row["pid"] else row["stop_at"]
    return f" since {clock(since_at, picture.at)} ({spoken(picture.at - since_at)})" if since_at else ""


def _ended_because(picture: Picture) -> str:
    if picture.row["state"] not in ("quarantined", "backing-off") or not picture.runs:
        return ""
    last = next((run.exit for run in picture.runs if run.exit), None)
    return one_line(last.text) if last else ""


def _stopped_by(picture: Picture) -> str:
    """Return `` by ada (supervisorctl)``: who wished, last of all, that this bot does not run."""
    for change in picture.changes:
        if change["action"] in ("bot.disabled", "bot.stopped"):
            return f" by {clean(change['actor'])} ({clean(change['door'])})"
        if change["action"] in ("bot.enabled", "bot.started"):
            return ""
    return ""


def _state(picture: Picture) -> Iterator[tuple[str, str]]:
    row, values = picture.row, picture.values
    who = f"user {values['user']}" if values["user"] else f"uid {values['uid']}" if values["uid"] is not None else ""
    python = f"python {values['python']}" if values["python"] else ""
    runs_as = [f"{values['launch']} {values['target']}", who, python, picture.problem]
    yield "Runs as", clean(" · ".join(filter(None, runs_as)))
    health = [str(row["health"])]
    for key, text in (("last_poll_age_s", "last successful poll"), ("last_update_age_s", "last update")):
        if row[key] is not None:
            health.append(f"{text} {duration(row[key])} ago")
    if values["launch"] == "command":
        health.append("polling cannot be seen from outside")
    yield "Health", " · ".join(health)
    if row["pid"]:
        process = [f"pid {row['pid']}, up {duration(row['uptime_s'])}"]
    else:
        code = row["exit_code"]
        process = ["none" + (f" (exit {code})" if code and row["state"] != "stopped" else "")]
    process += [f"restarts: {row['restarts_24h']} in 24 h"] if row["restarts_24h"] is not None else []
    process += ["starts with the system"] if row["enabled"] else ["does not start with the system"]
    yield "Process", " · ".join(process)
    limit = values["memory_limit"]
    origin = "" if "memory_limit" in picture.own else " (fleet)"
    used = f"{size(row['memory_bytes'])} · " if row["memory_bytes"] is not None else ""
    yield "Memory", used + (f"limit {size(limit)}{origin}" if limit else "no limit")


def _configuration(picture: Picture) -> Iterator[tuple[str, str]]:
    shown = {"user", "python", "memory_limit"}
    own = [f"{name} {show_value(name, value)}" for name, value in picture.own.items() if name not in shown]
    if own:
        yield "Settings", clean(" · ".join(own))
    if picture.env:
        yield "Variables", clean(f"{', '.join(picture.env)} (values are not shown)")


def _history(picture: Picture) -> Iterator[tuple[str, str]]:
    change = next((c for c in picture.changes if c["action"] in ("bot.changed", "bot.created")), None)
    if change is not None:
        yield "Changed", _changed(change, picture.at)
    for incident in picture.incidents:
        level = str(incident.get("level"))
        since = clock(incident.get("since_at"), picture.at)
        told = f", told to {', '.join(picture.channels)}" if picture.channels else ""
        sign = "✖" if level == "critical" else "▲"
        yield "Alerts", one_line(f"{sign} {incident.get('text')}, {level}, since {since}{told}")
    for note in picture.notes:
        yield "Note", one_line(note)


def _changed(change: Mapping[str, Any], now_at: float) -> str:
    detail = change["detail"]
    at = change["at"].timestamp()
    revision = f"rev {detail['config_version']}, " if "config_version" in detail else ""
    what = "created" if change["action"] == "bot.created" else ", ".join(_details(detail))
    return one_line(f"{revision}{ago(at, now_at)} by {change['actor']} ({change['door']}): {what}")


def _details(detail: Mapping[str, Any]) -> Iterator[str]:
    """Yield ``memory_limit 128MB → 256MB`` for each thing that an audit row of a change names."""
    for name, value in detail.items():
        if name == "settings" and isinstance(value, Mapping):
            for setting, pair in value.items():
                yield f"{setting} {_side(setting, pair.get('old'))} → {_side(setting, pair.get('new'))}"
        elif name == "env" and isinstance(value, Mapping):
            yield from (f"env.{key} ({what})" for key, what in value.items())
        elif name != "token_number" and isinstance(value, Mapping) and {"old", "new"} & value.keys():
            yield f"{name} {value.get('old')} → {value.get('new')}"
        elif name == "token":
            yield "token (changed)"


def _side(setting: str, value: Any) -> str:
    return "fleet's" if value is None else show_value(setting, value)


def _end(run: Run, now_at: float) -> str:
    ended = run.exit
    if ended is None:  # killed, or taken down with its machine
        return f"{'?':<9} {'?':<9} {'ended without a word':<44} started {clock(run.started_at, now_at)}"
    how = f"signal {ended.signal}" if ended.signal else f"exit {ended.code}" if ended.code is not None else ended.cause
    ran = duration(ended.ended_at - run.started_at)
    return f"{clock(ended.ended_at, now_at):<9} {how:<9} {one_line(ended.text or ended.cause):<44} ran {ran}"


def next_step(picture: Picture) -> tuple[str, str] | None:
    """Return what to type next (after ``multibot``) and why; None when there is nothing to do. Pure."""
    bot, row = picture.bot, picture.row
    state, health = row["state"], row["health"]
    ended: Exit | None = next((run.exit for run in picture.runs if run.exit), None)
    if not picture.running:
        return "start", "supervisord is not running"
    if row["statename"] is None:
        return "apply", "it is in the database only"
    if health == "unauthorised" or (state == "quarantined" and ended and ended.cause == "token-rejected"):
        return f"bot set {bot} --token-stdin", "get a new token from @BotFather"
    if state == "stopped":
        return f"bot start {bot}", ""
    if state in ("quarantined", "backing-off"):
        return f"logs {bot}", f"then 'bot set {bot} ...' or 'bot start {bot}'"
    if health == "conflicted":
        return "", "another program polls with this token: stop it, or get a new token from @BotFather"
    return None


def clock(at: float | None, now_at: float) -> str:
    """Return a time for people: ``14:03:11`` within a day, else ``Nov 21``."""
    if at is None:
        return "?"
    moment = datetime.fromtimestamp(at)
    return moment.strftime("%H:%M:%S" if abs(now_at - at) < _DAY_S else "%b %d")


def ago(at: float, now_at: float) -> str:
    return f"{spoken(now_at - at)} ago"


def as_json(picture: Picture) -> dict[str, Any]:
    """Return the picture as plain values, without the values of variables and without the token."""
    return {
        "bot": {
            **picture.row,
            **{key: picture.values[key] for key in ("launch", "target", "uid")},
            "problem": picture.problem or None,
            "config_version": picture.config.version if picture.config else None,
            "settings": {k: masked(v) for k, v in picture.values.items() if k not in ("launch", "target", "uid")},
            "own_settings": {k: masked(v) for k, v in picture.own.items()},
            "env": list(picture.env),
            "incidents": [dict(incident) for incident in picture.incidents],
            "changes": [_plain(change) for change in picture.changes],
            "runs": [asdict(run) for run in picture.runs],
            "log": {"file": str(picture.log), "lines": list(picture.log_lines)},
            "notes": list(picture.notes),
        }
    }


def _plain(change: Mapping[str, Any]) -> dict[str, Any]:
    at = change["at"].isoformat()
    return {"at": at} | {key: change[key] for key in ("actor", "door", "host", "action", "detail")}
