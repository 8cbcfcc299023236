"""Measure what a user waits for and pays for, in one run, and write its part of docs/benchmarks.md (document.py).

    make bench

Every figure comes from the installation that tests/system.py makes: real supervisord, PostgreSQL, runner, Bot API
server on loopback. Times are wall clock. A goal that is missed is printed as missed.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from document import ROOT, publish, timed

sys.path.insert(0, str(ROOT / "tests"))
from system import System, wait_for

KILLS = 7
IDLE_S = 20.0


@dataclass(frozen=True)
class Figure:
    """One measured value. ``goal``: at most so much, None where there is none to miss."""

    what: str
    value: float
    unit: str
    goal: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        return "met" if self.value <= self.goal else "**missed**"


def clone_to_first_answer() -> Figure:
    """``git clone``, ``make demo``, until the first bot's answer is printed (packages come from the pip cache)."""
    with tempfile.TemporaryDirectory(prefix="mbb-", dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        clone = Path(directory) / "clone"
        began = time.monotonic()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        with subprocess.Popen(
            ["make", "demo"], cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as demo:
            assert demo.stdout is not None
            lines = []
            seconds = None
            for line in demo.stdout:
                lines.append(line)
                if seconds is None and line.startswith("  greeter → you"):
                    seconds = time.monotonic() - began
        subprocess.run(["make", "demo-stop"], cwd=clone, check=True, capture_output=True)
        assert seconds is not None, "".join(lines)
    return Figure("clean clone to the demo's first answer", seconds, "s", 60, "pip cache warm")


def create_to_answer(system: System, form: str, bot: str) -> Figure:
    def act() -> None:
        system.create_form(bot, form)
        system.answers(bot)

    return Figure(f"bot create to first answer, {form}", timed(act), "s", 5)


def kill_to_polling(system: System, bot: str, form: str) -> Figure:
    """kill -9 to the next open poll; each kill after the bot's tally is old would need minutes, so one kill a bot."""
    times = []
    for number in range(KILLS):
        name = f"{bot}{number}"
        system.create_form(name, form)
        system.wait_polling(name)
        pid, polls = system.pid(name), system.sandbox.counters(name).polls
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda n=name, p=polls: system.sandbox.counters(n).polls > p, "a new poll")
        times.append(time.monotonic() - began)
        system.run("bot", "stop", name)
    spread = f"min {min(times):.2f}, max {max(times):.2f}, n={KILLS}"
    return Figure(f"kill -9 to polling again, {form} (median)", statistics.median(times), "s", 3, spread)


def deaf_to_alert(system: System, bot: str) -> Figure:
    """Default windows: the bot's poll timeout is 5 s here, so deaf means 45 s without a successful getUpdates."""
    last = wait_for(lambda: system.sandbox.counters(bot).last_success_at, "a poll")
    system.sandbox.fault(bot, hang=True, for_s=600)
    system.wait_alert(bot, "deaf")
    seconds = time.time() - last
    system.sandbox.clear(bot)
    system.wait_alert(bot, "well again")
    return Figure("last successful poll to the alert in Telegram (limit 45 s)", seconds, "s", 55)


def tree(pid: int) -> list[psutil.Process]:
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def idle_cost(what: str, pid: int) -> list[Figure]:
    def cpu() -> float:
        return sum(p.cpu_times().user + p.cpu_times().system for p in tree(pid))

    before = cpu()
    time.sleep(IDLE_S)  # what is measured is an idle time
    percent = 100 * (cpu() - before) / IDLE_S
    pss = sum(p.memory_full_info().pss for p in tree(pid)) / 1024**2
    return [Figure(f"idle CPU, {what}", percent, "% of a core"), Figure(f"idle PSS, {what}", pss, "MiB")]


def measure() -> list[Figure]:
    figures = [clone_to_first_answer()]
    with System.create(monitor__tick_s="5s") as system:  # the default; tests look more often
        for form in ("build", "script", "command"):
            figures.append(create_to_answer(system, form, form))
        figures += idle_cost("supervisord with its listener, database and 3 bots", system.supervisord_pid)
        for form in ("build", "script", "command"):
            figures.append(kill_to_polling(system, f"k-{form}", form))
        figures.append(deaf_to_alert(system, "script"))
    return figures


def main() -> int:
    figures = measure()
    lines = [
        "| figure | value | goal | | note |", "|---|--:|--:|---|---|",
        *(f"| {f.what} | {f.value:.2f} {f.unit} | {'' if f.goal is None else f'≤ {f.goal:g} {f.unit}'} "
          f"| {f.verdict} | {f.note} |" for f in figures),
    ]  # fmt: skip
    publish("multibot", {"figures": [asdict(f) for f in figures]}, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
