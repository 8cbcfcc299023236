"""``multibot bot``: one bot's configuration and life. Each command is a module of its own, imported when typed."""

from __future__ import annotations

import click

from multibot_plugin.cli.lazy import LazyGroup

COMMANDS = {
    "Commands": {
        "create": ("bot_create:create", "store a new bot and start it"),
        "show": ("bot_show:show_bot", "everything about one bot, and what to do next"),
        "set": ("bot_set:set_bot", "change a bot's configuration"),
        "delete": ("bot_delete:delete", "stop a bot and forget its configuration"),
        "start": ("bot_power:start", "start bots, now and whenever the system starts"),
        "stop": ("bot_power:stop", "stop bots, until they are started again"),
        "restart": ("bot_power:restart", "stop and start bots"),
        "run": ("bot_foreground:run", "run a stopped bot in this terminal, to debug it"),
        "exec": ("bot_foreground:execute", "run a command as the bot: its user, directory, variables, interpreter"),
    }
}


class Bots(LazyGroup):
    """The group of the commands for single bots."""

    def elsewhere(self, name: str) -> str:
        from multibot_plugin.cli import COMMANDS as ROOT

        return f"multibot {name}" if any(name in section for section in ROOT.values()) else ""


@click.group(cls=Bots, sections=COMMANDS, no_args_is_help=True)
def bot() -> None:
    """Create, show, change, delete, start, stop and debug bots."""
