"""What ``multibot doctor`` looks at besides the running system: alerts, rights, room on the host."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from multibot_plugin.cli.alerting import ask_telegram, unsent, where_alerts_go
from multibot_plugin.cli.checks import BAD, GOOD, WARNING, Check, Found, Patient
from multibot_plugin.cli.config import problems
from multibot_plugin.cli.output import size
from multibot_plugin.errors import MultibotError, Refused
from multibot_plugin.home import Home, user_name

_GIB = 1024**3
_LISTENS_WITHIN_S = 15.0
_JOURNAL_LARGE = 1024 * 1024


def alerts(patient: Patient) -> Found:
    """Somebody hears of it."""
    settings = patient.context.settings
    broken = [p for p in problems(settings) if p.startswith("alerts.")]
    where = where_alerts_go(settings, patient.picture)
    if broken and "log only" in broken[0]:
        return Check("alerts", BAD, broken[0], _alert_remedies(patient))
    configured = settings["alerts.telegram.token_file"] and settings["alerts.telegram.chat_id"]
    if where.endswith("log only") and not configured:
        text = "alerts: no channel configured, alerts go to the log only"
        return Check("alerts", WARNING, text, _alert_remedies(patient))
    failing = unsent(patient.picture)
    found = [Check("alerts", BAD, text) for text in (*broken, *failing)]
    try:
        if not failing:
            ask_telegram(settings)
    except MultibotError as error:
        found.append(Check("alerts", BAD if isinstance(error, Refused) else WARNING, str(error)))
    if where.endswith("log only"):  # its picture is older than multibot.toml
        where = "alerts go to Telegram from the monitor's next tick on"
    return found or Check("alerts", GOOD, where)


def _alert_remedies(patient: Patient) -> tuple[str, ...]:
    home = patient.context.home
    return (
        home.command(f"config set alerts.telegram.token_file {home.config.absolute() / 'alerts.token'}"),
        home.command("config set alerts.telegram.chat_id 123456789"),
        home.command("doctor"),
    )


def ports(patient: Patient) -> Found:
    """Nobody else listens on a bot's port, and a bot that has one does."""
    from multibot_plugin.bots.files import read_deployment, read_text
    from multibot_plugin.bots.ports import listening, stranger
    from multibot_plugin.bots.render import read_rendered

    home = patient.context.home
    made = (read_deployment(home, section) for section in read_rendered(read_text(home.rendered)).values())
    declared = {d.id: d.settings.port for d in made if d is not None and d.settings.port}
    if not declared:
        return ()
    now, found = listening(), []
    up = {row["id"] for row in patient.fleet.rows if row["state"] == "running" and row["uptime_s"] > _LISTENS_WITHIN_S}
    for bot, port in declared.items():
        if who := stranger(home, bot, port, now):
            cure = home.command(f"bot set {bot} --port N")
            found.append(Check("ports", BAD, f"port {port} of {bot} is in use by {who}", (cure,)))
        elif bot in up and port not in now:
            text = f"port {port} of {bot}: nobody listens on it"
            found.append(Check("ports", WARNING, text, (home.command(f"logs {bot}"),)))
    return found or Check("ports", GOOD, f"ports: {len(declared)} declared by bots, no stranger listens on one")


def isolation(patient: Patient) -> Found:
    """Root installs: bots can have user ids of their own. User installs: they have none, and that is said."""
    context = patient.context
    if os.geteuid() != 0:
        name = user_name(os.geteuid()) or f"user id {os.geteuid()}"
        return Check("isolation", WARNING, f"user install: every bot runs as {name}, no isolation between bots")
    from multibot_plugin.cli.reach import why_unreachable

    ends = [int(end) for end in context.settings["bot_uid_range"].split("-")]
    if unmapped := [uid for uid in ends if not _is_mapped(uid, Path("/proc/self/uid_map").read_text())]:
        text = f"user id {unmapped[0]} of bot_uid_range does not exist here (a container without it)"
        return Check("isolation", BAD, text, (context.home.command("config set bot_uid_range 20000-29999"),))
    # The last of them: an earlier one may be a bot's, which could lay hands on a process of its own user id.
    if reason := why_unreachable(ends[1], context.home.state):
        return Check("isolation", BAD, reason)
    if shared := _shared(context.home):
        return Check("isolation", BAD, shared, ("delete the bot and create it again: it gets a new one",))
    return Check(
        "isolation", GOOD, f"bots have user ids of their own ({ends[0]}-{ends[1]}), which can run the interpreter"
    )


def _shared(home: Home) -> str:
    """Return which bots have a user id that another installation of this host uses; nothing when none has."""
    from multibot_plugin.bots.apply import rendered_uids
    from multibot_plugin.bots.uids import foreign

    uids = rendered_uids(home)
    taken = foreign(uids.values(), home.state)
    return "; ".join(
        f"bot {bot!r} has user id {uid}, which the installation at {taken[uid]} uses: they can read each other's tokens"
        for bot, uid in uids.items()
        if uid in taken
    )


def _is_mapped(uid: int, uid_map: str) -> bool:
    """Whether a user id exists in this user namespace (lines: first id inside, first outside, how many)."""
    ranges = [tuple(map(int, line.split())) for line in uid_map.splitlines()]
    return any(first <= uid < first + length for first, _, length in ranges)


def files(patient: Patient) -> Found:
    """Nobody else can read secrets or write where supervisord reads."""
    home = patient.context.home
    closed = (home.digest_key, home.rendered.parent, home.log, home.toml)
    found = [(p, "chmod go-rwx") for p in closed if p.exists() and p.stat().st_mode & 0o077]
    read = (home.config, home.state, home.supervisord_conf, home.config / "conf.d")
    found += [(p, "chmod go-w") for p in read if p.exists() and p.stat().st_mode & 0o022]
    return [Check("files", BAD, f"{path} is open to others", (f"{cure} {path}",)) for path, cure in found]


def journal(patient: Patient) -> Iterator[Check]:
    """What waits for the database is little, and nothing was set aside."""
    from multibot_plugin.journal import Journal

    home = patient.context.home
    waiting = Journal(home.journal).size() if home.journal.is_dir() else 0
    rejected = home.journal / "rejected.jsonl"
    if rejected.exists():
        yield Check("journal", WARNING, f"entries that the database refused lie in {rejected}", (f"less {rejected}",))
    if waiting > _JOURNAL_LARGE:
        text = f"journal: {size(waiting)} wait for the database (at most 64 MB)"
        yield Check("journal", WARNING, text, ("see the line about the database",))
    else:
        yield Check("journal", GOOD, f"journal: {size(waiting) if waiting else 'nothing'} waits for the database")


def disk(patient: Patient) -> Found:
    """There is room for logs and data."""
    home = patient.context.home
    free = {path: shutil.disk_usage(path).free for path in (home.state, home.log)}
    path, least = min(free.items(), key=lambda item: item[1])
    text = f"disk: {size(least)} free at {path}"
    mark = GOOD if least > _GIB else WARNING if least > _GIB // 8 else BAD
    return Check("disk", mark, text, () if mark == GOOD else ("make room, or put the state elsewhere",))
