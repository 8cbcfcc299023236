"""What is asked before a bot is written into the database: would it run? Nothing here writes anything.

Each function answers one question and raises one line that says what, where and what to do. The files are looked at
as the user that the bot will be, the imports by the interpreter that the bot will have.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from multibot_plugin.bots.config import BotConfig
from multibot_plugin.bots.identity import Identity, obstacle, remedy
from multibot_plugin.errors import BadValue, Refused
from multibot_runner.outcome import Misconfigured
from multibot_runner.process import read_env_file
from multibot_runner.protocol import BOT_ID, TOKEN
from multibot_runner.target import words_of

OLDEST_PYTHON = (3, 10)
_INTERPRETER_TIMEOUT_S = 30.0
# What has another name where it is installed from.
_PROJECTS = {"telegram": "python-telegram-bot", "telebot": "pyTelegramBotAPI",
             "tornado": "python-telegram-bot[webhooks]"}  # fmt: skip
_PROBE = Path(__file__).with_name("probe.py")


def check_id(bot: str) -> None:
    if not BOT_ID.fullmatch(bot):
        raise BadValue(f"bot {bot!r}: an id is 1 to 39 of a-z, 0-9 and -, and does not begin with -")


def check_token_form(bot: str, token: str) -> None:
    if not TOKEN.fullmatch(token):
        raise BadValue(f"the token for {bot!r} does not look like one from @BotFather (123456789:AA...)")


def check_token_free(bot: str, token: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Raise Refused when another bot of ``rows`` (columns id, token) has this token or its leading number."""
    number = token.partition(":")[0]
    for row in rows:
        if row["id"] == bot or str(row["token"]).partition(":")[0].lstrip("0") != number.lstrip("0"):
            continue
        if row["token"] == token:
            raise Refused(f"the token of {bot!r} is already used by {row['id']!r}: one token can be polled once")
        raise Refused(
            f"the token of {bot!r} is for the Telegram bot {number} that {row['id']!r} already is, "
            f"which can be polled once: 'multibot bot set {row['id']}' gives {row['id']!r} a new token"
        )


# --- files -----------------------------------------------------------------------------------------------------


def check_readable(who: Identity, path: Path, what: str, *, secret: bool = False) -> None:
    """Raise unless ``path`` is a file that ``who`` can open for reading. ``secret``: and nobody else should."""
    _check_present(path, what)
    _check_allowed(who, path, os.R_OK, "read", secret)


def check_executable(who: Identity, path: Path, what: str) -> None:
    """Raise unless ``path`` is a program that ``who`` may start."""
    _check_present(path, what)
    if not path.stat().st_mode & 0o111:
        raise BadValue(f"{what} {path} is not executable: chmod +x it")
    _check_allowed(who, path, os.X_OK, "execute")


def check_workdir(who: Identity, path: Path) -> None:
    """Raise unless ``path`` is a directory that ``who`` can enter."""
    if not path.is_dir():
        raise BadValue(f"workdir {path} is no directory: create it first")
    _check_allowed(who, path, os.X_OK, "enter")


def _check_present(path: Path, what: str) -> None:
    try:
        if path.is_file():
            return
        exists = path.exists()
    except PermissionError:  # only where we are not root: then the bot, being us, cannot either
        return
    raise BadValue(f"{what} {path} {'is not a file' if exists else 'does not exist'}")


def _check_allowed(who: Identity, path: Path, mode: int, act: str, secret: bool = False) -> None:
    blocked = obstacle(who, path, mode)
    if not blocked:
        return
    if not blocked.startswith("/"):
        raise Refused(f"{who} cannot {act} {path}: {blocked}")
    place = Path(blocked)
    todo = remedy(who, place, mode, secret=secret)
    if place == path:
        raise Refused(f"{who} cannot {act} {path}: {todo}")
    act = "enter" if place.is_dir() else act
    raise Refused(f"{who} cannot {act} {place}, which it must for {path}: {todo}")


# --- what is launched ------------------------------------------------------------------------------------------


def check_launch(config: BotConfig, settings: Mapping[str, Any], who: Identity, work: Path) -> None:
    """Raise when the program of ``config`` cannot be started, or lacks something it needs.

    ``settings`` are its effective ones, ``work`` its own working directory (need not exist yet).
    """
    if settings["workdir"]:
        check_workdir(who, Path(settings["workdir"]))
    if settings["env_file"]:
        check_readable(who, Path(settings["env_file"]), "env-file", secret=True)
        _check_env_file(settings["env_file"])
    if config.launch == "command":
        check_command(config, who, Path(settings["workdir"] or work))
        return
    file, module, function = bot_code(config)
    if file is not None:
        check_readable(who, file, config.launch)
    python = Path(settings["python"] or _our_python())
    check_executable(who, python, "interpreter")
    question = {
        "folder": os.path.dirname(os.path.realpath(file)) if file else settings["workdir"] or str(work),
        "file": str(file or ""), "module": module, "function": function, "run": config.launch == "script",
        "modules": _needed_modules(config, settings),
        "token_var": settings["token_var"] if config.launch == "script" else "",
        "python": bool(settings["python"]), "workdir": settings["workdir"],
    }  # fmt: skip
    check_imports(who, python, question, bot_environment(config.env, work))


def _needed_modules(config: BotConfig, settings: Mapping[str, Any]) -> list[str]:
    """Return what the runner imports for this bot."""
    if config.launch != "build":
        return []
    return ["telegram.ext", "tornado"] if settings["receives"] == "webhook" else ["telegram.ext"]


