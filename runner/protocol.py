"""What crosses a process: a bot's files, what stands in them, and the exit codes.

This module is all that the runner, supervisord's plugin and the manager share. Standard library only, Python 3.10.
Times called ``*_mono`` are CLOCK_MONOTONIC seconds (``time.monotonic()``; comparable between processes of one boot);
times called ``*_at`` are seconds since the epoch, for people.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Tuple, Type, TypeVar

from multibot_runner.files import FILE_CAP as FILE_CAP
from multibot_runner.files import BadFile as BadFile
from multibot_runner.files import read_file as read_file
from multibot_runner.files import replace_file as replace_file
from multibot_runner.files import sync_directory as sync_directory

BOT_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,38}")
PROGRAM_PREFIX = "bot-"
TOKEN = re.compile(r"\d{3,12}:[A-Za-z0-9_-]{30,64}")

FORMS = ("build", "script", "command")  # how a bot is launched
RECEIVES = ("auto", "polling", "webhook", "nothing")  # how updates reach it

# The two codes in supervisord's ``exitcodes``, after which it does not start a bot again.
EXIT_FINAL = 78  # EX_CONFIG: a restart cannot help
EXIT_FINISHED = 79  # ended by itself, and ``restart`` says that this is well
EXIT_NOT_NOW = 75  # EX_TEMPFAIL: not now, no crash
FINAL_NOT_BEFORE_S = 1.5  # an exit within startsecs is BACKOFF for supervisord, whatever the code

STATE_VARIABLE = "MULTIBOT_STATE"  # how the runner learns of the state and the runtime directory:
RUN_VARIABLE = "MULTIBOT_RUN"  # both stand in [supervisord] environment=

# Why a process ended (``Exit.cause``).
STOPPED, CRASHED, UNREACHABLE, REJECTED, MISCONFIGURED, FINISHED, GAVE_UP = (
    "stopped",
    "crashed",
    "unreachable",  # it failed because Telegram did not answer it
    "token-rejected",
    "misconfigured",
    "finished",
    "gave-up",
)
KILLED = "killed (SIGKILL or crash of the interpreter)"  # what is said of a run that died without a word
# What a runner is doing (``Heartbeat.phase``).
LOCKED_OUT, BACKING_OFF, QUARANTINED, RUNNING, STOPPING = (
    "locked-out",
    "backing-off",
    "quarantined",
    "running",
    "stopping",
)

STATUS_CAP = 16 * 1024 * 1024  # of the monitor's status.json
_KEPT_RUNS = 50
_LONGEST_TEXT = 500
_LONGEST_NUMBER = 1e11  # a time that datetime can show, far beyond any pid, count or length of time
_T = TypeVar("_T")


@dataclass(frozen=True)
class BotPaths:
    """The files of one bot: ``state`` and ``run`` are the installation's directories."""

    state: Path
    run: Path
    bot: str

    @property
    def state_dir(self) -> Path:
        """Owned by the installation (0711); the bot owns only ``work`` in it."""
        return self.state / "bots" / self.bot

    @property
    def run_dir(self) -> Path:
        """Owned by the bot (0700), made by the runner before it drops its rights."""
        return self.run / "bots" / self.bot

    @property
    def work(self) -> Path:
        """The bot's own working directory, made by the runner."""
        return self.state_dir / "work"

    @property
    def live(self) -> Path:
        """Launch form and the settings that need no restart (JSON object, read by the monitor)."""
        return self.state_dir / "live.json"

    def settings(self, digest: str) -> Path:
        return self.state_dir / f"{digest}.json"

    def token(self, digest: str) -> Path:
        return self.state_dir / f"{digest}.token"

    @property
    def heartbeat(self) -> Path:
        return self.run_dir / "heartbeat.json"

    @property
    def runs(self) -> Path:
        """The last starts and how they ended, newest first."""
        return self.run_dir / "runs.json"

    @property
    def lock(self) -> Path:
        return self.run_dir / "lock"


