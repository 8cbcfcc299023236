"""``multibot demo``: the whole product once, on this machine. It types the same commands as a person would."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import click

from multibot_plugin.cli.init import ACCOUNT
from multibot_plugin.cli.output import Context, pass_context
from multibot_plugin.database.account import make_account
from multibot_plugin.errors import MultibotError, Refused
from multibot_plugin.home import Home, find_home
from multibot_plugin.sandbox.client import Sandbox
from multibot_plugin.supervisor.client import Supervisor

_T = TypeVar("_T")
_ALERTS_CHAT = 2002
_WIDTH = 48
_PATIENCE_S = 60.0


@click.command()
@click.option("--stop", is_flag=True, help="End the demo: stop everything and leave no process.")
@pass_context
def demo(context: Context, stop: bool) -> None:
    """Show everything once: three bots, a crash, a deaf bot, its alert and recovery; leave it running.

    Nothing leaves this machine: a local Bot API server plays Telegram. All state is below one directory
    (.demo, or --home DIR), which is written anew.
    """
    home = context.home if context.names_home else find_home(_default_directory())
    show = Demo(home)
    if stop:
        show.end()
        click.echo("demo stopped; nothing of it is running")
        return
    show.begin()
    show.install()
    show.converse()
    show.kill()
    show.deafen()
    show.close()


def _default_directory() -> str:
    """Return ``.demo``, or where other user ids can reach it when root stands in a closed directory."""
    closed = any(not folder.stat().st_mode & 0o001 for folder in (Path.cwd(), *Path.cwd().parents))
    return "/var/lib/multibot-demo/home" if os.geteuid() == 0 and closed else ".demo"


class Demo:
    """One run of the demo against one home. Each public method is a scene."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.marker = home.config / ".multibot-demo"
        self.sandbox = Sandbox("http://127.0.0.1")

    # --- scenes ----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Clear the stage: end an earlier demo and remove what it left; never touch a directory of others."""
        click.echo("multibot demo: three bots, a local Telegram server, PostgreSQL, supervisord. "
                   "Nothing leaves this machine.\n")  # fmt: skip
        if self.home.config.exists() and not self.marker.exists() and any(self.home.config.iterdir()):
            raise Refused(f"{self.home.config} is not the demo's: name an empty directory by --home")
        self.end()
        shutil.rmtree(self.home.run, ignore_errors=True)
        shutil.rmtree(self.home.config, ignore_errors=True)
        self.home.config.mkdir(parents=True, mode=0o755)
        self.marker.touch()

    def install(self) -> None:
        """``init``, ``start``, and three bots, each created by the command that a person would type."""
        with step("PostgreSQL (embedded)"):
            told = self.run("init", "--yes")
        for line in told.splitlines():
            if "userdel" in line:
                click.echo(f"  {line.strip()}")
        self._add_sandbox()
        with step("supervisord + multibot"):
            self.run("start")
            wait_for(self._sandbox_answers, "the local Telegram server")
        demo = Path(str(next(iter(find_spec("multibot_demo").submodule_search_locations or ()))))  # type: ignore[union-attr]
        self.sandbox.register(self._token("alerts"), "alerts")
        self.sandbox.add_chat(_ALERTS_CHAT, "you")
        # Short windows, so that nobody has to wait a minute for the deaf bot.
        self.create(
            "greeter", "--build", "multibot_demo.greeter:build", "--poll-timeout-s", "3s", "--deaf-after-s", "9s"
        )
        self.create("echo", "--script", str(demo / "echo.py"))
        self.create("dice", "--command", shlex.join([_any_python(), str(demo / "dice.py")]))
        click.echo("  bots created: greeter (build), echo (script), dice (command)")
        with step("all three polling"):
            for bot in ("greeter", "echo", "dice"):
                self._wait_polling(bot)
        click.echo()

    def converse(self) -> None:
        self.talk("greeter", "/start")
        self.talk("echo", "is anybody there?")
        self.talk("dice", "roll")
        click.echo()

    def kill(self) -> None:
        """kill -9 the script bot; supervisord and the runner bring it back."""
        pid = self._pid("echo")
        before = self.sandbox.counters("echo").polls
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        wait_for(
            lambda: self.sandbox.counters("echo").polls > before and self._pid("echo") != pid, "echo to poll again"
        )
        self._wait_polling("echo")
        click.echo(f"  {dotted(f'kill -9 of echo (pid {pid})')} polling again after {time.monotonic() - began:.1f} s")
        self.talk("echo", "still there?")
        click.echo()

    def deafen(self) -> None:
        """Let the build bot's polls hang: its process lives and hears nothing. The monitor has to notice."""
        self._wait_healthy("greeter")
        after = self.sandbox.last()
        self.sandbox.fault("greeter", hang=True, for_s=3600)
        click.echo("  greeter's polls now hang (with windows of seconds instead of a minute) ...")
        self._alert("deaf", after)
        self.sandbox.clear("greeter")
        self._alert("well again", after)
        self.talk("greeter", "are you well?")
        click.echo()

    def close(self) -> None:
        """Show the table and what to type next."""
        for bot in ("dice", "echo", "greeter"):
            self._wait_healthy(bot)
        wait_for(
            lambda: self._row("greeter")["last_update_age_s"] is not None, "the monitor to see greeter's last update"
        )
        click.echo("".join(f"  {line}\n" for line in self.run("list").splitlines()))
        multibot = f"{_program('multibot')} {self.home.option}".rstrip()
        ctl = f"{_program('supervisorctl')} -c {_short(self.home.supervisord_conf)}"
        end = "make demo-stop" if "MAKELEVEL" in os.environ else f"{multibot} demo --stop"
        click.echo(
            "  Everything is running. Try:\n"
            f'    {multibot} sandbox say greeter "hi"\n'
            f"    {multibot} sandbox transcript\n"
            f"    {multibot} bot show echo\n"
            f"    {ctl} bots\n"
            f"  The end: {end}"
        )

    def end(self) -> None:
        """Stop the demo's supervisord and with it everything; a demo that is not running is no error."""
        if self.home.supervisord_conf.exists():
            self.run("stop", "--now", "--yes")

    # --- props -----------------------------------------------------------------------------------------------

    def run(self, *words: str, text: str = "") -> str:
        """Run a multibot command on the demo's home and return what it printed; raises MultibotError with its error."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "multibot_plugin.cli", "--home", str(self.home.config), *words],
            input=text, capture_output=True, text=True, check=False,
            env=_environment(),
        )  # fmt: skip
        if done.returncode:
            reason = done.stderr.strip() or done.stdout.strip()
            raise MultibotError(f"'multibot {' '.join(words[:2])}' failed: {reason.removeprefix('multibot: ')}")
        return done.stdout + done.stderr

    def create(self, bot: str, *form: str) -> None:
        token = self._token(bot)
        self.sandbox.register(token, bot)
        self.run("bot", "create", bot, *form, "--token-stdin", text=token)

    def talk(self, bot: str, text: str) -> None:
        """Say something to a bot and print both sides."""
        said = self.sandbox.say(bot, text)
        click.echo(f"  {f'you → {bot}':<16}{text}")
        answer = self.sandbox.wait_for(lambda e: e.by == "bot", _PATIENCE_S, bot=str(said.bot), after=said.n)
        click.echo(f"  {f'{bot} → you':<16}{answer.text}")

    def _alert(self, part: str, after: int) -> None:
        entry = self.sandbox.wait_for(part, _PATIENCE_S, bot="alerts", after=after)
        click.echo("".join(f"  {'alerts → you' if not n else '':<16}{line}\n"
                           for n, line in enumerate(entry.text.splitlines())), nl=False)  # fmt: skip

    def _token(self, bot: str) -> str:
        """Return the bot's made-up token (its file is the demo's own, mode 0600)."""
        path = self.home.config / "tokens" / bot
        if not path.exists():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(f"{secrets.randbelow(10**9) + 10**9}:AA{secrets.token_urlsafe(48)[:33]}")
        return path.read_text()

    def _add_sandbox(self) -> None:
        """Let this supervisord run the local Telegram server, as an operator adds a program: by a file in conf.d."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.sandbox = Sandbox(f"http://127.0.0.1:{port}")
        user = ""
        if os.geteuid() == 0:
            make_account(lambda line: click.echo(f"  {line}"), ACCOUNT)
            user = f"--user {ACCOUNT} "
        section = self.home.config / "conf.d" / "sandbox.conf"
        section.parent.mkdir(exist_ok=True)
        section.write_text(
            "; The demo's Telegram: a Bot API server on loopback.\n[program:multibot-sandbox]\n"
            f'command="{sys.executable}" -P -m multibot_plugin.sandbox --port {port} {user}'
            f'--record "{self.home.run}/sandbox.json"\n'
            f"priority=2\nredirect_stderr=true\nstdout_logfile={self.home.log}/sandbox.log\n"
        )
        self._token("alerts")
        self.run("config", "set", "bot_api_url", self.sandbox.url)
        self.run("config", "set", "alerts.telegram.token_file", str(self.home.config / "tokens" / "alerts"))
        self.run("config", "set", "alerts.telegram.chat_id", str(_ALERTS_CHAT))
        self.run("config", "set", "monitor.tick_s", "1s")

    def _sandbox_answers(self) -> bool:
        with suppress(MultibotError):
            self.sandbox.bots()
            return True
        return False

    def _row(self, bot: str) -> dict[str, object]:
        rows = Supervisor(self.home.socket).bots()["bots"]
        return next(row for row in rows if row["id"] == bot)

    def _pid(self, bot: str) -> int:
        return int(str(wait_for(lambda: self._row(bot)["pid"], f"a process of {bot}")))

    def _wait_polling(self, bot: str) -> None:
        wait_for(lambda: self.sandbox.counters(bot).polls_open == 1, f"{bot} to poll")

    def _wait_healthy(self, bot: str) -> None:
        wait_for(lambda: self._row(bot)["health"] == "healthy", f"{bot} to be healthy")


