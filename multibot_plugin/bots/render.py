"""The sections of the bots, as text and back. Pure: the template is handed in, nothing is read or written."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import jinja2

from multibot_plugin.bots.config import Deployment
from multibot_plugin.errors import BadValue
from multibot_runner.protocol import BOT_ID, PROGRAM_PREFIX

# What supervisord adds to the bot's own time before it sends SIGKILL: the runner ends itself first, with a reason.
_STOP_MARGIN_S = 2
# Paths in a section stand in double quotes or alone on a line; these characters mean nothing to supervisor's parser
# (4.3 and 4.4), to its % expansion, or to its shlex. A blank is safe inside the quotes as long as ; and # are not.
_PATH = re.compile(r"/[A-Za-z0-9_./:+=,@~-]*")
_QUOTED_PATH = re.compile(r"/[A-Za-z0-9_./:+=,@~ -]*")
_DIGEST = re.compile(r"[0-9a-f]{16}")

_HEADER = re.compile(r"^\[(?P<name>[^]\n]*)\][^\n]*$", re.MULTILINE)
_AUTOSTART = re.compile(r"^autostart=(true|false)$", re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """What a bot's section says. ``stop_wait_s``: whole seconds from SIGTERM to supervisord's SIGKILL.

    ``log_max_size`` (bytes) and ``log_backups`` are supervisord's numbers for the rotation of its log.
    ``text`` is the section as it stands in the file (empty for one not rendered yet); it takes no part in comparisons.
    """

    id: str
    digest: str
    autostart: bool
    stop_wait_s: int
    text: str = field(default="", compare=False)
    log_max_size: int = 10 * 1024**2
    log_backups: int = 3


@dataclass(frozen=True)
class Place:
    """What all sections have in common: multibot's interpreter, the directory of the logs, and what the runner is
    told in its environment where supervisord itself does not tell it (an operator's own supervisord)."""

    python: str
    log: Path
    variables: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class RenderedFile:
    name: str
    text: str


def section_of(deployment: Deployment) -> Section:
    """Return what the section of ``deployment`` has to say."""
    wait = math.ceil(deployment.settings.stop_wait_s) + _STOP_MARGIN_S
    size, backups = deployment.settings.log_max_size, deployment.settings.log_backups
    return Section(deployment.id, deployment.digest, deployment.autostart, wait, "", size, backups)


def render(
    template: jinja2.Template, deployments: Iterable[Deployment], kept: Iterable[Section], place: Place
) -> RenderedFile:
    """Return the one file with the sections of ``deployments`` and, as they were, of ``kept``, sorted by id.

    Raises BadValue for anything that supervisor's parser could read differently from what is meant. The inputs are
    checked long before; this is the last gate before supervisord, which runs as root in a root install.
    """
    sections = sorted([section_of(d) for d in deployments] + list(kept), key=lambda section: section.id)
    for section in sections:
        _check(section)
    if len({section.id for section in sections}) != len(sections):
        raise BadValue("two sections for one bot")
    if not _PATH.fullmatch(str(place.log)):
        raise BadValue(f"{place.log}: supervisord's configuration cannot hold this path")
    if not _QUOTED_PATH.fullmatch(place.python):
        raise BadValue(f"{place.python}: supervisord's configuration cannot hold this path of an interpreter")
    text = template.render(
        sections=sections, python=place.python, log=place.log, environment=environment(place.variables)
    )
    return RenderedFile("bots.conf", text)


def environment(variables: Mapping[str, Path]) -> str:
    """Return the value of an ``environment=``; raises BadValue for a path that its quoting could change."""
    for path in variables.values():
        if not _PATH.fullmatch(str(path)):
            raise BadValue(f"{path}: supervisord's configuration cannot hold this path")
    return ",".join(f'{name}="{path}"' for name, path in variables.items())


def _check(section: Section) -> None:
    # isinstance as well: a template writes whatever str() gives.
    if not isinstance(section.id, str) or not BOT_ID.fullmatch(section.id):
        raise BadValue(f"bot {section.id!r}: not an id")
    if not isinstance(section.digest, str) or not _DIGEST.fullmatch(section.digest):
        raise BadValue(f"bot {section.id!r}: its digest is not 16 hexadecimal digits")
    numbers = (section.stop_wait_s, section.log_max_size, section.log_backups)
    if type(section.autostart) is not bool or any(type(number) is not int or number < 0 for number in numbers):
        raise BadValue(f"bot {section.id!r}: autostart or a number cannot be written into a section")


def read_rendered(text: str) -> dict[str, Section]:
    """Return the bots' sections in ``text`` by id.

    The file may have been damaged by hand: what is not whole (or stands there twice) is left out, so that the next
    plan puts it back.
    """
    found: dict[str, Section] = {}
    twice: set[str] = set()
    for name, body in split_sections(text):
        if not name.startswith(f"program:{PROGRAM_PREFIX}"):
            continue
        bot = name.removeprefix(f"program:{PROGRAM_PREFIX}")
        section = _read(bot, body)
        if bot in found:
            twice.add(bot)
        elif section is not None:
            found[bot] = section
    return {bot: section for bot, section in found.items() if bot not in twice}


def split_sections(text: str) -> list[tuple[str, str]]:
    """Return (name, text with its header) of every section, without what stands before the first."""
    headers = list(_HEADER.finditer(text))
    ends = [header.start() for header in headers[1:]] + [len(text)]
    return [(header["name"], text[header.start() : end].strip()) for header, end in zip(headers, ends, strict=False)]


def with_sections(text: str, sections: Mapping[str, str]) -> str:
    """Return a rendered file with the beginning of ``text`` and these sections (by bot), sorted by id."""
    first = _HEADER.search(text)
    head = text[: first.start()].rstrip() if first else text.rstrip()
    return head + "\n" + "".join(f"\n{sections[bot]}\n" for bot in sorted(sections))


def _read(bot: str, body: str) -> Section | None:
    options = _options(body)
    words = options.get("command", "").split()
    wait = options.get("stopwaitsecs", "")
    autostart = options.get("autostart")
    whole = (
        BOT_ID.fullmatch(bot)
        and len(words) > 2
        and words[-2] == bot
        and _DIGEST.fullmatch(words[-1])
        and wait.isdecimal()
        and autostart in ("true", "false")
    )
    if not whole:
        return None
    found = Section(bot, words[-1], autostart == "true", int(wait), body)
    size, backups = (options.get(f"stdout_logfile_{name}", "") for name in ("maxbytes", "backups"))
    if size.isdecimal() and backups.isdecimal():  # else what an older multibot wrote: 10MB
        found = replace(found, log_max_size=int(size), log_backups=int(backups))
    return found


def _options(body: str) -> Mapping[str, str]:
    pairs = (line.partition("=") for line in body.splitlines()[1:])
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def with_autostart(text: str, bot: str, enabled: bool) -> str | None:
    """Return ``text`` with the one line ``autostart=`` of this bot's section set; None without such a line."""
    header = re.search(rf"^\[program:{PROGRAM_PREFIX}{re.escape(bot)}\]$", text, re.MULTILINE)
    if header is None:
        return None
    following = _HEADER.search(text, header.end())
    end = following.start() if following else len(text)
    body, count = _AUTOSTART.subn(f"autostart={'true' if enabled else 'false'}", text[header.end() : end], count=1)
    return text[: header.end()] + body + text[end:] if count else None
