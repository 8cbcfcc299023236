"""``[ctlplugin:multibot]``: the bots in supervisorctl: ``bots``, ``bot``, ``bot_start`` and so on, in plain text.

supervisorctl reads the section from the main file only, so these exist with ``-c .../supervisord.conf`` (also together
with ``-s URL``) and not with ``-s URL`` alone. It imports this module whatever is typed, hence the late imports.
"""

from __future__ import annotations

import json
import shlex
import sys
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervisor.supervisorctl import ControllerPluginBase, LSBInitExitStatuses

from multibot_plugin.errors import MultibotError
from multibot_plugin.supervisor.inside import requests
from multibot_runner.protocol import PROGRAM_PREFIX

if TYPE_CHECKING:
    from multibot_plugin.home import Home

HELP = {
    "bots": "bots [ID...]\t\tA line per bot: state, health, uptime, last poll",
    "bot": "bot ID...\t\tAll that supervisord and the monitor know of them",
    "bot_start": "bot_start ID...\t\tStart bots, now and whenever the system starts",
    "bot_stop": "bot_stop ID...\t\tStop bots, until somebody starts them",
    "bot_restart": "bot_restart ID...\tStop and start bots; one that is stopped only if\n"
                   "\t\t\tit is named, not by a pattern",
    "bot_logs": "bot_logs [-f] [ID...]\tThe end of the bots' logs, redacted; -f goes on with\n"
                "\t\t\tthem; -n LINES: how much",
    "bot_apply": "bot_apply\t\tBring the running bots to what the database says",
    "bot_incidents": "bot_incidents [ID...]\tShow the open incidents",
}  # fmt: skip
_ABOUT_ID = "\t\t\tID is a bot's id or a pattern (shop-*).\n"
_COMMON = """\
Exit status: 0; 1 failed; 2 usage; 4 no such bot. supervisorctl's own, where
supervisord is away: 7 without its socket, 4 where that refuses.
Needs the section [ctlplugin:multibot]: use supervisorctl -c FILE; -s URL alone
does not read it."""
_WITHOUT_BOTS = ("bot_apply",)
# Where the output cannot show them.
_ASCII = str.maketrans({"●": "+", "▲": "!", "✖": "x", "○": "o", "…": ".", "–": "-", "→": ">", "·": "-", "—": "-"})


def make_controller(controller: Any, **options: str) -> BotsPlugin:
    """Return the plugin; supervisorctl calls this once. ``options``: the four directories of the installation."""
    return BotsPlugin(controller, options)


