"""Every setting, once: its name, type, default, scope, when a change takes effect, and what it is for.

The CLI's options, ``config``, the checks of a row from the database, the defaults and the table in
docs/settings.md all come from ``SETTINGS``. Precedence: flag > ``MULTIBOT_<SETTING>`` > multibot.toml > default.
"""

from __future__ import annotations

import os
import reprlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from multibot_plugin.errors import BadValue, did_you_mean
from multibot_plugin.kinds import (
    ADDRESS,
    CHAT,
    COUNT,
    DATABASE_URL,
    PATH,
    PUBLIC_URL,
    SECONDS,
    SIZE,
    TEXT,
    UID_RANGE,
    URL,
    VARIABLE,
    Kind,
    choice,
)  # fmt: skip
from multibot_runner.protocol import RECEIVES

Scope = Literal["fleet", "bot", "both"]
Applies = Literal["restart", "live", "monitor", "new", "installation"]
Origin = Literal["flag", "environment", "file", "default"]

# When a change takes effect, as ``config`` and docs/settings.md say it.
EFFECTS: Mapping[Applies, str] = {
    "restart": "with apply, which restarts the bots concerned",
    "live": "live with apply, restarting nothing",
    "monitor": "at the monitor's next tick",
    "new": "for bots created from then on",
    "installation": "with stop, init and start",
}

_WEEK_S, _PETABYTE = 7 * 86400.0, 1024**5  # what is more is a mistake


@dataclass(frozen=True)
class Setting:
    """One row of the table. ``scope`` both: a fleet default that a bot may override.

    ``least`` and ``most``: the bounds of a number that is useful; what a person types by mistake (a tick of 0 s, a poll
    that no server holds) is refused at every door. ``zero``: 0 is below ``least`` and means none, or never.
    """

    name: str
    kind: Kind
    default: Any
    scope: Scope
    applies: Applies
    help: str
    least: float | None = None
    most: float | None = None
    zero: bool = False

    @property
    def variable(self) -> str:
        """The environment variable that overrides the file: dots become two underscores."""
        return "MULTIBOT_" + self.name.upper().replace(".", "__")

    @property
    def bounds(self) -> str:
        """``1s to 50s``, ``at least 10s``, ``at most 100``, or nothing."""
        if self.least is None:
            return "" if self.most is None else f"at most {self.kind.show(self.most)}"
        if self.most is None:
            return f"at least {self.kind.show(self.least)}"
        return f"{self.kind.show(self.least)} to {self.kind.show(self.most)}"


_BRIEF = reprlib.Repr()  # a value from the database may be a book
_BRIEF.maxstring = _BRIEF.maxother = 200

