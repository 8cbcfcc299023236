"""A click group that knows its commands by name and imports one only when it is typed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

# Title of a section of --help -> name -> ("module:attribute" in this package, what --help says of it).
Sections = Mapping[str, Mapping[str, tuple[str, str]]]


class LazyGroup(click.Group):
    """The group of ``sections``, shown in their order; listing the commands imports none."""

    def __init__(self, *args: Any, sections: Sections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections
        self.targets = {name: target for section in sections.values() for name, (target, _) in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.targets)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.targets:
            return None
        module, _, attribute = self.targets[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"{__package__}.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            if place := self.elsewhere(error.command_name):
                text = f"No such command {error.command_name!r} (did you mean {place!r}?)"
                raise click.UsageError(text, ctx) from None
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=self.targets, ctx=ctx) from None

    def elsewhere(self, name: str) -> str:
        """Return what to type for a command that is another group's, nothing without such a one."""
        return ""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.targets))
        for title, section in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, (_, text) in section.items()])
