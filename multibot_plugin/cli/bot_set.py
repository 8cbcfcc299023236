"""``multibot bot set``: change a bot's configuration; what needs no restart takes effect without one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from multibot_plugin.bots.config import BotConfig
from multibot_plugin.cli import bot_options as given
from multibot_plugin.cli.applying import Result, apply_now, say_environment, say_result
from multibot_plugin.cli.bot_create import check_place, check_port, check_renders, outcome
from multibot_plugin.cli.output import Context, complete_bot, pass_context, say, show_json
from multibot_plugin.errors import BadValue, MultibotError

# What decides where and as whom the bot's program runs; a change of anything else needs no look at files.
_PLACE = {"python", "workdir", "user", "env_file"}


@click.command("set", cls=given.BotCommand)
@click.argument("bot", metavar="ID", shell_complete=complete_bot)
@given.launch_options
@given.token_options
@given.setting_options
@click.option("--unset", multiple=True, metavar="NAME", help="Setting that goes back to the fleet's value.")
@click.option("--unset-env", multiple=True, metavar="KEY", help="Variable that the bot gets no more.")
@click.option("--no-check", is_flag=True, help="Ask neither Telegram nor the files, user and interpreter.")
@click.option("--no-apply", is_flag=True, help="Store it; 'multibot apply' brings it into effect.")
@click.option("--json", "json_wanted", is_flag=True, help="The result as JSON.")
@pass_context
def set_bot(context: Context, /, bot: str, build: str | None, script: str | None, command_line: str | None,
            env: tuple[str, ...], unset: tuple[str, ...], unset_env: tuple[str, ...], no_check: bool,
            no_apply: bool, json_wanted: bool, **options: Any) -> int:  # fmt: skip
    """Change a bot's configuration and apply it.

    Only what is given changes, and only for this bot: what is pending for others stays so. Settings that are marked
    live in docs/settings.md take effect without a restart.
    """
    settings = given.read_settings(options)
    changes = _changes(
        bot, given.read_launch(build, script, command_line), given.read_env(env), unset_env, settings,
        given.read_unset(unset, settings), given.read_token(options, required=False),
    )  # fmt: skip
    if not changes:
        raise click.UsageError("nothing to change: give at least one option")
    if not context.run(_store(context, bot, changes, not no_check)):
        return _tell_early(bot, "nothing changed, it was so already", "none", json_wanted)
    if no_apply:
        words = f"stored; '{context.home.command('apply')}' brings it into effect"
        return _tell_early(bot, words, "stored", json_wanted)
    say_environment(context)
    result = apply_now(context, later=True, only=bot)
    say_result(context, result, besides=bot)
    return _tell(context, bot, result, json_wanted)


def _changes(bot: str, launch: tuple[str, str] | None, env: Mapping[str, str], unset_env: tuple[str, ...],
             settings: Mapping[str, Any], unset: list[str], token: str | None) -> dict[str, Any]:  # fmt: skip
    """Return what ``update_bot`` is to change."""
    from multibot_plugin.bots.check import check_token_form

    changes: dict[str, Any] = {}
    if launch is not None:
        changes["launch"], changes["target"] = launch
    if token is not None:
        check_token_form(bot, token)
        changes["token"] = token
    both = set(env) & set(unset_env)
    if both:
        raise click.UsageError(f"{', '.join(sorted(both))} cannot be set and unset at once")
    if env or unset_env:
        changes["env"] = {**env, **dict.fromkeys(unset_env)}
    if settings or unset:
        changes["settings"] = {**settings, **dict.fromkeys(unset)}
    return changes


async def _store(context: Context, bot: str, changes: dict[str, Any], check: bool) -> bool:
    """Check the changed bot and store it, all or nothing; return whether that changed anything."""
    from multibot_plugin.bots.store import fetch_bot, fetch_bots, update_bot
    from multibot_plugin.bots.uids import allot
    from multibot_plugin.database.pool import translated

    async with context.database() as connection:
        before = await fetch_bot(connection, bot)
        rows = [row for row in await fetch_bots(connection) if row["id"] != bot]
        _known(before, changes)
        config = BotConfig.from_row(merged(before, changes))
        values = context.settings.for_bot(config.settings)
        _check_token(config, values, rows, changes, check)
        if "port" in changes.get("settings", {}):
            check_port(context, config, values, rows, check)
        with translated(connection):
            async with connection.transaction():
                if os.geteuid() == 0 and not values["user"] and config.uid is None:
                    uid = await allot(connection, context.settings["bot_uid_range"], context.home)
                    changes = changes | {"uid": uid}
                    config = BotConfig.from_row(merged(before, changes))
                if _concerns_place(changes):
                    check_place(context, config, values, check)
                after = await update_bot(connection, context.actor, bot, changes)
                check_renders(context, [*rows, after], bot)
    return bool(after["config_version"] != before["config_version"])


def merged(row: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``row`` as it will be after ``changes`` (as ``update_bot`` takes them). Pure."""
    new = {**row, **{name: value for name, value in changes.items() if name not in ("env", "settings")}}
    for name in ("env", "settings"):
        old = row[name] if isinstance(row[name], Mapping) else {}
        new[name] = {k: v for k, v in {**old, **changes.get(name, {})}.items() if v is not None}
    return new