@dataclass(frozen=True)
class RunnerSettings:
    """Everything a bot's process needs but its token: the content of ``<digest>.json``, never changed once written.

    ``uid`` is the bot's own user id in a root install; ``user`` a named account instead of it; both empty: no drop.
    ``workdir`` and ``python`` may be empty (the bot's own directory, multibot's interpreter).
    """

    bot: str
    launch: str  # one of FORMS
    target: str
    token_var: str
    env: Mapping[str, str] = dataclasses.field(repr=False)
    env_file: str
    workdir: str
    python: str
    uid: Optional[int]
    user: str
    bot_api_url: str
    stop_wait_s: float
    poll_timeout_s: float
    backoff_max_s: float
    # What a file of an older multibot does not hold is as it was without the setting: an upgrade stops no bot.
    backoff_reset_s: float = 600.0
    quarantine_after: int = 0
    quarantine_retry_s: float = 3600.0
    restart: str = "always"  # or on-failure, never
    receives: str = "auto"  # one of RECEIVES
    port: int = 0
    webhook_url: str = ""
    webhook_listen: str = "127.0.0.1"
    watchdog_s: float = 0.0
    log_format: str = "plain"  # or stamped, json
    log_max_size: int = 10 * 1024**2  # this and the next are supervisord's business
    log_backups: int = 3
    log_rate: int = 0


@dataclass(frozen=True)
class Heartbeat:
    """What a runner says of itself, in one small file that it replaces.

    ``start_mono``: since when it is in business: the process, and once it is RUNNING the bot's own code. ``loop_mono``:
    last beat of the event loop, None where the launch form has none that we can see. ``poll_*``: the bot's getUpdates
    calls; ``poll_code`` is the HTTP status of the last failed one, None after a success, ``poll_webhook`` whether that
    was a 409 because a webhook is active; ``poll_timeout_s`` is how long Telegram holds the last one (its ``timeout``).
    ``polling_seen``: whether this launch form's polls can be seen at all (a command bot's cannot). ``until_mono``: the
    end of a backoff or a quarantine. ``flood_until_mono``: until when Telegram (429) wants no poll. ``update_*``:
    updates that arrived, by poll or webhook. ``handlers_seen``: whether the bot's handlers can be seen;
    ``oldest_update_mono`` is when the oldest update arrived that is not handled yet (None: none waits),
    ``handler_latency_s`` how long the last handled one took from its arrival. ``sent_*``: the bot's send calls that
    succeeded. ``ready_mono``, ``watchdog_*``, ``status``: what a command said by sd_notify; ``watchdog_s`` is within
    what time it has to speak again (None: it has no watchdog). While it waits to start, ``status`` says why.
    """

    pid: int
    phase: str
    start_mono: float
    loop_mono: Optional[float] = None
    polling_seen: bool = False
    poll_start_mono: Optional[float] = None
    poll_success_mono: Optional[float] = None
    poll_failure_mono: Optional[float] = None
    poll_code: Optional[int] = None
    poll_webhook: bool = False
    poll_timeout_s: Optional[float] = None
    poll_count: int = 0
    update_mono: Optional[float] = None
    update_count: int = 0
    until_mono: Optional[float] = None
    flood_until_mono: Optional[float] = None
    handlers_seen: bool = False
    oldest_update_mono: Optional[float] = None
    handled_count: int = 0
    handler_errors: int = 0
    handler_latency_s: Optional[float] = None
    sent_mono: Optional[float] = None
    sent_count: int = 0
    ready_mono: Optional[float] = None
    watchdog_mono: Optional[float] = None
    watchdog_s: Optional[float] = None
    status: str = ""


@dataclass(frozen=True)
class Exit:
    """Why a process ended: ``code`` or ``signal`` (one of them), a cause word, and one line for a person.

    ``code`` is that of the runner, as supervisord sees it: EXIT_FINAL and EXIT_FINISHED where it is not started again.
    """

    ended_at: float
    cause: str
    text: str
    code: Optional[int] = None
    signal: Optional[int] = None


@dataclass(frozen=True)
class Run:
    """One start. ``exit`` None and not ``stopping``: it died without a word, or is still running.

    ``waited_s``: how long it waited before it ran the bot's code (a backoff, a quarantine).
    """

    started_at: float
    start_mono: float
    pid: int
    digest: str
    stopping: bool = False
    exit: Optional[Exit] = None
    waited_s: float = 0.0

    @property
    def died(self) -> bool:
        """Whether this run, known to be over, counts as a death: no stop, no end that is final or well."""
        if self.exit is None:
            return not self.stopping
        return self.exit.cause in (CRASHED, UNREACHABLE, FINISHED) and self.exit.code not in (EXIT_FINAL, EXIT_FINISHED)


