"""supervisord's configuration: the main file, the templates, and what supervisor's own parser says of a text."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import jinja2

from multibot_plugin.bots.render import environment
from multibot_plugin.errors import BadValue, MultibotError
from multibot_plugin.home import Home, make_runtime
from multibot_plugin.supervisor.client import refused_where
from multibot_runner.protocol import replace_file

_WORD = re.compile(r"[A-Za-z0-9_./:+=,@~ -]+")
_ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]*")
_PARSE_TIMEOUT_S = 60.0
# Enough of a main file for a text that is meant to be included.
_FRAME = "[supervisord]\nlogfile=/dev/null\npidfile=/dev/null\n\n"


class EmbeddedProgram(Protocol):
    """The embedded database as a program: its command, word by word, the account it runs as (None: ours), how it is
    stopped (seconds until SIGKILL), and its place in the order of starting and stopping."""

    @property
    def command(self) -> Sequence[str]: ...
    @property
    def user(self) -> str | None: ...
    @property
    def stop_signal(self) -> str: ...
    @property
    def stop_wait_s(self) -> int: ...
    @property
    def priority(self) -> int: ...


@dataclass(frozen=True)
class Parsed:
    """A program as supervisor's parser understood it."""

    group: str
    name: str
    command: str
    autostart: bool
    stop_wait_s: int


@cache
def template(name: str) -> jinja2.Template:
    """Return a template of the package multibot_templates; an undefined name in it is an error."""
    loaded = jinja2.Environment(
        loader=jinja2.PackageLoader("multibot_templates", "."), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - not HTML; nothing reaches these templates that needs quoting
    )  # fmt: skip
    return loaded.get_template(name)


def render_main(home: Home, embedded: EmbeddedProgram | None = None, python: str = sys.executable) -> str:
    """Return the text of supervisord.conf for this installation.

    Raises BadValue for a word that supervisord's configuration could change the meaning of.
    """
    return template("supervisord.conf.j2").render(
        home=home, python=_checked(python), embedded=_program(embedded), root=os.geteuid() == 0,
        environment=environment(home.variables),
    )  # fmt: skip


def render_sections(home: Home, python: str = sys.executable) -> str:
    """Return the three sections that a supervisord.conf needs for multibot; raises BadValue as ``render_main``."""
    return template("sections.conf.j2").render(
        home=home, python=_checked(python), environment=environment(home.variables)
    )


def render_postgres(home: Home, embedded: EmbeddedProgram) -> str:
    """Return the section of the embedded database; raises BadValue as ``render_main``."""
    return template("postgres.conf.j2").render(home=home, embedded=_program(embedded))


def _program(embedded: EmbeddedProgram | None) -> dict[str, object] | None:
    if embedded is None:
        return None
    if embedded.user is not None and not _ACCOUNT.fullmatch(embedded.user):
        raise BadValue(f"{embedded.user!r} is not the name of an account")
    command = " ".join(_quoted(word) for word in embedded.command)
    return {"command": command, "user": embedded.user, "stop_signal": embedded.stop_signal,
            "stop_wait_s": embedded.stop_wait_s, "priority": embedded.priority}  # fmt: skip


def _checked(python: str) -> str:
    _quoted(python)
    return python


def _quoted(word: str) -> str:
    if not _WORD.fullmatch(word):
        raise BadValue(f"{word}: supervisord's configuration cannot hold this: use letters, digits and _./:+=,@~-")
    return f'"{word}"'


def make_directories(home: Home) -> None:
    """Create what supervisord.conf refers to, ours alone to write; the bots reach only what is their own below it."""
    make_runtime(home)
    # The state directory can be crossed by the bots (to their own part), configuration and logs cannot be entered.
    for directory, mode in (
        (home.config, 0o755), (home.config / "conf.d", 0o755), (home.log, 0o700), (home.state, 0o711),
        (home.state / "bots", 0o711), (home.rendered.parent, 0o700), (home.run / "bots", 0o711),
    ):  # fmt: skip
        directory.mkdir(mode=mode, parents=True, exist_ok=True)


def install_main(home: Home, embedded: EmbeddedProgram | None = None, python: str = sys.executable) -> None:
    """Write supervisord.conf (replacing it) after supervisor's own parser has accepted it; makes the directories.

    The include of the bots gets an empty file where there is none yet.
    """
    text = render_main(home, embedded, python)
    make_directories(home)
    if not home.rendered.exists():
        replace_file(home.rendered, b"; no bots yet\n")
    parse(text, home)
    replace_file(home.supervisord_conf, text.encode(), mode=0o644)


def install_included(home: Home, embedded: EmbeddedProgram | None = None) -> None:
    """Make what an operator's supervisord includes (``rendered/*.conf``), and the directories.

    Sections of bots that were rendered for another home or supervisord, without our variables, are taken away: they
    could not start. ``apply`` renders them anew.
    """
    make_directories(home)
    text = home.rendered.read_text() if home.rendered.exists() else None
    if text is None or ("[program:" in text and environment(home.variables) not in text):
        replace_file(home.rendered, b"; no bots yet\n")
    if embedded is None:
        home.rendered_postgres.unlink(missing_ok=True)
    else:
        replace_file(home.rendered_postgres, render_postgres(home, embedded).encode())


def parse(text: str, home: Home, *, included: bool = False) -> list[Parsed]:
    """Return the programs that supervisor's own parser finds in ``text``, from a child process.

    ``included``: the text is a file to be included, not a main file. Raises MultibotError naming the section that
    the parser refused; never its words, which may quote a secret.
    """
    child = [sys.executable, "-P", "-m", "multibot_plugin.supervisor.parse", str(home.config)]
    try:
        done = subprocess.run(child, input=(_FRAME if included else "") + text, capture_output=True, text=True,
                              encoding="utf-8", timeout=_PARSE_TIMEOUT_S, check=True)  # fmt: skip
        answer = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        raise MultibotError(f"supervisor's parser failed on the configuration ({type(error).__name__})") from error
    if "error" in answer:
        detail = refused_where(answer["error"]) or f" ({answer['kind']} at {answer['place']})"
        raise MultibotError(f"supervisor's parser refuses the configuration{detail}")
    return [
        Parsed(group["group"], p["name"], p["command"], p["autostart"], p["stopwaitsecs"])
        for group in answer["groups"]
        for p in group["programs"]
    ]
