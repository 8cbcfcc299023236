"""What is compared, how samples become one value each, and what the table says of it. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

OURS, STOCK = "multibot", "stock"
MANAGERS = (OURS, STOCK, "circus", "pm2")
LEVEL = 1.1  # closer than this is no difference on a shared machine
Summary = Callable[[Sequence[float]], float]


@dataclass(frozen=True)
class Measure:
    """One figure of all managers, less is better. ``allowed``: so many times stock's value is within the goal."""

    key: str
    what: str
    unit: str
    summary: Summary = statistics.median
    allowed: float | None = None


MEASURES = {
    m.key: m
    for m in (
        Measure("start", "start of all", "s"),
        Measure("restart", "kill -9 of one to its new process, median", "s"),
        Measure("restart-max", "the same, longest", "s", max),
        Measure("crash", "kill -9 of all to all back", "s"),
        Measure("stop", "stop of all, each needing 1 s", "s"),
        Measure("shutdown", "end of the manager with all, each needing 1 s", "s"),
        Measure("change", "one changed program: command and new process", "s"),
        Measure("gap", "longest wait for the daemon's answer meanwhile", "s", max),
        Measure("lost", "other programs that lost their process by it", "", max),
        Measure("status", "status of all, whole command", "s"),
        Measure("states", "state of all over RPC", "s"),
        Measure("info", "getAllProcessInfo", "s"),
        Measure("cpu", "idle CPU of the daemon", "% of a core", allowed=1.5),
        Measure("cpu-watched", "the same while the monitor looks", "% of a core", allowed=1.5),
        Measure("pss", "memory of the daemon (PSS)", "MiB", allowed=1.5),
        Measure("monitor-cpu", "idle CPU of the monitor, a process that the others lack", "% of a core"),
        Measure("monitor-pss", "memory of the monitor (PSS)", "MiB"),
    )
}

# Why a row is not the best one: written by a person who looked, by measure and number of programs ("pss-1000").
# A row that is not best and not here says "not explained".
REASONS: dict[str, str] = {}


@dataclass(frozen=True)
class Row:
    """One measure at one number of programs: a value for each manager that was measured."""

    measure: Measure
    size: int
    values: Mapping[str, float]

    @property
    def key(self) -> str:
        return f"{self.measure.key}-{self.size}"

    @property
    def best_other(self) -> float | None:
        return min((value for name, value in self.values.items() if name != OURS), default=None)

    @property
    def is_best(self) -> bool:
        """Whether nobody is clearly better; also where nobody else has such a thing."""
        return self.best_other is None or self.values[OURS] <= self.best_other * LEVEL

    @property
    def verdict(self) -> str:
        if self.best_other is None:
            return ""
        word = "best" if self.values[OURS] < self.best_other / LEVEL else "level" if self.is_best else "**not best**"
        allowed, stock = self.measure.allowed, self.values.get(STOCK)
        if allowed is None or stock is None:
            return word
        met = self.values[OURS] <= stock * allowed
        return f"{word}, {'within' if met else '**over**'} {allowed:g} × stock"


def rows(samples: Mapping[tuple[str, int], Mapping[str, Sequence[float]]]) -> list[Row]:
    """Return a row for each measure and number of programs, in the order of MEASURES; the samples by manager."""
    return [
        Row(measure, size, {name: measure.summary(values) for name, values in found.items()})
        for measure in MEASURES.values()
        for (key, size), found in sorted(samples.items())
        if key == measure.key
    ]


def table(found: Iterable[Row], reasons: Mapping[str, str] = REASONS) -> list[str]:
    """Return the rows as Markdown."""
    lines = [
        f"| what | programs | {' | '.join(MANAGERS)} | × stock | × best other | | why |",
        "|---|--:" + "|--:" * (len(MANAGERS) + 2) + "|---|---|",
    ]
    for row in found:
        unit = f" ({row.measure.unit})" if row.measure.unit else ""
        values = [_number(row.values.get(name)) for name in MANAGERS]
        ours = row.values.get(OURS)
        ratios = [_ratio(ours, row.values.get(STOCK)), _ratio(ours, row.best_other)]
        why = reasons.get(row.key, "not explained") if ours is not None and not row.is_best else ""
        verdict = row.verdict if ours is not None else ""
        lines.append("| " + " | ".join([row.measure.what + unit, str(row.size), *values, *ratios, verdict, why]) + " |")
    return lines


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 or value == 0 else f"{value:.3g}"


def _ratio(value: float | None, other: float | None) -> str:
    return f"{value / other:.2g}" if value is not None and other else "–"
