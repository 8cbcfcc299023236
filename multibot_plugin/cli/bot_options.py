"""What ``bot create`` and ``bot set`` have in common: their options, and how these become a configuration."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from multibot_plugin.cli.output import say
from multibot_plugin.errors import BadValue, did_you_mean
from multibot_plugin.kinds import PATH
from multibot_plugin.settings import BOT_SETTINGS, BY_NAME, Setting, read_value
from multibot_runner.redact import redact

_F = TypeVar("_F", bound=Callable[..., Any])
TOKEN_WAYS = "--token-file PATH, --token-stdin or --token-env NAME"  # noqa: S105 - a hint
_LONGEST_TOKEN = 4096
_METAVARS = {"size": "SIZE", "seconds": "TIME", "count": "N", "url": "URL", "path": "PATH", "variable": "NAME"}
_SPECIAL_METAVARS = {"user": "NAME", "python": "INTERPRETER", "workdir": "DIR", "env_file": "FILE"}


# The sections of --help; what is in none stands under "Other".
_SECTIONS = {
    "What it runs": ("build", "script", "command_line", "python", "workdir", "user"),
    "Token": ("token_file", "token_stdin", "token_env", "token", "token_var"),
    "Environment": ("env", "unset_env", "env_file"),
    "Telegram": ("bot_api_url", "receives", "poll_timeout_s", "port", "webhook_url", "webhook_listen"),
    "Life and death": (
        "stop_wait_s", "restart", "backoff_max_s", "backoff_reset_s", "quarantine_after", "quarantine_retry_s",
        "deaths_limit", "deaths_window_s",
    ),
    "Health and memory": (
        "deaf_after_s", "frozen_after_s", "slow_after_s", "start_grace_s", "watchdog_s", "restart_budget",
        "memory_limit", "memory_warning_percent", "memory_clear_percent", "memory_for_s",
    ),
    "Log": ("log_format", "log_max_size", "log_backups", "log_keep_s", "log_rate"),
}  # fmt: skip
_OTHER = "Other"


class BotCommand(click.Command):
    """A command whose many options are shown in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
        records = {option.name or "": record for option in options if (record := option.get_help_record(ctx))}
        sections = {title: [records.pop(name) for name in names if name in records]
                    for title, names in _SECTIONS.items()}  # fmt: skip
        for title, rows in (sections | {_OTHER: list(records.values())}).items():
            with formatter.section(title):
                formatter.write_dl(rows)


def launch_options(command: _F) -> _F:
    """Add ``--build``, ``--script`` and ``--command``."""
    for option in (
        click.option("--command", "command_line", metavar='"PROGRAM ARGS"', help="Any program that polls by itself."),
        click.option("--script", metavar='"FILE ARGS"', help="An unchanged Python script (or '-m PACKAGE ARGS')."),
        click.option(
            "--build",
            metavar="MODULE:FUNCTION",
            help="A function build(builder) that returns an Application, or register(application).",
        ),
    ):
        command = option(command)
    return command


def token_options(command: _F) -> _F:
    """Add the ways to give a token."""
    for option in (
        click.option("--token", metavar="TOKEN", help="The token itself; other users of this machine can see it."),
        click.option("--token-env", metavar="NAME", help="Environment variable (of this command) that holds it."),
        click.option("--token-stdin", is_flag=True, help="Read it from standard input (a terminal asks, hidden)."),
        click.option("--token-file", metavar="PATH", help="File that holds the bot's token."),
    ):
        command = option(command)
    return command


def setting_options(command: _F) -> _F:
    """Add an option for every setting a bot can have, and ``--env``."""
    for setting in reversed(BOT_SETTINGS):
        metavar = _SPECIAL_METAVARS.get(setting.name) or _METAVARS.get(setting.kind.name, "TEXT")
        if setting.kind.name == "choice":
            metavar = setting.kind.expected.removeprefix("one of ").replace(", ", "|")
        default = f" (default {setting.kind.show(setting.default)})" if setting.default else ""
        text = f"{setting.help[:1].upper()}{setting.help[1:]}{default}."
        command = click.option(flag(setting), setting.name, metavar=metavar, help=text)(command)
    add_env = click.option(
        "--env",
        "env",
        multiple=True,
        metavar="KEY=VALUE",
        help="Variable for the bot; may be repeated. Other users can see it here: secrets go into --env-file.",
    )
    return add_env(command)


def flag(setting: Setting) -> str:
    """Return the option of a setting: ``--memory-limit``."""
    return "--" + setting.name.replace("_", "-")


# --- token -----------------------------------------------------------------------------------------------------


