"""What ``multibot doctor`` looks at where multibot lives in an operator's own supervisord, in place of its own."""

from __future__ import annotations

from collections.abc import Iterator

import multibot_plugin
from multibot_plugin.cli.checks import BAD, GOOD, WARNING, Check, Found, Patient
from multibot_plugin.cli.fleet import NotLoaded
from multibot_plugin.home import Home
from multibot_plugin.supervisor.beside import cannot_import, install_command, interpreter, parts, unsuitable
from multibot_plugin.supervisor.client import Supervisor
from multibot_plugin.supervisor.version import LEAST, too_old


def supervisord(patient: Patient) -> Found:
    """The operator's supervisord answers, is new enough and of the right user, and has our plugin of this version."""
    home, away = patient.context.home, patient.fleet.away
    if away and not isinstance(away, NotLoaded):
        remedies = (home.to_start, "or start its service") if home.main_file else ()
        return Check("supervisord", BAD, str(away).partition(": run '")[0], remedies)
    with patient.context.supervisor() as supervisor:
        version = supervisor.supervisor_version()
        if reason := unsuitable(supervisor):
            cure = install_command(interpreter(supervisor), f"supervisor=={LEAST}")
            return Check("supervisord", BAD, reason, (cure,) if too_old(version) else ())
        if isinstance(away, NotLoaded):
            return _not_loaded(home, supervisor, version)
        loaded, pid = supervisor.version()["multibot"], supervisor.pid()
    if loaded != multibot_plugin.__version__:
        text = f"supervisord runs multibot {loaded}, installed is {multibot_plugin.__version__}"
        return Check("supervisord", WARNING, text, (home.to_restart,))
    return Check("supervisord", GOOD, f"supervisord {version} of {home.foreign} (pid {pid}), plugin loaded in it")


def _not_loaded(home: Home, supervisor: Supervisor, version: str) -> Check:
    """Say why a supervisord that is new enough runs without our plugin."""
    text, python = f"supervisord {version} runs without multibot's plugin", interpreter(supervisor)
    if reason := cannot_import(python):
        cure = install_command(python, f"supervisor-multibot=={multibot_plugin.__version__}")
        return Check("supervisord", BAD, f"{text}: {reason}", (cure,))
    if any(part.blocks for part in parts(home)):
        return Check("supervisord", BAD, text, (home.command("init"),))
    return Check("supervisord", BAD, f"{text}: it has not read its file since", (home.to_restart, "or its service"))


def main_file(patient: Patient) -> Iterator[Check]:
    """The operator's file includes our sections and holds the three that go into it."""
    home = patient.context.home
    wrong = 0
    for part in parts(home):
        if part.problem:
            wrong += 1
            text = f"{home.foreign}: [{part.section}] {part.problem}"
            yield Check(
                "configuration", BAD if part.blocks else WARNING, text, (f"{home.command('init')}  (shows it)",)
            )
    if not wrong:
        yield Check("configuration", GOOD, f"{home.foreign} includes the bots and has the three sections")
