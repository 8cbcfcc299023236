"""What the monitor must know again after it was killed: ``<state>/monitor.json``, replaced before it acts.

Alerts and audit entries stand in it until they are in the outbox and in the journal, restarts until they are done:
whatever moment the monitor dies at, the next one finishes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from multibot_plugin.alerts.outbox import read_alert
from multibot_plugin.health.incidents import Key, Track, after_boot
from multibot_plugin.health.rules import DAY_S
from multibot_plugin.health.states import Alert, Finding
from multibot_plugin.journal import AuditEntry
from multibot_plugin.shapes import build
from multibot_runner.protocol import BadFile, decode_object, read_file, replace_file

_CAP = 32 * 1024 * 1024
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MOST_UNSAID = 1000


@dataclass(frozen=True)
class Restart:
    """A restart by the monitor: when (monotonic and wall time), of which incident, and whether it is done."""

    mono: float
    at: float
    cause: str
    entry: str
    done: bool = False


@dataclass
class Ledger:
    """The monitor's memory. ``alerts`` and ``entries``: decided, not yet handed over."""

    tracks: Mapping[Key, Track] = field(default_factory=dict)
    restarts: dict[str, list[Restart]] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)
    entries: list[AuditEntry] = field(default_factory=list)

    def prune(self, now: float) -> None:
        """Forget restarts that are done and older than a day, and with the last one the bot (it may be deleted)."""
        for bot, some in list(self.restarts.items()):
            kept = [r for r in some if now - r.mono < DAY_S or not r.done]
            if not kept:
                del self.restarts[bot]
            elif len(kept) < len(some):
                self.restarts[bot] = kept

    def save(self, path: Path) -> None:
        """Write it; raises OSError."""
        document = {
            "schema": 1,
            "boot": boot_id(),
            "tracks": [asdict(t) for t in self.tracks.values()],
            "restarts": {bot: [asdict(r) for r in some] for bot, some in self.restarts.items()},
            "alerts": [asdict(a) for a in self.alerts[-MOST_UNSAID:]],
            "entries": [asdict(e) for e in self.entries[-MOST_UNSAID:]],
        }
        replace_file(path, json.dumps(document).encode())

    @classmethod
    def load(cls, path: Path, now: float, now_at: float) -> Ledger:
        """Return the ledger in ``path``, an empty one when there is none.

        Raises ValueError for a file that is none (the caller goes on with an empty one, and says so).
        """
        try:
            document = decode_object(read_file(path, _CAP))
        except BadFile as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return cls()
            raise ValueError(str(error)) from error
        try:
            return cls._read(document, now, now_at)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path}: {type(error).__name__}: {error}") from error

    @classmethod
    def _read(cls, document: dict[str, Any], now: float, now_at: float) -> Ledger:
        tracks = [_track(item) for item in document["tracks"]]
        restarts = {bot: [build(Restart, r) for r in some] for bot, some in document["restarts"].items()}
        if document["boot"] != boot_id():
            tracks = after_boot(tracks, now, now_at)
            restarts = {
                bot: [Restart(now - max(0.0, now_at - r.at), r.at, r.cause, r.entry, r.done) for r in some]
                for bot, some in restarts.items()
            }
        return cls(
            {t.key: t for t in tracks}, restarts,
            [read_alert(a) for a in document["alerts"]], [build(AuditEntry, e) for e in document["entries"]],
        )  # fmt: skip


def _track(item: dict[str, Any]) -> Track:
    return build(Track, item, finding=build(Finding, item["finding"]))


def boot_id() -> str:
    """Return this boot's id: monotonic times are comparable within one boot only."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