class BotsPlugin(ControllerPluginBase):  # type: ignore[misc]
    """The commands; supervisorctl finds them by their names ``do_...``."""

    name = "multibot"

    def __init__(self, controller: Any, options: Mapping[str, str]) -> None:
        super().__init__(controller)
        self._options = options
        self._stock_complete = controller.complete
        self._matches: Sequence[str] = ()
        controller.complete = self._complete
        for command in HELP:
            for plugin in controller.options.plugins:
                # supervisorctl asks every plugin for help in turn; the default one would say "No help on bots" first.
                setattr(plugin, f"help_{command}", lambda: None)

    def do_help(self, arg: str) -> None:
        if not arg or arg in HELP:  # of other commands the other plugins speak
            super().do_help(arg)

    # -- what is shown -----------------------------------------------------------------------------------------

    def do_bots(self, arg: str) -> None:
        def show(words: Sequence[str]) -> None:
            from multibot_plugin.cli import fleet, listing

            rows = fleet.select(self._rows(), words)
            self._table(rows, listing.columns_for(rows), "no bots yet")

        self._run("bots", arg, show)

    def do_bot(self, arg: str) -> None:
        def show(words: Sequence[str]) -> None:
            from multibot_plugin.supervisor import ctl_picture

            home = self._home()
            for number, row in enumerate(self._named(words)):
                for line in ctl_picture.describe(self._ask("getBot", row["id"]), home, self._typed("")):
                    self._print(f"\n{line}" if number and not line.startswith(" ") else line)

        self._run("bot", arg, show)

    def do_bot_incidents(self, arg: str) -> None:
        def show(words: Sequence[str]) -> None:
            from multibot_plugin.supervisor import ctl_picture

            answer = self._ask("getIncidents")
            bots = {row["id"] for row in self._named(words)} if words else None
            found = [i for i in answer["incidents"] if bots is None or i["bot"] in bots]
            if not answer["monitor"]["ok"]:
                away = ctl_picture.as_typed(answer["monitor"]["text"], self._typed(""))
                self._print(f"as of the monitor's last report: {away}")
            self._table(found, ctl_picture.incident_columns(answer["at"]), "no open incidents")

        self._run("bot_incidents", arg, show)

    def do_bot_logs(self, arg: str) -> None:
        def show(words: Sequence[str]) -> None:
            from multibot_plugin.cli.logs import logs
            from multibot_plugin.cli.output import Context

            home = self._home()
            if home is None:
                raise MultibotError(
                    "the log files of this supervisord are not known here ('multibot init' names them in "
                    f"[ctlplugin:multibot]; of another host they cannot be read): '{self._typed('tail bot-ID')}'"
                )
            context = Context()
            context.home = home
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
            logs.main(list(words), "bot_logs", standalone_mode=False, obj=context)

        self._run("bot_logs", arg, show, reach=False)

    # -- what is done ------------------------------------------------------------------------------------------

    def do_bot_start(self, arg: str) -> None:
        self._run("bot_start", arg, lambda words: self._carry_out("bot_start", "startBot", self._ids(words)))

    def do_bot_stop(self, arg: str) -> None:
        self._run("bot_stop", arg, lambda words: self._carry_out("bot_stop", "stopBot", self._ids(words)))

    def do_bot_restart(self, arg: str) -> None:
        def restart(words: Sequence[str]) -> None:
            rows = self._named(words)
            named = {*words, *(word.removeprefix(PROGRAM_PREFIX) for word in words)}
            left = [row["id"] for row in rows if not row["enabled"] and row["id"] not in named]
            for bot in left:
                self._print(f"{bot}: is stopped, left so")
            self._carry_out("bot_restart", "restartBot", [row["id"] for row in rows if row["id"] not in left])

        self._run("bot_restart", arg, restart)

    def do_bot_apply(self, arg: str) -> None:
        def apply(words: Sequence[str]) -> None:
            if words:
                raise _Usage("bot_apply takes no bots: it is about all of them")
            self._carry_out("bot_apply", "apply", [""])

        self._run("bot_apply", arg, apply)

    def _carry_out(self, command: str, method: str, bots: Sequence[str]) -> None:
        from multibot_plugin.bots.store import current_actor
        from multibot_plugin.supervisor.ctl_requests import carried_out

        by = f"{current_actor('').name} (supervisorctl {command})"
        by = by if requests.ASKER.fullmatch(by) else ""
        under_way = self._print if sys.stdout.isatty() else lambda _: None
        server = self.ctl.get_server_proxy("multibot")
        try:
            for lines, ok in carried_out(server, method, bots, by, under_way, self._words):
                for line in lines:
                    self._print(line)
                if not ok:
                    self.ctl.exitstatus = LSBInitExitStatuses.GENERIC
        except xmlrpc.client.Fault as fault:
            stock = self._typed(f"{requests.METHODS[method][-1]} {PROGRAM_PREFIX}{bots[0]}")
            alone = f"; '{stock}' needs no monitor" if bots[0] else ""
            self._fail(self._words(fault) + (alone if fault.faultCode == requests.MONITOR_AWAY else ""))
        except KeyboardInterrupt:
            away = self._away()
            then = f"asked for, but {away}" if away else "the monitor goes on with what was asked for"
            self._fail(f"{then}; '{self._typed('bots')}' shows how it is")

    def _away(self) -> str:
        """Return in a few words why the monitor would not carry out what it was asked for, nothing when it would."""
        try:
            return str(self._ask("getIncidents")["monitor"]["text"]).partition(": ")[0]
        except (xmlrpc.client.Error, OSError):
            return "supervisord does not answer"

    # -- how ---------------------------------------------------------------------------------------------------

    def _run(self, command: str, arg: str, do: Callable[[Sequence[str]], None], reach: bool = True) -> None:
        """Do a command; what goes wrong is one line. ``reach``: it needs supervisord."""
        import click

        words = _split(arg)
        if {"-h", "--help"} & set(words):
            self.do_help(command)
            return
        try:
            if not reach or self.ctl.upcheck():
                do(words)
        except (KeyboardInterrupt, click.Abort):
            self._print("")
        except (_Usage, click.UsageError) as error:
            text = error.format_message().rstrip(".") if isinstance(error, click.UsageError) else str(error)
            self._fail(f"{text}: see 'help {command}'", LSBInitExitStatuses.INVALID_ARGS)
        except MultibotError as error:
            self._print(f"multibot: {error}")
            self.ctl.exitstatus = error.exit_code
        except xmlrpc.client.Fault as fault:
            self._fail(self._words(fault))
        except OSError as error:
            self._fail(f"{error.filename or self.ctl.options.serverurl}: {error.strerror}")

    def _words(self, fault: xmlrpc.client.Fault) -> str:
        from multibot_plugin.supervisor.ctl_picture import in_words

        return in_words(fault, self._typed(""))

    def _typed(self, words: str) -> str:
        """Return what a person types for a command of supervisorctl from where they are: its shell, or their own."""
        options = self.ctl.options
        return words if options.interactive else f"supervisorctl -c {shlex.quote(str(options.configfile))} {words}"

    def _ask(self, method: str, *arguments: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(getattr(self.ctl.get_server_proxy("multibot"), method)(*arguments))
        return answer

    def _named(self, words: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        """Return the rows of the bots that are named; raises NoSuchBot."""
        from multibot_plugin.cli import fleet

        if not words:
            raise _Usage("name the bots (an id, or a pattern like shop-*)")
        return fleet.select(self._rows(), words)

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        """Return the rows of all bots, with the runner's own words where a bot does not stay up."""
        from multibot_plugin.cli import fleet

        rows, home = self._ask("getBots")["bots"], self._home()
        return rows if home is None else [fleet.explained(home, row) for row in rows]

    def _home(self) -> Home | None:
        """Return the installation of this supervisord; None when it is not the one that the section names."""
        from multibot_plugin.home import home_at

        names = ("config", "state", "run", "log")
        if not self._options.keys() >= {*names}:
            return None
        home = home_at(*(Path(self._options[name]) for name in names))
        return home if self.ctl.options.serverurl == f"unix://{home.socket}" else None

    def _ids(self, words: Sequence[str]) -> list[str]:
        return [row["id"] for row in self._named(words)]

    def _complete(self, text: str, state: int, line: str | None = None) -> str | None:
        """Complete the ids of bots behind our commands; all else is supervisorctl's own."""
        if line is None:
            import readline

            line = readline.get_line_buffer()
        command, space, _ = line.lstrip().partition(" ")
        if not space or command not in HELP or command in _WITHOUT_BOTS:
            found: str | None = self._stock_complete(text, state, line)
            return found
        if state == 0:
            self._matches = [f"{bot} " for bot in self._known() if bot.startswith(text)]
        return self._matches[state] if state < len(self._matches) else None

    def _known(self) -> Iterator[str]:
        try:
            yield from (row["id"] for row in self._ask("getBots")["bots"])
        except (xmlrpc.client.Error, OSError):
            return

    def _table(self, rows: Sequence[Mapping[str, Any]], columns: Any, nothing: str) -> None:
        from multibot_plugin.cli import output, tables

        if not rows:
            self._print(nothing)
            return
        for line in tables.lay_out(rows, columns, output.width(), clean=output.clean):
            self._print(line)

    def _fail(self, text: str, code: int = LSBInitExitStatuses.GENERIC) -> None:
        self._print(f"ERROR ({text})")
        self.ctl.exitstatus = code

    def _print(self, text: str) -> None:
        encoding = sys.stdout.encoding or "ascii"
        try:
            text.encode(encoding)
        except UnicodeError:
            text = text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
        self.ctl.output(text)


def _split(arg: str) -> list[str]:
    """Return the words that were typed, without the quotes that a shell would have taken away."""
    try:
        return shlex.split(arg)
    except ValueError:  # one quote alone
        return arg.split()


def _helper(command: str) -> Callable[[BotsPlugin], None]:
    about = "" if command in _WITHOUT_BOTS else _ABOUT_ID
    return lambda plugin: plugin.ctl.output(f"{HELP[command]}\n{about}{_COMMON}")


for _command in HELP:
    setattr(BotsPlugin, f"help_{_command}", _helper(_command))  # supervisorctl looks for them in the class


class _Usage(Exception):
    """A command was typed wrongly; says how."""
