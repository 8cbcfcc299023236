"""``multibot bot create``: asked and checked first, written in one transaction, applied, watched until it runs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from multibot_plugin.bots.config import BotConfig
from multibot_plugin.cli import bot_options as given
from multibot_plugin.cli.applying import LEFT_STOPPED, Result, apply_now, say_environment, say_result, taken
from multibot_plugin.cli.bot_watch import watch
from multibot_plugin.cli.output import Context, one_line, pass_context, say, show_json
from multibot_plugin.cli.wishes import outlast, wish_waits
from multibot_plugin.errors import BadValue, MultibotError, Refused

if TYPE_CHECKING:
    from multibot_plugin.bots.identity import Identity
    from multibot_plugin.bots.telegram import TelegramBot


@click.command(cls=given.BotCommand)
@click.argument("bot", metavar="ID")
@given.launch_options
@given.token_options
@given.setting_options
@click.option("--no-check", is_flag=True, help="Ask neither Telegram nor the files, user and interpreter.")
@click.option("--no-start", is_flag=True, help="Store it without starting it.")
@click.option("--json", "json_wanted", is_flag=True, help="The result as JSON.")
@pass_context
def create(context: Context, /, bot: str, build: str | None, script: str | None, command_line: str | None,
           env: tuple[str, ...], no_check: bool, no_start: bool, json_wanted: bool, **options: Any) -> int:  # fmt: skip
    """Store a new bot and start it.

    ID is 1 to 39 of a-z, 0-9 and '-'. One of --build, --script and --command says what runs, one of the --token
    options gives its token (a terminal is asked). Everything is checked before anything is written.
    """
    launch = given.read_launch(build, script, command_line)
    if launch is None:
        raise click.UsageError("what runs? One of --build MODULE:FUNCTION, --script FILE, --command 'PROGRAM ARGS'")
    draft = _draft(
        bot, taken(context), launch, given.read_env(env), given.read_settings(options), not no_start, options
    )
    waited = wish_waits(context)  # one that was about a bot of this name before
    config, telegram = context.run(_store(context, draft, not no_check))
    outlast(context, [bot], draft.enabled, waited)
    say_environment(context)
    result = apply_now(context, later=True, only=bot)
    say_result(context, result, besides=bot)
    return _tell(context, config, telegram, result, json_wanted)


def _draft(bot: str, occupied: Collection[str], launch: tuple[str, str], env: dict[str, str], settings: dict[str, Any],
           enabled: bool, options: Mapping[str, Any]) -> BotConfig:  # fmt: skip
    from multibot_plugin.bots.check import check_id, check_token_form
    from multibot_plugin.supervisor.faults import foreign

    check_id(bot)
    if bot in occupied:
        raise Refused(f"{foreign(bot)}: choose another id")
    token = given.read_token(options, required=True) or ""
    check_token_form(bot, token)
    draft = BotConfig(bot, enabled, *launch, token, env, settings)
    draft.check()
    return draft


async def _store(context: Context, draft: BotConfig, check: bool) -> tuple[BotConfig, TelegramBot | None]:
    """Check the draft and insert it, with a user id of its own where it needs one; all or nothing."""
    from multibot_plugin.bots import check as checks
    from multibot_plugin.bots.store import fetch_bots, insert_bot
    from multibot_plugin.bots.telegram import check_token
    from multibot_plugin.bots.uids import allot
    from multibot_plugin.database.pool import translated

    values = context.settings.for_bot(draft.settings)
    async with context.database() as connection:
        rows = await fetch_bots(connection)
        if any(row["id"] == draft.id for row in rows):
            remedy = context.home.command(f"bot set {draft.id} ...")
            raise Refused(f"bot {draft.id!r} exists already: change it with '{remedy}', or choose another id")
        checks.check_token_free(draft.id, draft.token, rows)
        check_port(context, draft, values, rows, check)
        telegram = check_token(draft.token, values["bot_api_url"]) if check else None
        with translated(connection):
            async with connection.transaction():
                config = draft
                if os.geteuid() == 0 and not values["user"]:
                    uid = await allot(connection, context.settings["bot_uid_range"], context.home)
                    config = replace(draft, uid=uid)
                check_place(context, config, values, check)
                row = await insert_bot(connection, context.actor, config)
                check_renders(context, [*rows, row], draft.id)
    return config, telegram


def check_port(context: Context, config: BotConfig, values: Mapping[str, Any], rows: list[Any], check: bool) -> None:
    """Raise unless the bot's port is its own (``check`` False: who listens there now is not asked)."""
    from multibot_plugin.bots.ports import check_port_free, check_port_unused

    check_port_free(config.id, values["port"], rows)
    if check:
        check_port_unused(context.home, config.id, values["port"])