def read_token(options: Mapping[str, Any], required: bool) -> str | None:
    """Return the token that the token options name; None without one and not ``required``.

    Required and none given: asked for on a terminal, else a usage error that names the options.
    """
    given = [name for name in ("token_file", "token_stdin", "token_env", "token") if options[name]]
    if len(given) > 1:
        raise click.UsageError("give the token in one way only")
    if not given:
        if not required:
            return None
        if not sys.stdin.isatty():
            raise click.UsageError(f"a token is needed: {TOKEN_WAYS}")
        return _prompt()
    if given[0] == "token_file":
        return _from_file(options["token_file"])
    if given[0] == "token_stdin":
        return _prompt() if sys.stdin.isatty() else sys.stdin.read(_LONGEST_TOKEN).strip()
    if given[0] == "token_env":
        return _from_environment(options["token_env"])
    say("warning: other users of this machine can see a token on the command line (ps) and it stays in the shell's"
        f" history: use {TOKEN_WAYS}")  # fmt: skip
    return str(options["token"]).strip()


def _prompt() -> str:
    return str(click.prompt("Token from @BotFather (hidden)", hide_input=True, err=True)).strip()


def _from_file(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(_LONGEST_TOKEN).strip()
    except OSError as error:
        raise BadValue(f"token file {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise BadValue(f"token file {path}: not text") from None


def _from_environment(name: str) -> str:
    if not os.environ.get(name):
        raise BadValue(f"--token-env {name}: this variable is not set")
    return os.environ[name].strip()


# --- launch, settings, environment -----------------------------------------------------------------------------


def read_launch(build: str | None, script: str | None, command_line: str | None) -> tuple[str, str] | None:
    """Return launch form and target, paths made absolute; None when none is given, a usage error for several."""
    given = {"build": build, "script": script, "command": command_line}
    chosen = {name: value for name, value in given.items() if value is not None}
    if len(chosen) > 1:
        raise click.UsageError("give one of --build, --script and --command")
    if not chosen:
        return None
    ((launch, target),) = chosen.items()
    if launch == "command" and redact(target) != target:
        say("warning: the command holds something like a token, and other users of this machine can see a command"
            " (ps): let the program read it from BOT_TOKEN (--token-var names another variable)")  # fmt: skip
    return launch, {"build": _absolute_build, "script": _absolute_script, "command": _absolute_command}[launch](target)


def absolute(path: str) -> str:
    """Return a path as it is from everywhere; links stay (a venv's interpreter is one)."""
    return os.path.abspath(path) if path else path


def _absolute_script(target: str) -> str:
    """Make the script's path absolute and quote it; a file's name that holds blanks need not be quoted twice."""
    if not target.isprintable():
        return target  # refused later
    if target.strip() and os.path.exists(target):
        return shlex.quote(absolute(target))
    try:
        words = shlex.split(target)
    except ValueError:
        return target  # refused later, with the reason
    _note_files(words[1:])
    if words[:1] in ([], ["-m"]):
        return shlex.join(words)
    if words[1:] and not os.path.exists(words[0]):
        say(f"note: {words[0]!r} is taken for the script and the rest for its arguments: quote a path with blanks")
    return shlex.join([absolute(words[0]), *words[1:]])


def _absolute_build(target: str) -> str:
    place, colon, function = target.rpartition(":")
    return f"{absolute(place)}:{function}" if colon and ("/" in place or place.endswith(".py")) else target


def _absolute_command(line: str) -> str:
    """Make the program's path absolute; words after it are left alone, but a file among them is worth a word."""
    try:
        words = shlex.split(line)
    except ValueError:
        return line  # refused later, with the reason
    _note_files(words[1:])
    if words and "/" in words[0] and not words[0].startswith("/"):
        return shlex.join([absolute(words[0]), *words[1:]])
    return line


def _note_files(words: list[str]) -> None:
    for word in words:
        if not word.startswith(("-", "/")) and "." in word and Path(word).is_file():
            say(f"note: {word!r} is looked for in the bot's working directory, not here: write {absolute(word)!r},"
                f" or --workdir {shlex.quote(os.getcwd())}")  # fmt: skip


def read_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that were given, checked; paths made absolute."""
    given = {s.name: options[s.name] for s in BOT_SETTINGS if options[s.name] is not None}
    for name, value in given.items():
        if BY_NAME[name].kind is PATH:
            given[name] = _interpreter(value) if name == "python" else absolute(value)
    return {name: read_value(BY_NAME[name], value) for name, value in given.items()}


def _interpreter(value: str) -> str:
    """Return an interpreter's path: a bare name (python3.12) is looked for in PATH, as a shell does."""
    found = shutil.which(value) if value and "/" not in value else None
    return absolute(found or value)


def read_env(pairs: tuple[str, ...]) -> dict[str, str]:
    """Return the variables of ``--env KEY=VALUE``; an error names the key and never the value."""
    env: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError("--env needs KEY=VALUE")
        if key in env:
            raise click.UsageError(f"--env {key} is given twice")
        env[key] = value
    return env


def read_unset(names: tuple[str, ...], given: Mapping[str, Any]) -> list[str]:
    """Return the settings to go back to their default; raises for an unknown one or one that is also set."""
    allowed = {s.name for s in BOT_SETTINGS}
    wanted = [name.removeprefix("--").replace("-", "_") for name in names]
    for name in wanted:
        if name not in allowed:
            raise BadValue(f"no setting {name!r} for a bot{did_you_mean(name, allowed)}")
        if name in given:
            raise click.UsageError(f"{name} cannot be set and unset at once")
    return wanted
