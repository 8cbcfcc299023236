"""``multibot bot``: one bot's configuration and life. Each command is a module of its own, imported when typed."""

from __future__ import annotations

import importlib

import click

# Name -> (where it is, what --help says of it), in the order of --help.
COMMANDS: dict[str, tuple[str, str]] = {
    "create": ("multibot_plugin.cli.bot_create:create", "store a new bot and start it"),
    "show": ("multibot_plugin.cli.bot_show:show_bot", "everything about one bot, and what to do next"),
    "set": ("multibot_plugin.cli.bot_set:set_bot", "change a bot's configuration"),
    "delete": ("multibot_plugin.cli.bot_delete:delete", "stop a bot and forget its configuration"),
    "start": ("multibot_plugin.cli.bot_power:start", "start bots, now and whenever the system starts"),
    "stop": ("multibot_plugin.cli.bot_power:stop", "stop bots, until they are started again"),
    "restart": ("multibot_plugin.cli.bot_power:restart", "stop and start bots"),
}


class BotGroup(click.Group):
    """The group of ``COMMANDS``; listing them imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=BotGroup, no_args_is_help=True)
def bot() -> None:
    """Create, show, change, delete, start and stop bots."""
