"""``multibot bot run`` and ``bot exec``: a bot in this terminal, a command as the bot.

Both need neither database nor supervisord: they take what is rendered. This process becomes the runner, which becomes
the bot's user; root's runs it in a terminal of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from multibot_plugin.cli.output import Context, complete_bot, pass_context, say
from multibot_plugin.cli.start import environment as inherited
from multibot_plugin.cli.terminal import controlling
from multibot_plugin.cli.terminal import run as run_in_its_own
from multibot_plugin.errors import NoSuchBot, Refused, SupervisordAway
from multibot_plugin.health.lifecycle import Act, Event, decide, state_of
from multibot_plugin.home import Home, check_installed, check_owner

if TYPE_CHECKING:
    from multibot_plugin.bots.config import Deployment

_OF_A_TERMINAL = ("TERM", "COLORTERM")


@click.command("run")
@click.argument("bot", metavar="ID", shell_complete=complete_bot)
@click.option("--no-check", is_flag=True, help="Do not look whether files, user and interpreter are right.")
@pass_context
def run(context: Context, bot: str, no_check: bool) -> NoReturn:
    """Run a stopped bot in this terminal, to debug it; Ctrl-C ends it.

    It has its real settings, user, directory and token, and your shell's environment where supervisord's would be (of
    root's only PATH, language, zone, terminal and proxies). It is started once: no backoff, and its end counts for
    nothing. Exit code: the bot's own; 6 where it runs elsewhere.
    """
    deployment = _rendered(context, bot)
    _refuse_elsewhere(context, bot)
    if not no_check:
        _check(context, deployment)
    say(f"{bot} runs in this terminal ({deployment.settings.launch} {deployment.settings.target}); Ctrl-C ends it")
    _become_runner(context.home, "--run", deployment)


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("bot", metavar="ID", shell_complete=complete_bot)
@click.argument("words", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_context
def execute(context: Context, bot: str, words: tuple[str, ...]) -> NoReturn:
    """Run a command as the bot: its user, directory, variables, token, and its interpreter first in PATH.

    For example 'multibot bot exec shop -- python -m pip list'. The bot may run meanwhile. Exit code: the command's own;
    127 where it is not found, 126 where it cannot be run.
    """
    words = words[1:] if words[0] == "--" else words
    if not words:
        raise click.UsageError("which command? 'bot exec ID -- CMD...'")
    _become_runner(context.home, "--exec", _rendered(context, bot), words)


def _rendered(context: Context, bot: str) -> Deployment:
    """Return what is rendered of a bot; raises NoSuchBot, Refused."""
    from multibot_plugin.bots.files import read_deployment, read_text
    from multibot_plugin.bots.render import read_rendered

    check_installed(context.home)
    if os.geteuid() != 0:
        check_owner(context.home)
    sections = read_rendered(read_text(context.home.rendered))
    if bot not in sections:
        if bot in _stored(context):
            raise Refused(f"bot {bot!r} is not applied yet: run '{context.home.command('apply')}'")
        raise NoSuchBot(bot, sections)
    deployment = read_deployment(context.home, sections[bot])
    if deployment is None:
        raise Refused(f"the files of bot {bot!r} are missing or damaged: run '{context.home.command('apply')}'")
    return deployment


def _stored(context: Context) -> set[str]:
    from multibot_plugin.cli.applying import fetch
    from multibot_plugin.errors import MultibotError

    try:
        return {str(row["id"]) for row in context.run(fetch(context))}
    except MultibotError:
        return set()


def _refuse_elsewhere(context: Context, bot: str) -> None:
    """Raise Refused where supervisord runs the bot; what it does not know of, the bot's lock does."""
    try:
        with context.supervisor() as supervisor:
            row = supervisor.row(bot)
    except (SupervisordAway, NoSuchBot):
        return
    cell = decide(state_of(row), Event.RUN)
    if cell.act == Act.REFUSE:
        pid = f" (pid {row['pid']})" if row["pid"] else ""
        raise Refused(f"bot {bot!r} {cell.words}{pid}: run '{context.home.command(f'bot stop {bot}')}' first")


def _check(context: Context, deployment: Deployment) -> None:
    """Look, as 'bot create' does, whether the bot can run; raises BadValue, Refused."""
    from multibot_plugin.bots.config import BotConfig
    from multibot_plugin.cli.bot_create import check_place

    settings = deployment.settings
    config = BotConfig(
        deployment.id, deployment.autostart, settings.launch, settings.target, deployment.token, settings.env,
        uid=settings.uid,
    )  # fmt: skip
    check_place(context, config, vars(settings), True)


def _become_runner(home: Home, how: str, deployment: Deployment, words: Sequence[str] = ()) -> NoReturn:
    """Replace this process by the runner; neither its command line nor its environment holds a secret.

    As root the bot's user is another one: it gets neither our terminal nor what may be secret in our environment.
    """
    runner = [sys.executable, "-P", "-m", "multibot_runner", how, deployment.id, deployment.digest, *words]
    root = os.geteuid() == 0
    ours = {**inherited(), **{k: os.environ[k] for k in _OF_A_TERMINAL if k in os.environ}} if root else os.environ
    environment = {**ours, **{name: str(path) for name, path in home.variables.items()}}
    sys.stdout.flush()
    sys.stderr.flush()
    terminal = controlling() if root else None
    if terminal is not None:
        run_in_its_own(terminal, runner, environment)
    os.execve(sys.executable, runner, environment)  # noqa: S606