def _known(row: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Raise for a variable to unset that the bot does not have."""
    from multibot_plugin.errors import did_you_mean

    for name, value in changes.get("env", {}).items():
        if value is None and isinstance(row["env"], Mapping) and name not in row["env"]:
            raise BadValue(f"bot {row['id']!r} has no variable {name!r} to unset{did_you_mean(name, row['env'])}")


def _check_token(config: BotConfig, values: Mapping[str, Any], rows: list[Any], changes: Mapping[str, Any],
                 check: bool) -> None:  # fmt: skip
    from multibot_plugin.bots import check as checks
    from multibot_plugin.bots.telegram import check_token

    if "token" in changes:
        checks.check_token_free(config.id, config.token, rows)
    if check and ("token" in changes or "bot_api_url" in changes.get("settings", {})):
        check_token(config.token, values["bot_api_url"])


def _concerns_place(changes: Mapping[str, Any]) -> bool:
    return bool({"launch", "env", "uid"} & changes.keys() or _PLACE & changes.get("settings", {}).keys())


def _tell_early(bot: str, words: str, effect: str, json_wanted: bool) -> int:
    """Say how it ended where nothing was applied."""
    if json_wanted:
        show_json({"bot": {"id": bot, "effect": effect, "changed": {}, "result": words, "ok": True}})
    say(f"{bot}: {words}")
    return 0


def _tell(context: Context, bot: str, result: Result, json_wanted: bool) -> int:
    change = next((c for c in result.plan.changed if c.bot == bot), None)
    for difference in change.differences if change else ():
        say(f"{bot}: {difference.name} {difference.text}{' (live)' if difference.live else ''}")
    ok, state = outcome(context, bot, result, result.begun(bot))
    effect = str(change.effect) if change else "new" if bot in result.plan.added else "none"
    if json_wanted:
        differences = {d.name: d.text for d in change.differences} if change else {}
        show_json({"bot": {"id": bot, "effect": effect, "changed": differences, "result": state, "ok": ok}})
    if not ok:
        raise MultibotError(f"{bot} is changed, but {state}")
    say(f"{bot}: {_words(effect, state, result, bot)}")
    return 0 if result.ok else 1


def _words(effect: str, state: str, result: Result, bot: str) -> str:
    if result.away is not None:
        return f"stored, {state}"
    if result.begun(bot):
        again = result.applied is not None and bot in result.applied.restarted
        return f"{'restarted' if again else 'started'}, {state}"
    if result.left_stopped(bot):
        return f"changed, {state}"
    later = "takes effect at its next start"
    words = {"live": "in effect, without a restart", "at its next start": later, "restart": later}  # it has finished
    return words.get(effect, "nothing to do")
