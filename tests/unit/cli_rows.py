"""A supervisord that answers from a list, for tests of commands that only show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from click.testing import CliRunner, Result

from multibot_plugin import __version__
from multibot_plugin.cli import main
from multibot_plugin.cli.output import Context
from multibot_plugin.errors import SupervisordAway

NOW = 1_795_700_000.0


def row(bot: str, **changes: Any) -> dict[str, Any]:
    """Return a row of getBots: a healthy script bot, with ``changes``."""
    healthy: dict[str, Any] = {
        "id": bot, "state": "running", "health": "healthy", "cause": "", "pid": 4242, "uptime_s": 48.2,
        "restarts_24h": 1, "memory_bytes": 32505856, "cpu_percent": 0.31, "connections": 1, "last_poll_age_s": 2.4,
        "last_update_age_s": 47.0, "launch": "script", "enabled": True, "digest": "0123456789abcdef",
        "statename": "RUNNING", "start_at": NOW - 48, "stop_at": None, "exit_code": 0, "spawn_error": None,
        "stop_wait_s": 12,
    }  # fmt: skip
    return healthy | changes


def stopped(bot: str, **changes: Any) -> dict[str, Any]:
    nothing = dict.fromkeys(("pid", "uptime_s", "memory_bytes", "cpu_percent", "connections", "last_poll_age_s",
                             "last_update_age_s"))  # fmt: skip
    state = {"state": "stopped", "health": "unknown", "statename": "STOPPED", "enabled": False, "stop_at": NOW - 60}
    return row(bot, **nothing, **(state | changes))


class _Fake:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class FakeSupervisor(_Fake):
    """Answers ``bots()`` and the questions about supervisord itself."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], monitor_ok: bool = True) -> None:
        self._answer = {
            "schema": 1, "at": NOW, "supervisord": {"pid": 812, "state": "RUNNING", "version": "4.3.0"},
            "monitor": {"ok": monitor_ok, "tick_age_s": 2.0 if monitor_ok else None}, "bots": list(rows),
        }  # fmt: skip

    def bots(self) -> dict[str, Any]:
        return self._answer

    def version(self) -> dict[str, Any]:
        return {"multibot": __version__, "supervisor": "4.3.0", "schema": 1}


class AwaySupervisor(_Fake):
    """Does not answer."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def bots(self) -> dict[str, Any]:
        start = self._context.home.command("start")
        raise SupervisordAway(f"supervisord does not answer at {self._context.home.socket}: run '{start}'")


class FakeContext(Context):
    """A context whose supervisord answers ``rows``; None: it is away."""

    def __init__(self, rows: Sequence[Mapping[str, Any]] | None, monitor_ok: bool = True) -> None:
        super().__init__()
        self._fake = None if rows is None else FakeSupervisor(rows, monitor_ok)

    def supervisor(self, timeout_s: float = 10.0) -> Any:
        return self._fake or AwaySupervisor(self)


def invoke(home: Path, *words: str, context: Context | None = None, **options: Any) -> Result:
    """Run the command line for ``home`` in this process."""
    return CliRunner().invoke(main, ["--home", str(home), *words], obj=context or Context(), **options)
