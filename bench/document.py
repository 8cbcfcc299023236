"""What the benchmark programs have in common: the machine's facts, and the one document that each writes its part of.

``bench/results.json`` holds an object per part, ``docs/benchmarks.md`` a section per part, in the order of ``TITLES``.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "bench" / "results.json", ROOT / "docs" / "benchmarks.md"
TITLES = {
    "multibot": "A bot's way through multibot",
    "costs": "What multibot adds to a bot, and 50 at once",
    "supervisors": "Beside supervisord, circus and pm2",
}
_HEAD = "# Benchmarks\n\nWritten by `make bench`; shared machine, so read them as orders of magnitude.\n"


def timed(action: Callable[[], object]) -> float:
    """Return how many seconds of wall time ``action`` takes."""
    began = time.monotonic()
    action()
    return time.monotonic() - began


def about() -> dict[str, str]:
    """Return revision, date and machine of a run."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    revision = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    return {"revision": revision, "date": datetime.now(UTC).date().isoformat(), "machine": _machine()}


def _machine() -> str:
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = psutil.virtual_memory().total / 1024**3
    return (
        f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"Linux {platform.release()}, CPython {platform.python_version()}"
    )


def publish(part: str, results: Mapping[str, Any], lines: Iterable[str]) -> None:
    """Write one part, with the facts of this run, and leave the others as they are; show it, too."""
    facts = about()
    text = f"Revision {facts['revision']}, {facts['date']}. {facts['machine']}.\n\n" + "\n".join(lines)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[part] = {**facts, **results}
    RESULTS.write_text(json.dumps({p: known[p] for p in TITLES if p in known}, indent=1) + "\n")
    PAGE.write_text(with_section(PAGE.read_text() if PAGE.exists() else "", TITLES[part], text))
    print(text)


def with_section(page: str, title: str, text: str) -> str:
    """Return ``page`` with this section's text put in or replaced. Pure."""
    _, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    found = {head: body.strip() for head, _, body in (section.partition("\n") for section in sections)}
    found[title] = text.strip()
    return _HEAD + "".join(f"\n## {head}\n\n{found[head]}\n" for head in TITLES.values() if head in found)
