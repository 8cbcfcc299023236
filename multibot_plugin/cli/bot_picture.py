"""All that is known about one bot, gathered for ``bot show``, also while the database or supervisord is away."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multibot_plugin.cli.fleet import Row, empty_row, look, read_status
from multibot_plugin.cli.log_files import open_log
from multibot_plugin.cli.log_lines import read_line
from multibot_plugin.cli.output import Context
from multibot_plugin.errors import BadValue, MultibotError, NoSuchBot
from multibot_plugin.home import Home
from multibot_plugin.kinds import without_login
from multibot_plugin.settings import BOT_SETTINGS, BY_NAME
from multibot_runner.protocol import Heartbeat, Run, is_number
from multibot_runner.readers import read_heartbeat, read_runs

if TYPE_CHECKING:
    from multibot_plugin.bots.config import BotConfig, Deployment

LOG_LINES = 10
_LOG_TAIL = 64 * 1024
_AUDIT_ROWS = 200


@dataclass(frozen=True)
class Picture:
    """One bot. ``row`` as in getBots; ``config`` None: its row cannot be used (``problem``) or the database is away.

    ``runs_as`` and ``values``: launch, target, python, user, uid and the effective settings, from the configuration
    or else from what is rendered. ``env``: names only. ``changes`` (its audit log, newest first), ``around`` (that of
    the installation) and ``incidents`` are plain values. ``webhook``: what Telegram said of the process that runs
    (health.states.WebhookInfo), empty: nothing. ``activity``: what that process itself says of its work, empty where it
    does not run. ``notes``: what could not be found out.
    """

    bot: str
    row: Row
    at: float
    running: bool
    config: BotConfig | None = None
    problem: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    env: Sequence[str] = ()
    changes: Sequence[Mapping[str, Any]] = ()
    around: Sequence[Mapping[str, Any]] = ()
    incidents: Sequence[Mapping[str, Any]] = ()
    webhook: Mapping[str, Any] = field(default_factory=dict)
    activity: Mapping[str, Any] = field(default_factory=dict)
    runs: Sequence[Run] = ()
    log: Path = Path()
    log_lines: Sequence[str] = ()
    notes: Sequence[str] = ()


def gather(context: Context, bot: str) -> Picture:
    """Return what is known of ``bot``; raises NoSuchBot when neither database, supervisord nor files know it."""
    fleet = look(context)
    rows = {str(row["id"]): row for row in fleet.rows}
    notes = [str(fleet.away)] if fleet.away else []
    stored, audit, ids, away = _from_database(context, bot)
    audit = [*_from_journal(context.home), *audit]
    notes += [f"{away}; shown is what is rendered"] if away else []
    if bot not in rows and stored is None:
        raise NoSuchBot(bot, {*rows, *ids})
    if bot not in rows:
        notes.append(f"not applied yet: '{context.home.command('apply')}'")
    config, problem = _read(stored) if stored else (None, "")
    deployment = _deployment(context.home, bot)
    launch, own, env = _known(context, config, deployment)
    secrets = [known.token for known in (config, deployment) if known is not None]
    status = read_status(context.home)
    return Picture(
        bot=bot, row=rows.get(bot) or empty_row(bot),
        at=fleet.at, running=fleet.away is None, config=config, problem=problem,
        values=context.settings.for_bot(own) | launch, own=own, env=env,
        changes=[row for row in audit if row["bot_id"] == bot],
        around=[row for row in audit if row["bot_id"] is None],
        webhook=webhook_of(status, bot, rows.get(bot, {}).get("pid")),
        activity=activity_of(read_heartbeat(context.home.bot(bot)), rows.get(bot, {}).get("pid"), time.monotonic()),
        incidents=[i for i in status.get("incidents", ()) if i.get("bot") == bot],
        runs=read_runs(context.home.bot(bot)),
        log=context.home.bot_log(bot), log_lines=tail(context.home.bot_log(bot), LOG_LINES, secrets), notes=notes,
    )  # fmt: skip


def webhook_of(status: Mapping[str, Any], bot: str, pid: Any) -> Mapping[str, Any]:
    """Return what stands in the monitor's picture, whatever somebody made of the file; ages count from its ``mono``."""
    try:
        seen = status["bots"][bot]
        info = seen["webhook"] if pid and seen["pid"] == pid else None
        if info is None:
            return {}
        failed_at = info["error_at"] if is_number(info["error_at"]) else None
        return {**info, "error_at": failed_at, "age_s": max(0.0, float(status["mono"]) - float(info["asked_mono"]))}
    except (KeyError, TypeError, ValueError):
        return {}


