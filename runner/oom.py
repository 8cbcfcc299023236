"""Whether the kernel's out-of-memory killer was at work: it says so in counters only."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

_CGROUPS, _PROC = Path("/sys/fs/cgroup"), Path("/proc")


@dataclass(frozen=True)
class Kills:
    """How many processes it has killed: in this process's control group, and on the whole machine."""

    group: Optional[int] = None
    system: Optional[int] = None


def look(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> Kills:
    """Return the counters as they are; None where there is none (of the root group, for example)."""
    group = None
    with contextlib.suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers and group is None:
                group = _count(cgroups / path.lstrip("/") / "memory.events")
            elif "memory" in controllers.split(","):  # cgroup v1
                group = _count(cgroups / "memory" / path.lstrip("/") / "memory.oom_control")
    return Kills(group, _count(proc / "vmstat"))


class Watch:
    """Looks from time to time, so that a kill is blamed for what happens near it alone."""

    def __init__(self) -> None:
        self._looks = (look(), look())

    def verdict(self) -> str:
        """Look; return what is to be said of a SIGKILL since the last look but one: some are counted before the last,
        and seen after it.
        """
        before, between = self._looks
        self._looks = (between, look())
        return verdict(before, self._looks[1])


def verdict(before: Kills, after: Kills) -> str:
    """Return what is to be said of a SIGKILL between two looks; "": memory was not the reason. Pure."""
    if _rose(before.group, after.group):
        return "out of memory: the limit of its control group"
    return "probably out of memory" if _rose(before.system, after.system) else ""


def _rose(before: Optional[int], after: Optional[int]) -> bool:
    return before is not None and after is not None and after > before


def _count(path: Path) -> Optional[int]:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return None