def check_place(context: Context, config: BotConfig, values: Mapping[str, Any], check: bool) -> None:
    """Raise unless the bot can run as its user from its files (``check`` False: only the user must exist)."""
    from multibot_plugin.bots.check import check_launch
    from multibot_plugin.bots.identity import identify
    from multibot_plugin.bots.leftovers import check_terminal

    who = identify(values["user"], config.uid)
    check_terminal(context.home.bot(config.id), who.uid)
    work = context.home.bot(config.id).work
    if check:
        check_launch(config, values, who, work)
        if values["workdir"]:
            _mention_closed(Path(values["workdir"]), who)
    _mention_leftovers(work, who)


def _mention_closed(workdir: Path, who: Identity) -> None:
    """Say a word when the bot could write no file where it runs: many do (a database, a session), not all."""
    from multibot_plugin.bots.identity import may_write

    if not may_write(who, workdir):
        say(f"note: {who} may not write to {workdir}, where it runs; if it keeps files there:"
            f" chown -R {who.uid}:{who.gid} {shlex.quote(str(workdir))}")  # fmt: skip


def _mention_leftovers(work: Path, who: Identity) -> None:
    """Say a word when the bot's working directory is there already and its files are somebody else's."""
    try:
        owner = work.stat().st_uid
    except OSError:
        return
    if owner != who.uid:
        say(f"note: what is in {work} from before belongs to uid {owner}, and the bot will be {who}: remove it,"
            f" or chown -R {who.uid}:{who.gid} {work}")  # fmt: skip


def check_renders(context: Context, rows: list[Any], bot: str) -> None:
    """Raise BadValue when the new row of ``bot`` could not be rendered; the transaction then leaves nothing."""
    from multibot_plugin.bots.apply import load

    problem = load(context.home, context.settings, rows).problems.get(bot)
    if problem:
        raise BadValue(problem)


def _tell(context: Context, config: BotConfig, telegram: TelegramBot | None, result: Result,
          json_wanted: bool) -> int:  # fmt: skip
    """Wait until the bot has started and say how it is and what to type next; return the exit code."""
    ok, state = outcome(context, config.id, result, config.enabled)
    if json_wanted:
        show_json({"bot": {"id": config.id, "launch": config.launch, "target": config.target, "uid": config.uid,
                           "enabled": config.enabled, "username": telegram.username if telegram else None,
                           "result": state, "ok": ok}})  # fmt: skip
    name = f" (@{one_line(telegram.username)})" if telegram and telegram.username else ""
    user = config.settings.get("user")
    runs_as = f", as {user}" if user else f", uid {config.uid}" if config.uid is not None else ""
    if not ok:
        raise MultibotError(f"{config.id} is stored, but {state}")
    say(f"{config.id}{name} created: {config.launch}{runs_as}, {state}; see '{_show(context, config.id)}'")
    return 0 if result.ok else 1


def _show(context: Context, bot: str) -> str:
    return context.home.command(f"bot show {bot}")


def outcome(context: Context, bot: str, result: Result, starting: bool) -> tuple[bool, str]:
    """Return whether the bot is as it was wished, and a few words for it.

    ``starting``: it should be, by this apply or somebody else's at the same moment; then it is waited for.
    """
    failure = result.failure(bot)
    if failure:
        return False, f"{failure.rstrip(' .:')}: see '{context.home.command(f'logs {bot}')}'"
    if result.away is not None:
        return True, f"starts with supervisord ('{context.home.command('start')}')"
    if result.left_stopped(bot):
        return True, LEFT_STOPPED
    if not starting:
        return True, f"not started ('{context.home.command(f'bot start {bot}')}')"
    with context.supervisor() as supervisor:
        verdict = watch(context.home, supervisor, bot)
    return verdict.ok, verdict.told
