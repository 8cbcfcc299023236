"""multibot's supervisord beside stock supervisord, circus and pm2: the same programs, one run, one table.

    make bench-supervisors        all of it; writes its part of docs/benchmarks.md
    bench/supervisors.py --quick  few programs, once: does it work at all? Writes nothing

Every manager begins each round anew; they take turns. Everything is ended by its pid.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from comparison import LEVEL, MANAGERS, rows, table
from document import publish, timed
from fleet import PATIENCE_S, Fleet
from managers import Manager, Multibot, Stock, Words, longest_gap
from peers import CIRCUS, PM2, STOP_WAIT_S, Circus, Pm2, install
from supervisor.options import VERSION

KINDS: dict[str, type[Manager]] = {kind.name: kind for kind in (Multibot, Stock, Circus, Pm2)}
IDLE_S = 10.0
SETTLE_S = 2.5  # supervisord calls a program RUNNING after 1 s, and looks once a second
STATUSES, CALLS, CHANGES, CRASHES = 3, 5, 2, 2


@dataclass(frozen=True)
class Round:
    """What is done once with each of ``managers``. ``slow``: stopping; else everything else, or only ``kills``."""

    size: int
    managers: Sequence[str]
    kills: int = 8
    idle_s: float = IDLE_S
    only_kills: bool = False
    slow: bool = False


BOTH = MANAGERS[:2]
FULL = [
    Round(200, MANAGERS),
    Round(50, MANAGERS, slow=True),
    Round(200, MANAGERS),
    Round(50, BOTH, kills=15, only_kills=True),
    Round(1000, BOTH, kills=15),
]
QUICK = [
    Round(20, MANAGERS, kills=2, idle_s=1.0),
    Round(5, MANAGERS, slow=True),
    Round(10, BOTH, kills=2, only_kills=True),
]


INTRODUCTION = f"""\
One run of `make bench-supervisors`: stock supervisord {VERSION}, the same with multibot's parts inside, circus {CIRCUS}
and pm2 {PM2} take turns, each with a fresh daemon and nothing else beside it. All run the same program, a shell script
that writes down its start and becomes `sleep`; each has a log file of its own that the manager keeps. Stock and
multibot read the same sections (those that multibot renders) under the same main file, `minfds` included. circus and
pm2 have their defaults but for SIGTERM and a time to stop of {STOP_WAIT_S} s. Less is better everywhere.

- Times end with a program's own first act, or its end, never with the manager's word alone. Whole commands are status
  (`multibot list`, `supervisorctl status`, `circusctl status`, `pm2 jlist`), stop (`multibot bot stop --all`,
  `supervisorctl stop all`, `circusctl stop`, `pm2 stop all`), the end of all (`multibot stop`, `supervisorctl
  shutdown`, `circusctl quit`, `pm2 kill`) and change. What multibot has beside stock's own way is a row more.
- The change of one program: `multibot apply` without its one query to the database, `supervisorctl update`,
  `circusctl reloadconfig`, `pm2 restart apps.json --only`. Meanwhile the daemon is asked every 5 ms for something
  cheap: `getState`, circus `numwatchers`, pm2 `ping`.
- State of all over RPC: `multibot.getBots` beside stock's `getAllProcessInfo`; the latter by both is a row of its own.
- Idle CPU over {IDLE_S:g} s; memory is PSS, after kills, status and changes. The monitor has no database here.
- Values are medians, or the largest where it says longest. *level*: closer than {LEVEL - 1:.0%}, or than what the
  measurement can tell.
