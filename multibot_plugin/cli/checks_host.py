"""What ``multibot doctor`` looks at besides the running system: alerts, rights, room on the host."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path

from multibot_plugin.cli.checks import BAD, GOOD, WARNING, Check, Found, Patient
from multibot_plugin.cli.config import problems
from multibot_plugin.cli.output import size
from multibot_plugin.cli.status import where_alerts_go

_GIB = 1024**3
_JOURNAL_LARGE = 1024 * 1024


def alerts(patient: Patient) -> Found:
    """Somebody hears of it."""
    settings = patient.context.settings
    broken = [p for p in problems(settings) if p.startswith("alerts.")]
    where = where_alerts_go(settings, patient.picture)
    if broken and "log only" in broken[0]:
        return Check("alerts", BAD, broken[0], _alert_remedies(patient))
    if broken:
        return [Check("alerts", BAD, text) for text in broken]
    if where.endswith("log only"):
        return Check(
            "alerts", BAD, "alerts: no channel configured, alerts go to the log only", _alert_remedies(patient)
        )
    return Check("alerts", GOOD, where)


def _alert_remedies(patient: Patient) -> tuple[str, ...]:
    home = patient.context.home
    return (
        home.command(f"config set alerts.telegram.token_file {home.config.absolute() / 'alerts.token'}"),
        home.command("config set alerts.telegram.chat_id 123456789"),
    )


def isolation(patient: Patient) -> Found:
    """Root installs: bots can have user ids of their own. User installs: they have none, and that is said."""
    context = patient.context
    if os.geteuid() != 0:
        name = pwd.getpwuid(os.geteuid()).pw_name
        return Check("isolation", WARNING, f"user install: every bot runs as {name}, no isolation between bots")
    from multibot_plugin.cli.reach import why_unreachable

    ends = [int(end) for end in context.settings["bot_uid_range"].split("-")]
    if unmapped := [uid for uid in ends if not _is_mapped(uid, Path("/proc/self/uid_map").read_text())]:
        text = f"user id {unmapped[0]} of bot_uid_range does not exist here (a container without it)"
        return Check("isolation", BAD, text, (context.home.command("config set bot_uid_range 20000-29999"),))
    if reason := why_unreachable(ends[0], context.home.state):
        return Check("isolation", BAD, reason)
    return Check(
        "isolation", GOOD, f"bots have user ids of their own ({ends[0]}-{ends[1]}), which can run the interpreter"
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
