"""``multibot bot show``: everything about one bot on one screen, and what to do next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click

from multibot_plugin.cli.bot_picture import Picture, gather, masked, show_value
from multibot_plugin.cli.ends import End, ends
from multibot_plugin.cli.fleet import began, condition, in_words, stopper, symbol
from multibot_plugin.cli.output import (
    Context,
    clean,
    complete_bot,
    count,
    duration,
    fold,
    mark,
    one_line,
    pass_context,
    show,
    show_json,
    size,
    spoken,
)
from multibot_plugin.cli.remedies import Remedy, remedy

_LOG, _NEXT, _TITLE = "Log (", "Next:", 10
_DAY_S = 86400.0
_WIDEST, _CHANGES = 70, 30


@click.command("show")
@click.argument("bot", metavar="ID", shell_complete=complete_bot)
@click.option("--json", "json_wanted", is_flag=True, help="The same as JSON, with stable keys.")
@pass_context
def show_bot(context: Context, bot: str, json_wanted: bool) -> None:
    """Show everything about one bot: how it is, why, what changed, how it ended, the end of its log, what to do."""
    picture = gather(context, bot)
    if json_wanted:
        show_json(as_json(picture))
        return
    head, *lines = describe(picture, context.home.command)
    show(fold(f"{mark(symbol(picture.row))} {head}", 3))
    raw = False
    for line in lines:
        raw = raw or line.startswith(_LOG)  # a log, and what is to be typed, are shown as they are
        show(f"   {line}".rstrip() if raw else fold(f"   {line}", 3 + _TITLE + 1))


def describe(picture: Picture, command: Any) -> Iterator[str]:
    """Yield the screen's lines; the first without its symbol. ``command``: what to type for a subcommand."""
    yield headline(picture)
    for title, text in (*_state(picture), *_configuration(picture), *_history(picture)):
        yield f"{title:<{_TITLE}} {text}"
    ends = list(_ends(picture))
    if ends:
        yield ""
        yield "Last ends"
        yield from (f"  {line}" for line in ends)
    yield ""
    yield f"{_LOG}the end of {picture.log})" if picture.log_lines else f"{_LOG}nothing in {picture.log})"
    yield from (f"  {line}" for line in picture.log_lines)
    following = next_step(picture, command)
    lines = [*following.commands, *([f"({following.why})"] if following.why else [])]
    for number, line in enumerate(lines):
        yield f"{'' if number else _NEXT:<{len(_NEXT)}} {line}"


def headline(picture: Picture) -> str:
    """Return ``shop — quarantined since 14:03:11 (21 min): token rejected``."""
    row, word = picture.row, condition(picture.row)
    cause = one_line(str(row["cause"] or ""))
    who = clean(stopper(picture.changes)) if row["state"] == "stopped" else ""
    return f"{picture.bot} — {in_words(word, f'{_since(picture)}{who}', cause)}"


def _since(picture: Picture) -> str:
    """Return since when it is so: of a bot that runs its oldest incident, or how long it is up; else its state."""
    row, since_at = picture.row, began(picture.row)
    if row["state"] == "running":
        begun = [i["since_at"] for i in picture.incidents if isinstance(i.get("since_at"), int | float)]
        if row["health"] == "healthy" or not begun:
            return f", up {duration(row['uptime_s'])}"
        since_at = min(begun)
    return f" since {clock(since_at, picture.at)} ({spoken(picture.at - since_at)})" if since_at else ""


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
    if picture.webhook:
        yield "Telegram", one_line(" · ".join(_telegram(picture.webhook, picture.at)))
    if activity := list(_activity(picture.activity)):
        yield "Activity", " · ".join(activity)
    if row["pid"]:
        process = [f"pid {row['pid']}, up {duration(row['uptime_s'])}"]
    else:
        code = row["exit_code"]
        process = ["none" + (f" (exit {code})" if code and row["state"] not in ("stopped", "finished") else "")]
    process += [f"restarts: {row['restarts_24h']} in 24 h"] if row["restarts_24h"] is not None else []
    process += ["starts with the system"] if row["enabled"] else ["does not start with the system"]
    yield "Process", " · ".join(process)
    limit = values["memory_limit"]
    origin = "" if "memory_limit" in picture.own else " (fleet)"
    used = f"{size(row['memory_bytes'])} · " if row["memory_bytes"] is not None else ""
    yield "Memory", used + (f"limit {size(limit)}{origin}" if limit else "no limit")


def _telegram(info: Mapping[str, Any], now_at: float) -> Iterator[str]:
    """Yield what Telegram said of a bot whose polls are not seen."""
    yield f"asked {duration(info.get('age_s'))} ago"
    if info.get("code") != 200:
        yield f"rejects its token ({info.get('code')})"
        return
    yield f"webhook {info.get('origin')}" if info.get("origin") else "no webhook"
    yield f"{count(info.get('pending') or 0, 'update')} waiting"
    if info.get("error"):
        yield f"last failed delivery {clock(info.get('error_at'), now_at)}: {info['error']}"


def _activity(did: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the process says that it did."""
    if did.get("updates"):
        yield count(did["updates"], "update")
    if did.get("handled"):
        yield f"{did['handled']} handled"
    if did.get("handler_errors"):
        yield count(did["handler_errors"], "error")
    if did.get("handler_latency_s") is not None:
        yield f"the last took {did['handler_latency_s']:.1f} s"
    if did.get("sent"):
        yield f"{did['sent']} sent, the last {duration(did['last_sent_age_s'])} ago"
    if did.get("ready_age_s") is not None:
        yield f"ready for {duration(did['ready_age_s'])}"


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
        told = f", told to {', '.join(incident['told'])}" if incident.get("told") else ""
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


def _ended(picture: Picture) -> list[End]:
    return ends(picture.runs, picture.row, [*picture.changes, *picture.around])


def _ends(picture: Picture) -> Iterator[str]:
    found = _ended(picture)
    width = min(_WIDEST, max((len(end.text) for end in found), default=0))
    for end in found:
        ran = f"ran {duration(end.ran_s)}" if end.at else f"started {clock(end.started_at, picture.at)}"
        yield f"{clock(end.at, picture.at):<9} {end.how:<9} {one_line(end.text):<{width}}  {ran}"


def next_step(picture: Picture, command: Callable[[str], str]) -> Remedy:
    """Return what to type next, commands as they are typed; without any there is nothing to do. Pure."""
    row = picture.row
    if not picture.running:
        return Remedy((command("start"),), "supervisord is not running")
    if row["statename"] is None:
        return Remedy((command("apply"),), "it is in the database only")
    found = remedy(row, str(row["cause"] or ""), command)
    here = command(f"bot show {picture.bot}")
    return Remedy(tuple(words for words in found.commands if words != here), found.why)


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
            "changes": [_plain(change) for change in picture.changes[:_CHANGES]],
            "runs": [asdict(run) for run in picture.runs],
            "ends": [asdict(end) for end in _ended(picture)],
            "log": {"file": str(picture.log), "lines": list(picture.log_lines)},
            "webhook": dict(picture.webhook) or None,
            "activity": dict(picture.activity) or None,
            "notes": list(picture.notes),
        }
    }


def _plain(change: Mapping[str, Any]) -> dict[str, Any]:
    at = change["at"].isoformat()
    return {"at": at} | {key: change[key] for key in ("actor", "door", "host", "action", "detail")}
