"""What ``multibot doctor`` looks at where multibot lives in an operator's own supervisord, in place of its own."""

from __future__ import annotations

from collections.abc import Iterator

import multibot_plugin
from multibot_plugin.cli.checks import BAD, GOOD, WARNING, Check, Found, Patient
from multibot_plugin.cli.fleet import NotLoaded
from multibot_plugin.home import Home
from multibot_plugin.supervisor.beside import (
    cannot_import,
    interpreter,
    other_user,
    own_supervisord,
    parts,
    to_restart,
)
from multibot_plugin.supervisor.client import Supervisor
from multibot_plugin.supervisor.inside.refusing import LEAST, too_old


def supervisord(patient: Patient) -> Found:
    """The operator's supervisord answers, is new enough and of the right user, and has our plugin of this version."""
    home, away = patient.context.home, patient.fleet.away
    if away and not isinstance(away, NotLoaded):
        text, to_start, _ = str(away).partition(": run '")
        return Check("supervisord", BAD, text, (home.to_start, "or start its service") if to_start else ())
    with patient.context.supervisor() as supervisor:
        version = supervisor.supervisor_version()
        if reason := too_old(version):
            return Check("supervisord", BAD, reason, _cures(home, interpreter(supervisor), f"supervisor=={LEAST}"))
        if reason := other_user(supervisor):
            return Check("supervisord", BAD, reason)
        if isinstance(away, NotLoaded):
            return _not_loaded(home, supervisor, version)
        loaded, pid = supervisor.version()["multibot"], supervisor.pid()
    if loaded != multibot_plugin.__version__:
        text = f"supervisord runs multibot {loaded}, installed is {multibot_plugin.__version__}"
        return Check("supervisord", WARNING, text, (to_restart(home),))
    return Check("supervisord", GOOD, f"supervisord {version} of {home.foreign} (pid {pid}), plugin loaded in it")


def _not_loaded(home: Home, supervisor: Supervisor, version: str) -> Check:
    """Say why a supervisord that is new enough runs without our plugin."""
    text, python = f"supervisord {version} runs without multibot's plugin", interpreter(supervisor)
    if reason := cannot_import(python):
        cures = _cures(home, python, f"supervisor-multibot=={multibot_plugin.__version__}")
        return Check("supervisord", BAD, f"{text}: {reason}", cures)
    if any(part.blocks for part in parts(home)):
        return Check("supervisord", BAD, text, (home.command("init"),))
    if any(part.to_mend for part in parts(home)):
        return Check("supervisord", BAD, text, (to_restart(home),))
    return Check("supervisord", BAD, f"{text}: it has not read its file since", (home.to_restart, "or its service"))


def _cures(home: Home, python: str, wanted: str) -> tuple[str, ...]:
    return f"{own_supervisord(home)}  (in place of the present one)", f"or: {python} -m pip install {wanted}"


def main_file(patient: Patient) -> Iterator[Check]:
    """The operator's file includes our sections and holds the three that go into it."""
    home = patient.context.home
    wrong = [part for part in parts(home) if part.problem]
    for part in wrong:
        text = f"{home.foreign}: [{part.section}] {part.problem}"
        cure = f"edit {home.foreign}" if part.to_mend else f"{home.command('init')}  (shows it)"
        yield Check("configuration", BAD if part.blocks or part.to_mend else WARNING, text, (cure,))
    if not wrong:
        yield Check("configuration", GOOD, f"{home.foreign} includes the bots and has the three sections")