def activity_of(said: Heartbeat | None, pid: Any, now: float) -> Mapping[str, Any]:
    """Return what a bot did since it runs; None: what cannot be seen of it, or did not happen yet."""
    if said is None or not pid or said.pid != pid:
        return {}
    seen = said.handlers_seen

    def age(at: float | None) -> float | None:
        return None if at is None else max(0.0, now - at)

    return {
        "updates": said.update_count,
        "handled": said.handled_count if seen else None,
        "handler_errors": said.handler_errors if seen else None,
        "handler_latency_s": said.handler_latency_s,
        "sent": said.sent_count,
        "last_sent_age_s": age(said.sent_mono),
        "ready_age_s": age(said.ready_mono),
    }


def _from_database(context: Context, bot: str) -> tuple[Any, list[Any], list[str], str]:
    """Return the row (None: no such bot), its audit rows, all ids, and why the database could not be asked."""

    async def ask() -> tuple[Any, list[Any], list[str], str]:
        from multibot_plugin.bots.store import fetch_bots, read_audit

        async with context.database() as connection:
            rows = {row["id"]: row for row in await fetch_bots(connection)}
            audit = await read_audit(connection, bot, _AUDIT_ROWS) if bot in rows else []
            around = [row for row in await read_audit(connection, None, 2 * _AUDIT_ROWS) if row["bot_id"] is None]
            return rows.get(bot), [*audit, *around], list(rows), ""

    try:
        return context.run(ask())
    except MultibotError as error:
        return None, [], [], str(error)


def _from_journal(home: Home) -> list[dict[str, Any]]:
    """Return what the audit log will hold when the database has heard of it, newest first."""
    from datetime import UTC, datetime

    from multibot_plugin.journal import Journal

    entries = Journal(home.journal).audit()
    return [vars(e) | {"at": datetime.fromtimestamp(e.at, UTC), "bot_id": e.bot} for e in reversed(entries)]


def _read(row: Mapping[str, Any]) -> tuple[BotConfig | None, str]:
    from multibot_plugin.bots.config import BotConfig

    try:
        return BotConfig.from_row(row), ""
    except BadValue as error:
        return None, str(error)


def _known(
    context: Context, config: BotConfig | None, deployment: Deployment | None
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return launch form, target and uid, the bot's own settings and the names of its variables."""
    if config is not None:
        launch = {"launch": config.launch, "target": config.target, "uid": config.uid}
        return launch, dict(config.settings), sorted(config.env)
    if deployment is None:
        return {"launch": "", "target": "", "uid": None}, {}, []
    rendered = {**vars(deployment.settings), **deployment.live}
    fleet = context.settings.for_bot({})
    own = {s.name: rendered[s.name] for s in BOT_SETTINGS if s.name in rendered and rendered[s.name] != fleet[s.name]}
    return {name: rendered[name] for name in ("launch", "target", "uid")}, own, sorted(deployment.settings.env)


def _deployment(home: Home, bot: str) -> Deployment | None:
    from multibot_plugin.bots.files import read_deployment, read_text
    from multibot_plugin.bots.render import read_rendered

    section = read_rendered(read_text(home.rendered)).get(bot)
    return read_deployment(home, section) if section else None


def tail(path: Path, lines: int, tokens: Sequence[str] = ()) -> list[str]:
    """Return the last lines of a log, redacted (``tokens`` in every form) and harmless for a terminal.

    Nothing when it cannot be read.
    """
    try:
        file = open_log(path)
    except OSError:
        return []
    with file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LOG_TAIL))
        found = file.read().splitlines()
    if size > _LOG_TAIL:  # the first may be the rest of a line, with the rest of a token in it
        found = found[1:]
    return [read_line("", line, tokens).text for line in found[-lines:]]


def show_value(name: str, value: Any) -> str:
    """Return a setting's value for people, without the user part of a URL."""
    try:
        return str(masked(BY_NAME[name].kind.show(value))) or "none"
    except (KeyError, TypeError, ValueError):
        return str(masked(str(value)))


def masked(value: Any) -> Any:
    """Return ``value``, which may be a mapping or a list, without a password that a URL may carry."""
    if isinstance(value, Mapping):
        return {key: masked(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [masked(inner) for inner in value]
    return without_login(value) if isinstance(value, str) else value