def _check_env_file(path: str) -> None:
    """Raise for a line that the runner would refuse; a file that only the bot's user may read is left to it."""
    try:
        read_env_file(path)
    except Misconfigured as error:
        if os.access(path, os.R_OK):
            raise Refused(str(error)) from error


def bot_code(config: BotConfig) -> tuple[Path | None, str, str]:
    """Return the file, or else the module, that a build or script bot consists of, and the function in it."""
    if config.launch == "script":
        words = words_of(config.target)
        if words[0] == "-m":
            return None, words[1], ""
        script = Path(words[0])
        return (script / "__main__.py" if script.is_dir() else script), "", ""
    place, _, function = config.target.rpartition(":")
    return (Path(place), "", function) if place.startswith("/") else (None, place, function)


def bot_environment(env: Mapping[str, str], work: Path) -> dict[str, str]:
    """Return about what a bot's process has: ours without what belongs to our interpreter, and its own variables."""
    foreign = re.compile(r"PYTHON.*|VIRTUAL_ENV|MULTIBOT_.*|BOT_TOKEN|SUPERVISOR_.*")
    inherited = {key: value for key, value in os.environ.items() if not foreign.fullmatch(key)}
    return {**inherited, "HOME": str(work), **env, "PYTHONDONTWRITEBYTECODE": "1"}


def check_command(config: BotConfig, who: Identity, workdir: Path) -> None:
    """Raise unless the program of a command bot is found and ``who`` may start it."""
    program = shlex.split(config.target)[0]
    if "/" in program:
        check_executable(who, workdir / program, "command")
        return
    # As execvp does it: the first one in PATH that this user may start.
    path = config.env.get("PATH") or os.environ.get("PATH") or os.defpath
    candidates = [found for found in (shutil.which(program, path=place) for place in path.split(os.pathsep)) if found]
    if not candidates:
        raise BadValue(f"command {program!r} is not found in PATH: give its whole path")
    if all(obstacle(who, Path(found), os.X_OK) for found in candidates):
        check_executable(who, Path(candidates[0]), "command")


def _our_python() -> str:
    import sys

    return sys.executable


def check_imports(who: Identity, python: Path, question: Mapping[str, Any], env: Mapping[str, str]) -> None:
    """Have ``python`` look, as ``who``, for what the bot imports (probe.py); raise when it lacks something."""
    replies = _run_probe(who, python, question, env)
    version = replies["version"]
    if version < OLDEST_PYTHON:
        shown = ".".join(map(str, version))
        raise BadValue(f"interpreter {python} is Python {shown}: bots need 3.10 or later")
    if "missing" in replies:
        raise Refused(_missing(str(replies["missing"]), python, question))
    if "syntax" in replies:
        raise Refused(f"Python {version[0]}.{version[1]} cannot read {replies['syntax']}")
    if "unreadable" in replies:
        raise Refused(f"{who} cannot read {replies['unreadable']}")
    if "undefined" in replies:
        raise Refused(f"no function {question['function']!r} in {replies['undefined']}")
    if "literal" in replies:
        variable = question["token_var"]
        raise Refused(
            f"{replies['literal']}: the token stands there as a text, so the one given here would not be used: "
            f'write {replies["instead"]}(os.environ["{variable}"]) (or leave the question out: --no-check)'
        )


def _missing(module: str, python: Path, question: Mapping[str, Any]) -> str:
    if module == question["module"]:
        path = f"--build /path/file.py:{question['function']}" if question["function"] else "--script /path/file.py"
        ways = [f"give {path}", "--workdir DIR that holds it"]
        ways += [] if question["python"] else ["--python /path/venv/bin/python"]
        where = f"in {question['workdir']} or " if question["workdir"] else ""
        return f"No module named {module!r} {where}for {python}: {', '.join(ways[:-1])}, or {ways[-1]}"
    name = module.partition(".")[0]
    project = _PROJECTS.get(name, name)
    if question["python"]:
        install = f"{shlex.quote(str(python))} -m pip install {shlex.quote(project)}"
        return f"No module named {name!r} for {python}: {install}"
    told = f" ({project})" if project != name else ""
    return f"No module named {name!r}{told} for {python}: give --python /path/venv/bin/python"


def _run_probe(who: Identity, python: Path, question: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    command = [str(python), "-c", _PROBE.read_text(), json.dumps(question)]
    rights: dict[str, Any] = {} if who.ours else {"user": who.uid, "group": who.gid, "extra_groups": list(who.groups)}
    try:
        done = subprocess.run(command, env=dict(env), cwd="/", stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=_INTERPRETER_TIMEOUT_S, check=False, **rights)  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Refused(f"interpreter {python} gave no answer within {_INTERPRETER_TIMEOUT_S:.0f} s") from None
    except OSError as error:
        raise Refused(f"{who} cannot execute {python}: {error.strerror}") from error
    replies = _replies(done.stdout.decode(errors="replace"))
    if not replies["version"] or (done.returncode and replies["version"] >= OLDEST_PYTHON):
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit {done.returncode}"]
        raise Refused(f"interpreter {python} does not work for {who}: {last[0][:200]}")
    return replies


def _replies(output: str) -> dict[str, Any]:
    """Return the objects among the lines of ``output`` as one; ``version`` is a tuple, empty when there is none."""
    replies: dict[str, Any] = {}
    for line in output.splitlines():
        try:
            found = json.loads(line)
        except ValueError:  # an interpreter may say other things, too
            continue
        replies.update(found if isinstance(found, dict) else {})
    version = replies.get("version")
    if not isinstance(version, list) or not all(isinstance(part, int) for part in version):
        version = []
    return replies | {"version": tuple(version)}
