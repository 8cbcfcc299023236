"""``multibot bot delete``: the bot is stopped and forgotten; its files stay unless they are told to go."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from multibot_plugin.bots.leftovers import end_left
from multibot_plugin.cli.applying import apply_now, say_result
from multibot_plugin.cli.output import Context, complete_bot, confirm, pass_context, say, show_json
from multibot_plugin.cli.start import is_running
from multibot_plugin.errors import MultibotError


@click.command()
@click.argument("bot", metavar="ID", shell_complete=complete_bot)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--purge", is_flag=True, help="Remove its working directory and logs, too.")
@click.option("--json", "json_wanted", is_flag=True, help="The result as JSON.")
@pass_context
def delete(context: Context, bot: str, yes: bool, purge: bool, json_wanted: bool) -> int:
    """Stop a bot and forget its configuration, token included.

    Its working directory and logs stay where they are; --purge removes them.
    """
    context.run(_check(context, bot))
    kept = "Its working directory and logs are removed, too." if purge else "Its working directory and logs are kept."
    confirm(f"Stop {bot!r} and forget its configuration and token? {kept}", yes)
    context.run(_remove(context, bot))
    result = apply_now(context, later=True, only=bot)
    say_result(context, result, besides=bot)
    running = result.away is not None and is_running(context.home)
    if result.away is not None and not running:
        end_left(context.home, bot)  # a run in a terminal, which the next bot of this name would not see
    failure = result.failure(bot)
    if failure:
        raise MultibotError(f"{bot} is deleted, but still there: {failure}: run '{context.home.command('apply')}'")
    if purge:
        if running:
            raise MultibotError(f"{bot} is deleted, but may still run, so its files are kept: {result.away}")
        _purge(context, bot)
    left = [str(path) for path in (context.home.bot(bot).work, context.home.bot_log(bot)) if path.exists()]
    if left:
        say(f"{bot} deleted; kept: {' and '.join(left)} (--purge would have removed them)")
    else:
        say(f"{bot} deleted, with its working directory and logs" if purge else f"{bot} deleted")
    if json_wanted:
        show_json({"bot": {"id": bot, "deleted": True, "kept": left}})
    return 0 if result.ok else 1


async def _check(context: Context, bot: str) -> None:
    from multibot_plugin.bots.store import fetch_bot

    async with context.database() as connection:
        await fetch_bot(connection, bot)


async def _remove(context: Context, bot: str) -> None:
    from multibot_plugin.bots.store import delete_bot

    async with context.database() as connection:
        await delete_bot(connection, context.actor, bot)


def _purge(context: Context, bot: str) -> None:
    """Remove a stopped bot's files. rmtree follows no link out of a directory that the bot owned."""
    paths = context.home.bot(bot)
    log = context.home.bot_log(bot)
    places: list[Path] = [paths.state_dir, paths.run_dir, log, *(log.parent.glob(f"{log.name}.[0-9]*"))]
    for place in places:
        try:
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
        except OSError as error:
            raise MultibotError(f"{bot} is deleted, but {place} cannot be removed: {error.strerror}") from error