SETTINGS: tuple[Setting, ...] = (
    Setting("database_url", DATABASE_URL, "", "fleet", "installation",
            "PostgreSQL to use instead of the embedded one; a password belongs into a passfile"),
    Setting("pg_bin", PATH, "", "fleet", "installation", "directory of postgres and initdb for the embedded server"),
    Setting("bot_uid_range", UID_RANGE, "70000-99999", "fleet", "new",
            "root installs: the user ids that bots get, one each, never reused"),
    Setting("alerts.telegram.token_file", PATH, "", "fleet", "monitor",
            "file with the token of the bot that sends alerts"),
    Setting("alerts.telegram.chat_id", CHAT, "", "fleet", "monitor", "chat that alerts go to"),
    Setting("monitor.tick_s", SECONDS, 5.0, "fleet", "monitor", "time between two looks at every bot",
            least=0.1, most=3600.0),
    Setting("monitor.plugin_timeout_s", SECONDS, 10.0, "fleet", "monitor",
            "a plugin that needs longer for one call is reported and, after five times, disabled",
            least=0.1, most=600.0),
    Setting("monitor.probe_s", SECONDS, 60.0, "fleet", "monitor",
            "time between two questions to Telegram (getWebhookInfo) about a bot whose polls are not seen; 0: never",
            least=1.0, most=86400.0, zero=True),
    Setting("bot_api_url", URL, "https://api.telegram.org", "both", "restart", "Bot API server that bots talk to"),
    Setting("stop_wait_s", SECONDS, 10.0, "both", "restart", "time from SIGTERM to SIGKILL", most=3600.0),
    # Telegram holds a poll for 50 s at most; with 0 a bot would ask without a pause.
    Setting("poll_timeout_s", SECONDS, 50.0, "both", "restart", "build bots: how long one getUpdates waits",
            least=1.0, most=50.0),
    Setting("backoff_max_s", SECONDS, 300.0, "both", "restart",
            "longest wait before a bot that keeps dying starts again", least=1.0, most=86400.0),
    Setting("backoff_reset_s", SECONDS, 600.0, "both", "restart",
            "a run that worked for longer is forgiven all deaths before it", least=1.0, most=_WEEK_S),
    # No more runs than that are remembered (multibot_runner.protocol).
    Setting("quarantine_after", COUNT, 10, "both", "restart",
            "deaths in a row after which a bot is quarantined; 0: never", most=40),
    Setting("quarantine_retry_s", SECONDS, 3600.0, "both", "restart",
            "how long a quarantined bot waits until it is tried again; 0: until somebody starts it", most=_WEEK_S),
    Setting("restart", choice("always", "on-failure", "never"), "always", "both", "restart",
            "when a bot that ended by itself is started again; on-failure: not after exit code 0"),
    Setting("watchdog_s", SECONDS, 0.0, "both", "restart",
            "command bots: frozen without WATCHDOG=1 (sd_notify) for so long; 0: no watchdog",
            most=86400.0),
    Setting("log_format", choice("stamped", "plain", "json"), "stamped", "both", "restart",
            "how a line stands in the bot's log: after its time, as it was written, or as an object"),
    Setting("log_max_size", SIZE, 10 * 1024**2, "both", "restart", "size at which a bot's log is rotated",
            least=64 * 1024, most=_PETABYTE),
    Setting("log_backups", COUNT, 3, "both", "restart", "rotated logs that are kept of a bot", most=100),
    Setting("log_keep_s", SECONDS, 0.0, "both", "live", "rotated logs older than that are removed; 0: never",
            most=10 * 366 * 86400.0),
    Setting("log_rate", SIZE, 256 * 1024, "both", "restart",
            "what a bot may log in a second, over some seconds; more is dropped and told; 0: no limit",
            least=1024, most=_PETABYTE, zero=True),
    Setting("deaths_window_s", SECONDS, 600.0, "both", "live", "deaths within this time count together",
            least=1.0, most=86400.0),
    # No more runs than that are remembered (multibot_runner.protocol).
    Setting("deaths_limit", COUNT, 3, "both", "live", "deaths in the window that raise an alert; 0: never", most=50),
    Setting("deaf_after_s", SECONDS, 0.0, "both", "live",
            "no successful getUpdates for so long: deaf; 0: automatic (45 s, or three polls and 15 s)", most=_WEEK_S),
    # The loop beats every 3 s.
    Setting("frozen_after_s", SECONDS, 30.0, "both", "live",
            "an event loop that is silent for so long: frozen (where one can be seen)", least=10.0, most=_WEEK_S),
    Setting("start_grace_s", SECONDS, 30.0, "both", "live", "time a bot has to make its first poll", most=_WEEK_S),
    # Python alone needs 10 MB; "100" is somebody's 100MB.
    Setting("slow_after_s", SECONDS, 60.0, "both", "live",
            "an update that is not handled for so long: slow; 0: never", most=_WEEK_S),
    Setting("memory_limit", SIZE, 0, "both", "live", "resident memory at which a bot is restarted; 0: none",
            least=16 * 1024**2, most=_PETABYTE, zero=True),
    Setting("memory_warning_percent", COUNT, 80, "both", "live", "share of the limit that raises a warning", most=100),
    Setting("memory_clear_percent", COUNT, 70, "both", "live", "share of the limit below which both are over again",
            most=100),
    Setting("memory_for_s", SECONDS, 60.0, "both", "live",
            "how long the limit must be passed before anything happens", most=_WEEK_S),
    Setting("restart_budget", COUNT, 3, "both", "live",
            "restarts by the monitor per bot and hour; then it only alerts", most=1000),
    Setting("receives", choice(*RECEIVES), "auto", "bot", "restart",
            "how updates reach the bot (nothing: it only sends); auto: polling for build, else what its calls show"),
    Setting("port", COUNT, 0, "bot", "restart",
            "port that a bot listens on, told it as PORT; no two bots may have the same; 0: none", most=65535),
    Setting("webhook_url", PUBLIC_URL, "", "bot", "restart",
            "build bots that receive by webhook: the public URL that Telegram sends to"),
    Setting("webhook_listen", ADDRESS, "127.0.0.1", "bot", "restart",
            "build bots that receive by webhook: the address to listen on"),
    Setting("token_var", VARIABLE, "BOT_TOKEN", "bot", "restart",
            "environment variable in which a script or command finds its token"),
    Setting("user", TEXT, "", "bot", "restart", "root installs: account to run as instead of a uid of its own"),
    Setting("workdir", PATH, "", "bot", "restart", "working directory; empty: the bot's own in the state directory"),
    Setting("python", PATH, "", "bot", "restart", "interpreter for build and script; empty: multibot's own"),
    Setting("env_file", PATH, "", "bot", "restart", "file of KEY=VALUE lines, read by the bot's user at each start"),
)  # fmt: skip