"""


class Samples:
    """Measured values by measure, number of programs and manager."""

    def __init__(self) -> None:
        self.all: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, measure: str, manager: Manager, value: float) -> None:
        self.all[measure, len(manager.fleet.ids)][manager.name].append(value)
        print(f"  {manager.name:8} {len(manager.fleet.ids):5} {measure:12} {value:.4g}", file=sys.stderr)


@contextmanager
def running(kind: type[Manager], size: int, samples: Samples | None = None) -> Iterator[Manager]:
    """Give a manager whose programs have all started (``samples`` gets how long that took) and settled.

    Without ``samples`` they are slow to stop, and have no more than set their traps.
    """
    directory = Path(tempfile.mkdtemp(prefix="mbb-", dir="/tmp"))
    manager = kind(Fleet(directory, size, slow=samples is None))
    try:
        manager.configure()

        def start() -> None:
            manager.begin()
            manager.fleet.wait_started(manager.fleet.ids)

        seconds = timed(start)
        if samples is not None:
            samples.add("start", manager, seconds)
        time.sleep(SETTLE_S if samples is not None else 1.0)
        yield manager
    finally:
        try:
            manager.close()
        finally:
            shutil.rmtree(directory)


def kill_some(manager: Manager, kills: int, samples: Samples) -> None:
    """kill -9 of one after the other, at moments that have nothing to do with the daemon's own beat."""
    chance = random.Random(kills)
    pids = manager.fleet.pids()
    for bot in manager.fleet.ids[:: max(1, len(pids) // kills)][:kills]:
        time.sleep(chance.uniform(0.1, 0.9))
        seconds = timed(lambda bot=bot: kill(manager.fleet, [bot], pids))  # type: ignore[misc]
        samples.add("restart", manager, seconds)
        samples.add("restart-max", manager, seconds)


def kill(fleet: Fleet, bots: Sequence[str], pids: dict[str, int]) -> None:
    """kill -9 of these, and wait for their new processes."""
    since = fleet.size()
    for bot in bots:
        os.kill(pids[bot], signal.SIGKILL)
    fleet.wait_started(bots, since)


def change_one(manager: Manager, change: Callable[[], Words], samples: Samples, by: str = "") -> None:
    """Change the last program while a probe keeps asking the daemon. ``change`` returns the command to be run."""
    bot = manager.fleet.ids[-1]
    with subprocess.Popen(manager.probe, env=manager.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as probe:  # fmt: skip
        try:
            assert probe.stdout is not None
            assert probe.stdout.readline() == "ready\n", f"{manager.name} does not answer its probe"
            since = manager.fleet.size()

            def follow() -> None:
                manager.run(change())
                manager.fleet.wait_started([bot], since)

            seconds = timed(follow)
            said, _ = probe.communicate(timeout=PATIENCE_S)
        finally:
            probe.kill()
    samples.add(f"change{by}", manager, seconds)
    samples.add(f"gap{by}", manager, longest_gap(said))
    samples.add("lost", manager, len({name for name, _ in manager.fleet.starts(since)} - {bot}))


def cost(pid: int, idle_s: float) -> tuple[float, float]:
    """Return CPU (percent of a core, over an idle time) and PSS (MiB) of one process."""
    clock = (~pid << 3) | 2  # clock_getcpuclockid(3): its CPU time to the nanosecond
    before = time.clock_gettime(clock)
    time.sleep(idle_s)
    percent = 100 * (time.clock_gettime(clock) - before) / idle_s
    return percent, psutil.Process(pid).memory_full_info().pss / 1024**2


def measure(manager: Manager, part: Round, samples: Samples) -> None:
    """Everything that is measured of one manager with its programs running."""
    kill_some(manager, part.kills, samples)
    if part.only_kills:
        return
    for _ in range(STATUSES):
        samples.add("status", manager, timed(lambda: manager.run(manager.status)))
    for number in range(CHANGES):
        change_one(manager, partial(manager.change, manager.fleet.ids[-1], 2 + number), samples)
    cpu, pss = cost(manager.daemon, part.idle_s)
    samples.add("cpu", manager, cpu)
    samples.add("pss", manager, pss)
    if isinstance(manager, Stock):  # after that: ours is asked more than the others
        ask(manager, samples)
    for _ in range(CRASHES):
        time.sleep(SETTLE_S)
        samples.add("crash", manager, timed(lambda: kill(manager.fleet, manager.fleet.ids, manager.fleet.pids())))
    if isinstance(manager, Multibot):
        watch(manager, part.idle_s, samples)


def ask(manager: Stock, samples: Samples) -> None:
    """What only supervisord has: its RPC, and stock's commands also for ours."""
    for _ in range(CALLS):
        samples.add("states", manager, timed(manager.all_states))
        samples.add("info", manager, timed(manager.get_all_process_info))
    if isinstance(manager, Multibot):
        for _ in range(STATUSES):
            samples.add("status-ctl", manager, timed(lambda: manager.run(manager.ctl("status"))))
        for number in range(CHANGES):
            change_one(manager, partial(Stock.change, manager, manager.fleet.ids[-1], 9 + number), samples, by="-ctl")


def watch(manager: Multibot, idle_s: float, samples: Samples) -> None:
    """The monitor's own cost, and what its looks cost supervisord."""
    clock = (~manager.daemon << 3) | 2
    pid = manager.watch()
    time.sleep(SETTLE_S)
    before, began = time.clock_gettime(clock), time.monotonic()
    cpu, pss = cost(pid, idle_s)
    watched = 100 * (time.clock_gettime(clock) - before) / (time.monotonic() - began)
    samples.add("monitor-cpu", manager, cpu)
    samples.add("monitor-pss", manager, pss)
    samples.add("cpu-watched", manager, watched)


def end_by(words: Words, manager: Manager) -> None:
    manager.run(words)
    manager.fleet.wait_ended()


def end_slow(kind: type[Manager], size: int, samples: Samples) -> None:
    """Every way to end slow programs, each with a fresh manager."""
    ways: dict[str, Callable[[Any], Words]] = {"stop": lambda m: m.stop, "shutdown": lambda m: m.shutdown}
    if kind is Multibot:
        ways["stop-ctl"] = lambda m: m.ctl("stop", "all")
    for name, words in ways.items():
        with running(kind, size) as manager:
            samples.add(name, manager, timed(partial(end_by, words(manager), manager)))


def carry_out(part: Round, chosen: Sequence[str], samples: Samples) -> None:
    for name in (name for name in part.managers if name in chosen):
        if part.slow:
            end_slow(KINDS[name], part.size, samples)
        else:
            with running(KINDS[name], part.size, samples) as manager:
                measure(manager, part, samples)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few programs, once; write nothing")
    parser.add_argument("--managers", default=",".join(MANAGERS), help="only these; write nothing unless all")
    options = parser.parse_args()
    chosen = options.managers.split(",")
    if unknown := set(chosen) - set(MANAGERS):
        parser.error(f"--managers: {', '.join(sorted(unknown))}: known are {', '.join(MANAGERS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    install(set(chosen))
    samples = Samples()
    began = time.monotonic()
    for part in QUICK if options.quick else FULL:
        carry_out(part, chosen, samples)
    found = rows(samples.all)
    minutes = (time.monotonic() - began) / 60
    lines = [INTRODUCTION, *table(found), "", f"The run took {minutes:.1f} minutes."]
    if options.quick or len(chosen) < len(MANAGERS):
        print("\n".join(lines))
    else:
        raw = [{"key": key, "programs": size, **by} for (key, size), by in sorted(samples.all.items())]
        publish("supervisors", {"circus": CIRCUS, "pm2": PM2, "samples": raw}, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
