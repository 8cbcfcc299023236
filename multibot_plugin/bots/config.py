"""A bot as the database has it, and as its process needs it. Pure."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from multibot_plugin.errors import BadValue, did_you_mean
from multibot_plugin.settings import BOT_SETTINGS, BY_NAME, WATCHED_SETTINGS, Settings, read_value
from multibot_runner.protocol import BOT_ID, FILE_CAP, FORMS, TOKEN, RunnerSettings, encode
from multibot_runner.redact import redact

_BUILD = re.compile(r"(?:[A-Za-z_][\w.]*|/[^\0:]+\.py):[A-Za-z_]\w*")
_MODULE = re.compile(r"[A-Za-z_][\w.]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class BotConfig:
    """A row of ``bot_configs``, checked. ``settings`` holds only what this bot sets itself (see settings.SETTINGS)."""

    id: str
    enabled: bool
    launch: str
    target: str
    token: str = field(repr=False)
    env: Mapping[str, str] = field(repr=False, default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    uid: int | None = None
    version: int = 1

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> BotConfig:
        """Return the configuration in a row (columns of the query ``fetch_bots``, json already decoded).

        Raises BadValue naming the bot and the first thing that is wrong; never shows a secret.
        """
        where = f"bot {row['id']!r}"
        settings = row["settings"]
        for name in ("settings", "env"):
            if row[name] is None:  # see database.pool: no row has NULL there
                raise BadValue(f"{where}: {name} holds a number too long or a value too deep to be read")
        if not isinstance(settings, Mapping):
            raise BadValue(f"{where}: settings is not an object")
        allowed = {s.name for s in BOT_SETTINGS}
        for name in settings:
            if name not in allowed:
                raise BadValue(f"{where}: no setting {name!r} for a bot{did_you_mean(name, allowed)}")
        config = cls(
            id=row["id"], enabled=bool(row["enabled"]), launch=row["launch"], target=row["target"],
            token=row["token"], env=row["env"], uid=row["uid"], version=row["config_version"],
            settings={name: read_value(BY_NAME[name], raw, where) for name, raw in settings.items()},
        )  # fmt: skip
        config.check()
        return config

    def check(self) -> None:
        """Raise BadValue for an id, launch form, target, token or environment that cannot work."""
        where = f"bot {self.id!r}"
        if not BOT_ID.fullmatch(self.id):
            raise BadValue(f"{where}: an id is 1 to 39 of a-z, 0-9 and -, and does not begin with -")
        if self.launch not in FORMS:
            raise BadValue(f"{where}: launch {self.launch!r} is none of {', '.join(FORMS)}")
        if not isinstance(self.target, str) or not self.target.strip() or re.search(r"[\x00-\x1f\x7f]", self.target):
            raise BadValue(f"{where}: {self.launch} needs one line of text")
        if not isinstance(self.token, str) or not TOKEN.fullmatch(self.token):
            raise BadValue(f"{where}: its token does not look like one from @BotFather (123456789:AA...)")
        self._check_target(where)
        self._check_webhook(where)
        if not isinstance(self.env, Mapping):
            raise BadValue(f"{where}: env is not an object")
        for key, value in self.env.items():
            if not _VARIABLE.fullmatch(key):
                raise BadValue(f"{where}: env {key!r} is not a name of an environment variable")
            if not isinstance(value, str) or "\0" in value:
                raise BadValue(f"{where}: env {key} is not a text without NUL")

    def _check_webhook(self, where: str) -> None:
        if self.launch == "build" and self.settings.get("receives") == "webhook":
            if not self.settings.get("port"):
                raise BadValue(f"{where} is to receive by webhook: add the port to listen on (--port 8443)")
            if not self.settings.get("webhook_url"):
                raise BadValue(f"{where} is to receive by webhook: add its public URL (--webhook-url https://...)")

    def _check_target(self, where: str) -> None:
        if self.launch == "build" and not _BUILD.fullmatch(self.target):
            raise BadValue(f"{where}: build {redact(self.target)!r} is not MODULE:FUNCTION (or /path/file.py:FUNCTION)")
        if self.launch == "build":
            return
        try:
            words = shlex.split(self.target)
        except ValueError as error:
            raise BadValue(f"{where}: {self.launch} cannot be split into words: {error}") from None
        if not words:
            raise BadValue(f"{where}: {self.launch} is empty")
        module = words[0] == "-m" and len(words) > 1 and _MODULE.fullmatch(words[1])
        if self.launch == "script" and not (words[0].startswith("/") or module):
            raise BadValue(f"{where}: script {redact(self.target)!r} is neither an absolute path nor '-m MODULE'")

    @property
    def token_number(self) -> int:
        """The number before the token's colon: the bot's Telegram id, unique among bots."""
        return int(self.token.partition(":")[0])


@dataclass(frozen=True)
class Deployment:
    """A bot as it is put on disk: what its files hold and what its section says.

    ``settings`` goes into ``<digest>.json``, ``token`` into ``<digest>.token``, ``live`` into ``live.json``; the
    section gets the id, the digest, ``autostart`` and ``stop_wait_s``, nothing else.
    """

    id: str
    digest: str
    autostart: bool
    settings: RunnerSettings
    live: Mapping[str, Any]
    token: str = field(repr=False)


def deploy(config: BotConfig, fleet: Settings, key: bytes) -> Deployment:
    """Return the deployment of ``config`` under the fleet's defaults.

    The digest is HMAC-SHA256 with this installation's ``key`` over the token and every setting that needs a
    restart, 16 hex digits: it changes exactly when the bot has to restart, and gives nothing away.
    Raises BadValue for more than the runner would read.
    """
    values = fleet.for_bot(config.settings)
    live = {"launch": config.launch} | {s.name: values[s.name] for s in WATCHED_SETTINGS}
    restart = {s.name: values[s.name] for s in BOT_SETTINGS if s.applies == "restart"}
    settings = RunnerSettings(bot=config.id, launch=config.launch, target=config.target, env=dict(config.env),
                              uid=config.uid, **restart)  # fmt: skip
    if len(encode(settings)) > FILE_CAP:
        raise BadValue(f"bot {config.id!r}: its environment and settings are larger than {FILE_CAP // 1024} KiB")
    digest = digest_of(settings, config.token, key)
    return Deployment(config.id, digest, config.enabled, settings, live, config.token)


def digest_of(settings: RunnerSettings, token: str, key: bytes) -> str:
    canonical = json.dumps([asdict(settings), token], sort_keys=True).encode()
    return hmac.new(key, canonical, hashlib.sha256).hexdigest()[:16]