BY_NAME: Mapping[str, Setting] = {s.name: s for s in SETTINGS}
BOT_SETTINGS: tuple[Setting, ...] = tuple(s for s in SETTINGS if s.scope != "fleet")
# What the monitor knows of a bot: two of them still need a restart.
WATCHED_SETTINGS: tuple[Setting, ...] = tuple(
    s for s in BOT_SETTINGS if s.applies == "live" or s.name in ("receives", "backoff_reset_s")
)
FLEET_SETTINGS: tuple[Setting, ...] = tuple(s for s in SETTINGS if s.scope != "bot")


def find(name: str) -> Setting:
    """Return the setting of this name; raises BadValue with the nearest name."""
    if name not in BY_NAME:
        raise BadValue(f"no setting {name!r}{did_you_mean(name, BY_NAME)}")
    return BY_NAME[name]


def read_value(setting: Setting, raw: Any, where: str = "") -> Any:
    """Return the checked value of ``raw``; raises BadValue naming the setting, the value and ``where``."""
    place = f"{where}: " if where else ""
    try:
        value = setting.kind.read(raw)
    except (ValueError, TypeError, OverflowError, RecursionError):
        # A URL may carry a password; no other setting is a secret.
        secret = setting.kind is DATABASE_URL or (setting.kind is URL and "@" in str(raw))
        shown = "this value" if secret else _BRIEF.repr(raw)
        raise BadValue(f"{place}{setting.name} {shown} is not {setting.kind.expected}") from None
    if setting.least is not None and value < setting.least and not (setting.zero and value == 0):
        raise BadValue(f"{place}{setting.name} {str(raw).strip()[:60]} is below {setting.kind.show(setting.least)}")
    if setting.most is not None and value > setting.most:
        raise BadValue(f"{place}{setting.name} {str(raw).strip()[:60]} is above {setting.kind.show(setting.most)}")
    return value


@dataclass(frozen=True)
class Settings:
    """The fleet's effective settings, each with where it came from. ``plugins``: the file's [plugins.*] tables."""

    values: Mapping[str, Any]
    origins: Mapping[str, Origin]
    plugins: Mapping[str, Mapping[str, Any]]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def for_bot(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return every setting that concerns a bot: its own value, else the fleet's, else the default."""
        return {s.name: own.get(s.name, self.values.get(s.name, s.default)) for s in BOT_SETTINGS}


def load(toml: Path, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read ``toml`` (may be absent) and lay environment and flags over it.

    Raises BadValue for a file that is not TOML, an unknown setting or a value of the wrong type.
    """
    plugins, found = _read_file(toml)
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for setting in FLEET_SETTINGS:
        sources: tuple[tuple[Origin, Mapping[str, Any], str, str], ...] = (
            ("flag", flags or {}, setting.name, "command line"),
            ("environment", environ, setting.variable, setting.variable),
            ("file", found, setting.name, str(toml)),
        )
        values[setting.name], origins[setting.name] = setting.default, "default"
        for origin, source, key, where in sources:
            if key in source:
                values[setting.name] = read_value(setting, source[key], where)
                origins[setting.name] = origin
                break
    return Settings(values, origins, plugins)


def _read_file(toml: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    try:
        document = tomllib.loads(toml.read_text())
    except FileNotFoundError:
        return {}, {}
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: a number of 5,000 digits
        raise BadValue(f"{toml}: not TOML: {error}") from error
    except OSError as error:
        raise BadValue(f"{toml}: cannot be read: {error.strerror}") from error
    plugins = document.pop("plugins", {})
    if not isinstance(plugins, dict) or not all(isinstance(table, dict) for table in plugins.values()):
        raise BadValue(f"{toml}: plugins is not a table of tables: write [plugins.NAME], and its settings below")
    found = flatten(document)
    allowed = {s.name for s in FLEET_SETTINGS}
    for name in found:
        if name not in allowed:
            raise BadValue(f"{toml}: no setting {name!r}{did_you_mean(name, allowed)}")
    return plugins, found


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested TOML tables as one level with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
