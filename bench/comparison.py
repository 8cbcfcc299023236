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
    """One figure of all managers, less is better. ``allowed``: so many times stock's value is within the goal.

    ``grain``: a smaller difference is the measurement's own. ``like``: stock's value is that of this other measure
    (ours was asked by stock's own command, or does something that stock has not).
    """

    key: str
    what: str
    unit: str
    summary: Summary = statistics.median
    allowed: float | None = None
    grain: float = 0.0
    like: str = ""


MEASURES = (
    Measure("start", "start of all", "s"),
    Measure("restart", "kill -9 of one to its new process, median", "s", grain=0.003),
    Measure("restart-max", "the same, longest", "s", max, grain=0.003),
    Measure("crash", "kill -9 of all to all back", "s"),
    Measure("stop", "stop of all, each needing 1 s", "s"),
    Measure("stop-ctl", "the same by `supervisorctl stop all`", "s", like="stop"),
    Measure("shutdown", "end of the manager with all, each needing 1 s", "s"),
    Measure("change", "one changed program: command and new process", "s"),
    Measure("gap", "longest wait for the daemon's answer meanwhile", "s", max, grain=0.005),
    Measure("lost", "other programs that lost their process by it", "", max),
    Measure("change-ctl", "one changed section by `supervisorctl update`", "s", like="change"),
    Measure("gap-ctl", "longest wait meanwhile", "s", max, grain=0.005, like="gap"),
    Measure("status", "status of all, whole command", "s", grain=0.01),
    Measure("status-ctl", "the same by `supervisorctl status`", "s", grain=0.01, like="status"),
    Measure("states", "state of all over RPC", "s", grain=0.001),
    Measure("info", "getAllProcessInfo", "s", grain=0.001),
    Measure("cpu", "idle CPU of the daemon", "% of a core", allowed=1.5, grain=0.01),
    Measure("cpu-watched", "the same while the monitor looks", "% of a core", allowed=1.5, grain=0.01, like="cpu"),
    Measure("pss", "memory of the daemon (PSS)", "MiB", allowed=1.5),
    Measure("monitor-cpu", "idle CPU of the monitor, a process that the others lack", "% of a core"),
    Measure("monitor-pss", "memory of the monitor (PSS)", "MiB"),
)

# Why a row is not the best one: written by a person who looked, by measure and number of programs ("pss-1000").
# A row that is not best and not here says "not explained".
_MONITOR_ASKS = "the monitor asks supervisord for all bots every 5 s; stock's value is without any monitor"
_WRITES = "multibot plans, writes files and has supervisor's parser read what is new before anything changes"
_ASKS_ALL = "the command's own start and end (wishes, records) come on top of the second that the programs need"
_STOCK_REREAD = (
    "the same full reread as in stock, with our parts looking on; two samples, so the difference may be chance"
)
REASONS = {
    "cpu-watched-200": _MONITOR_ASKS,
    "cpu-watched-1000": _MONITOR_ASKS,
    "change-200": _WRITES,
    "change-1000": _WRITES,
    "restart-max-200": "a turn of supervisord's loop over all programs; pm2 has one event for each",
    "stop-50": _ASKS_ALL,
    "shutdown-50": _ASKS_ALL,
    "change-ctl-200": _STOCK_REREAD,
    "change-ctl-1000": _STOCK_REREAD,
    "gap-ctl-200": _STOCK_REREAD,
    "status-200": "a command of Python in all four; ours draws a table with health",
}


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
    def word(self) -> str:
        """best, level or not best; nothing where nobody else has such a thing or ours was not measured."""
        ours, other = self.values.get(OURS), self.best_other
        if ours is None or other is None:
            return ""
        if abs(ours - other) <= self.measure.grain or other / LEVEL <= ours <= other * LEVEL:
            return "level"
        return "best" if ours < other else "not best"

    @property
    def verdict(self) -> str:
        """Return the word and, where so much more than stock is allowed, whether that was kept."""
        allowed, stock = self.measure.allowed, self.values.get(STOCK)
        word = self.word.replace("not best", "**not best**")
        if not word or allowed is None or stock is None:
            return word
        met = self.values[OURS] <= stock * allowed
        return f"{word}, {'within' if met else '**over**'} {allowed:g} × stock"


def rows(samples: Mapping[tuple[str, int], Mapping[str, Sequence[float]]]) -> list[Row]:
    """Return a row for each measure and number of programs, in the order of MEASURES; the samples by manager."""
    found = []
    for measure in MEASURES:
        for size in sorted(size for key, size in samples if key == measure.key):
            values = dict(samples[measure.key, size])
            stock = samples.get((measure.like, size), {}).get(STOCK)
            if stock:
                values[STOCK] = stock
            found.append(Row(measure, size, {name: measure.summary(each) for name, each in values.items()}))
    return found


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
        why = reasons.get(row.key, "not explained") if row.word == "not best" else ""
        cells = [row.measure.what + unit, str(row.size), *values, *ratios, row.verdict, why]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 or value == 0 else f"{value:.3g}"


def _ratio(value: float | None, other: float | None) -> str:
    return f"{value / other:.2g}" if value is not None and other else "–"
