"""Whether nobody watched before this monitor began, which is told once: a monitor that hangs cannot tell it itself."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from multibot_plugin.health.judgement import unwatched
from multibot_plugin.health.states import Alert
from multibot_plugin.home import Home
from multibot_plugin.journal import AuditEntry
from multibot_plugin.supervisor.parent import sender
from multibot_runner.protocol import STATUS_CAP, BadFile, decode_object, read_file

_LEAST_S = 20.0
_TICKS = 4


def note_stop(home: Home) -> None:
    """Note that the monitor is stopped on purpose."""
    with suppress(OSError):  # then it is told
        _note(home).touch(mode=0o600)


def absence(home: Home, tick_s: float, host: str, now: float, now_at: float) -> tuple[Alert, AuditEntry] | None:
    """Return what is told and recorded when nobody watched for longer than a few ticks.

    Nothing after a stop on purpose, or when this supervisord is younger than the last tick: so began the installation.
    """
    asked = _note(home).exists()
    with suppress(OSError):
        _note(home).unlink(missing_ok=True)
    try:
        status = decode_object(read_file(home.status, STATUS_CAP))
        whose, mono, at = status["supervisord"], float(status["mono"]), float(status["at"])
    except (BadFile, KeyError, TypeError, ValueError):
        return None
    if asked or whose != sender() or now - mono <= max(_LEAST_S, _TICKS * tick_s):
        return None
    return unwatched(f"{whose}/{mono}", at, now - mono, host, now_at)


def _note(home: Home) -> Path:
    return home.run / "monitor.stopped"