def encode(value: Any) -> bytes:
    """Return a dataclass of this module (or a tuple of them) as JSON."""
    plain = [dataclasses.asdict(v) for v in value] if isinstance(value, (tuple, list)) else dataclasses.asdict(value)
    text = json.dumps(plain, ensure_ascii=False, sort_keys=True)
    return text.encode("utf-8", "backslashreplace")  # half a character (of a file's name) as JSON writes it: \udce9


def decode(kind: Type[_T], data: bytes) -> _T:
    """Return the ``kind`` that ``encode`` made ``data`` from, every field of its type; unknown keys are ignored.

    What a bot may have written itself (all but RunnerSettings) is harmless in it: texts are one short line, times lie
    between 1970 and the year 5138. Raises BadFile when ``data`` is not such a thing.
    """
    return _build(kind, _parse(data))


def decode_runs(data: bytes) -> Tuple[Run, ...]:
    """Return the runs in ``data``, newest first; each as ``decode`` returns it. Raises BadFile."""
    items = _parse(data)
    if not isinstance(items, list):
        raise BadFile("not a list of runs")
    return tuple(_build(Run, item) for item in items[:_KEPT_RUNS])


def decode_object(data: bytes) -> Dict[str, Any]:
    """Return the JSON object in ``data``; raises BadFile. What it holds is not checked."""
    item = _parse(data)
    if not isinstance(item, dict):
        raise BadFile("not a JSON object")
    return item


def _parse(data: bytes) -> Any:
    """Return the value in ``data``, None for the NaN and Infinity that Python takes and JSON does not have."""
    try:
        return json.loads(data, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:  # the latter from 200,000 brackets
        raise BadFile(f"not JSON: {type(error).__name__}") from error


def _build(kind: Type[_T], item: Any) -> _T:
    if not isinstance(item, dict):
        raise BadFile(f"not a {kind.__name__}: {type(item).__name__} where an object was expected")
    known: Dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in item:
            known[field.name] = _field(kind, str(field.type), item[field.name], field.name)
    try:
        return kind(**known)
    except TypeError as error:  # a field without a default is missing
        raise BadFile(f"not a {kind.__name__}: {error}") from error


def _field(kind: Type[Any], annotation: str, value: Any, name: str) -> Any:
    if annotation.startswith("Optional["):
        return None if value is None else _field(kind, annotation[len("Optional[") : -1], value, name)
    if annotation == "Exit":
        return _build(Exit, value)
    if not _CHECKS[annotation](value):
        # The value may be a secret.
        raise BadFile(f"not a {kind.__name__}: {name} is a {type(value).__name__} or out of range")
    return _one_line(value) if annotation == "str" and kind is not RunnerSettings else value


def is_number(value: Any, longest: float = _LONGEST_NUMBER) -> bool:
    """Whether ``value`` is a finite number from 0 to ``longest``, that all our arithmetic can take."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= longest


def _is_code(value: Any) -> bool:
    return isinstance(value, int) and is_number(abs(value)) and not isinstance(value, bool)


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "int": _is_code,
    "float": is_number,
    "Mapping[str, str]": _is_texts,
}


def _one_line(text: str) -> str:
    """Return the beginning of a text as one line: no control character, no half of a character, nothing endless."""
    return "".join(c if c.isprintable() else " " for c in text[:_LONGEST_TEXT])


def with_run(runs: Tuple[Run, ...], run: Run) -> Tuple[Run, ...]:
    """Return ``runs`` with ``run`` as the newest; the oldest fall out."""
    return (run, *runs)[:_KEPT_RUNS]


def lifecycle(statename: str, exit_code: int, phase: Optional[str]) -> str:
    """Return a bot's lifecycle state: stopped, starting, running, backing-off, quarantined, finished or stopping.

    ``statename`` is supervisord's (``FATAL`` ...), ``exit_code`` that of the last process, ``phase`` the runner's
    (None: not known, or of another process).
    """
    if statename == "RUNNING":
        waits = {LOCKED_OUT: "starting", BACKING_OFF: "backing-off", QUARANTINED: "quarantined"}
        return waits.get(phase or "", "running")
    if statename == "EXITED":
        return {EXIT_FINAL: "quarantined", EXIT_FINISHED: "finished"}.get(exit_code, "backing-off")
    table = {"STOPPED": "stopped", "STARTING": "starting", "BACKOFF": "backing-off", "STOPPING": "stopping"}
    return table.get(statename, "quarantined")