def _environment() -> dict[str, str]:
    """Return our environment without other installations, wide, and with loopback not sent through a proxy."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MULTIBOT_")}
    return kept | {"COLUMNS": "140", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def wait_for(condition: Callable[[], _T], what: str) -> _T:
    """Return the first true value of ``condition``; raises MultibotError after a minute."""
    deadline = time.monotonic() + _PATIENCE_S
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise MultibotError(f"the demo waited {_PATIENCE_S:.0f} s for {what}")
        time.sleep(0.05)
    return value


def dotted(text: str) -> str:
    return f"{text} {'.' * max(3, _WIDTH - len(text))}"


@contextmanager
def step(text: str) -> Iterator[None]:
    """Print ``text ....... 2 s`` around a slow step; the text stands there while it works."""
    click.echo(f"  {dotted(text)} ", nl=False)
    began = time.monotonic()
    try:
        yield
    except BaseException:
        click.echo("failed")
        raise
    click.echo(f"{time.monotonic() - began:.1f} s")


def _any_python() -> str:
    """Return an interpreter for the bot of the standard library: the system's, since it needs nothing of ours."""
    return "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable


def _program(name: str) -> str:
    """Return how to call a program that is installed beside this one, as short as it can be typed."""
    path = Path(sys.executable).with_name(name)
    return name if shutil.which(name) == str(path) else _short(path)


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
