"""The SQL of the program: one named, described query per block of ``database/sql/*.sql``.

A block is ``-- name: fetch_bots``, one or more comment lines that say what it is for, then the statement.
Every query has one caller (held by a test).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_HEADER = re.compile(r"^-- name: *", re.MULTILINE)
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Query:
    """A statement with its name and what it is for; ``file`` is where it stands."""

    name: str
    about: str
    text: str
    file: str


def parse(text: str, file: str) -> list[Query]:
    """Return the queries in ``text``; raises ValueError for a block without a name, a description or a statement."""
    before, *blocks = _HEADER.split(text)
    if any(line.strip() and not line.startswith("--") for line in before.splitlines()):
        raise ValueError(f"{file}: a statement stands before the first '-- name:'")
    return [_parse_block(block, file) for block in blocks]


def _parse_block(block: str, file: str) -> Query:
    name, *lines = block.strip().splitlines()
    about = []
    while lines and lines[0].startswith("--"):
        about.append(lines.pop(0)[2:].strip())
    text = "\n".join(lines).strip().removesuffix(";")
    if not _NAME.fullmatch(name) or not about or not text:
        raise ValueError(f"{file}: {name!r} needs a name, a description and a statement")
    return Query(name, " ".join(about), text, file)


@cache
def load() -> dict[str, Query]:
    """Return every query by name; raises ValueError for a name that is used twice."""
    found: dict[str, Query] = {}
    for file in sorted(files("multibot_plugin.database.sql").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".sql"):
            for query in parse(file.read_text(), file.name):
                if query.name in found:
                    raise ValueError(f"{file.name}: {query.name} is also in {found[query.name].file}")
                found[query.name] = query
    return found


def sql(name: str) -> str:
    """Return the statement of this name."""
    return load()[name].text
