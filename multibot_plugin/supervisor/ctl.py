"""``[ctlplugin:multibot]``: the command ``bots`` of supervisorctl, plain text with the columns of ``multibot list``.

supervisorctl reads the section from the main file only, so ``bots`` exists with ``-c .../supervisord.conf`` and not
with ``-s URL`` alone.
"""

from __future__ import annotations

import json
import sys
import xmlrpc.client
from collections.abc import Mapping, Sequence
from typing import Any

from supervisor.supervisorctl import ControllerPluginBase, LSBInitExitStatuses
from supervisor.xmlrpc import Faults

_HELP = """\
bots\t\t\tShow every bot: state, health, uptime, memory, last poll
bots <id> <id>\t\tThe same for these bots (patterns like shop-* as well)
bots --help		Show this
Exit status: 0; 7 when supervisord does not answer; 4 when it knows no such bot.
Needs the section [ctlplugin:multibot]: use supervisorctl -c FILE; -s URL alone does not read it."""
# Where the output cannot show them.
_ASCII = str.maketrans({"●": "+", "▲": "!", "✖": "x", "○": "o", "…": ".", "–": "-"})


def make_controller(controller: Any, **options: str) -> BotsPlugin:
    """Return the plugin; supervisorctl calls this once, with the section's other options (there are none)."""
    return BotsPlugin(controller)


class BotsPlugin(ControllerPluginBase):  # type: ignore[misc]
    """The command; supervisorctl finds it by its name ``do_bots``."""

    name = "multibot"

    def __init__(self, controller: Any) -> None:
        super().__init__(controller)
        for plugin in controller.options.plugins:
            # supervisorctl asks every plugin for help in turn; the default one would say "No help on bots" first.
            plugin.help_bots = lambda: None

    def do_bots(self, arg: str) -> None:
        if {"-h", "--help"} & set(arg.split()):
            self.help_bots()
            return
        if not self.ctl.upcheck():
            return
        try:
            answer = json.loads(self.ctl.get_server_proxy("multibot").getBots())
        except xmlrpc.client.Fault as fault:
            self._fail("this supervisord runs without multibot's plugin" if fault.faultCode == Faults.UNKNOWN_METHOD
                       else f"supervisord: {fault.faultString}")  # fmt: skip
            return
        self._show(answer, arg.split())

    def help_bots(self) -> None:
        self.ctl.output(_HELP)

    def _show(self, answer: Mapping[str, Any], words: Sequence[str]) -> None:
        # Not at the top: supervisorctl imports this module whatever is typed.
        from multibot_plugin.cli import fleet, listing, output, tables
        from multibot_plugin.errors import NoSuchBot

        try:
            rows = fleet.select(answer["bots"], words)
        except NoSuchBot as error:
            self._print(f"multibot: {error}")
            self.ctl.exitstatus = error.exit_code
            return
        if not rows:
            self._print("no bots yet")
            return
        for line in tables.lay_out(rows, listing.columns_for(rows), output.width(), clean=output.clean):
            self._print(line)

    def _fail(self, text: str) -> None:
        self._print(f"ERROR ({text})")
        self.ctl.exitstatus = LSBInitExitStatuses.GENERIC

    def _print(self, text: str) -> None:
        encoding = sys.stdout.encoding or "ascii"
        try:
            text.encode(encoding)
        except UnicodeError:
            text = text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
        self.ctl.output(text)
