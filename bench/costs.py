"""Measure what a bot costs under the runner beside its library alone, what a heartbeat costs, and 50 bots at once.

    make bench-costs

Each kind of bot (tests/matrix.py) is started SAMPLES times directly and by the runner alone, one at a time. The 50 are
in an installation of tests/system.py and of all kinds in turn; Telegram is the sandbox, which is not counted.
"""

from __future__ import annotations

import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import psutil
from document import ROOT, publish, timed

sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "tests" / "integration"))
from matrix import POLLING
from nodes import copy_bots
from runners import Bot, Place, a_place
from system import System

from multibot_plugin.sandbox.client import Sandbox
from multibot_plugin.sandbox.process import child

SAMPLES, FLEET, IDLE_S = 5, 50, 30.0
BEATS = 2000
TICK_S = 0.01  # CPU time is counted in ticks
PATIENCE_S = 120.0
# What a bot is held against where it is no program of its own: the same bot as a script.
BARE = {"{bots}/build_echo.py:build": "{bots}/script_echo.py"}


@dataclass(frozen=True)
class Cost:
    """One start of a bot until it was stopped: CPU until its first poll, proportional memory when idle."""

    cpu_s: float
    first_poll_s: float
    pss_mib: float
    stop_s: float


def tree(pid: int) -> list[psutil.Process]:
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def cpu_of(processes: list[psutil.Process]) -> float:
    """Return the CPU seconds that these processes and the children that they have reaped used."""
    return sum(sum(process.cpu_times()[:4]) for process in processes)


def pss_of(processes: list[psutil.Process]) -> float:
    return float(sum(process.memory_full_info().pss for process in processes)) / 1024**2


def wait(condition: Callable[[], bool], what: str, look_s: float = 0.005) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_S:g} s for {what}")
        time.sleep(look_s)


def cost(start: Callable[[], subprocess.Popen[bytes]], sandbox: Sandbox, token: str) -> Cost:
    before, began = sandbox.counters(token).polls, time.monotonic()
    process = start()
    try:
        wait(lambda: sandbox.counters(token).polls > before, "the first poll")
        first_poll_s, cpu_s = time.monotonic() - began, cpu_of(tree(process.pid))
        wait(lambda: sandbox.counters(token).polls > before + 3, "some polls")
        pss_mib = pss_of(tree(process.pid))
        wait(lambda: sandbox.counters(token).polls_open == 1, "an open poll")
        process.terminate()
        return Cost(cpu_s, first_poll_s, pss_mib, timed(process.wait))
    finally:
        process.kill()
        process.wait()


def bare(place: Place, bot: Bot, target: str, sandbox: Sandbox) -> subprocess.Popen[bytes]:
    """Start a bot as a person would, its output into a file."""
    words = shlex.split(BARE.get(target, target).format(bots=place.top / "bots"))
    if words[0].endswith(".py"):
        words = [sys.executable, *words]
    own = {"BOT_TOKEN": bot.token, "API_SERVER": sandbox.url, "BOT_API_URL": sandbox.url, "POLL_S": "1"}
    with bot.log_file.open("ab") as log:
        return subprocess.Popen(words, env={**place.environment, **own}, cwd=place.top, stdout=log, stderr=log)


def kinds() -> Iterator[tuple[str, Cost, Cost]]:
    """Yield each kind of bot with its medians: directly, and by the runner."""
    with child() as sandbox, a_place() as place:
        place.environment["NO_PROXY"] = "127.0.0.1"
        copy_bots(place.top / "bots")
        for name, (launch, target) in POLLING.forms.items():
            bot = place.bot(launch, target.format(bots=place.top / "bots"), bot_api_url=sandbox.url,
                            poll_timeout_s=1.0, env={"POLL_S": "1"})  # fmt: skip
            sandbox.register(bot.token, bot.id)
            samples = [
                (cost(lambda b=bot, t=target: bare(place, b, t, sandbox), sandbox, bot.token),
                 cost(bot.start, sandbox, bot.token))
                for _ in range(SAMPLES)
            ]  # fmt: skip
            yield name, *(median(column) for column in zip(*samples, strict=True))


def median(costs: tuple[Cost, ...]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*(asdict(c).values() for c in costs), strict=True)))


def heartbeat() -> tuple[float, int, float]:
    """Return the CPU seconds of one beat, the bytes that it writes, and how many seconds lie between two."""
    from multibot_runner.record import Recorder
    from multibot_runner.sight.beat import BEAT_S

    with a_place() as place:
        bot = place.bot("build", "x:y")
        bot.paths.run_dir.mkdir(parents=True)
        recorder = Recorder(bot.paths, time.monotonic())
        began = time.process_time()
        for _ in range(BEATS):
            recorder.beat()
        return (time.process_time() - began) / BEATS, bot.paths.heartbeat.stat().st_size, BEAT_S


@dataclass(frozen=True)
class Share:
    """What one part of a running fleet costs at idle."""

    part: str
    processes: int
    cpu_percent: float
    pss_mib: float


def fleet() -> tuple[float, list[Share]]:
    """Return how long 50 bots need from ``multibot start`` until all poll, and what everything costs at idle."""
    with System.create(monitor__tick_s="5s") as system:  # the default
        copy_bots(system.bots)
        forms = list(POLLING.forms.values())
        for number in range(FLEET):
            launch, target = forms[number % len(forms)]
            system.create_bot(f"b-{number:02d}", f"--{launch}", target.format(bots=system.bots), "--no-check")
        bots = [token for bot, token in system.tokens.items() if bot != "alerts"]
        system.run("stop", "--yes")
        before = {view.number: view.polls for view in system.sandbox.bots()}

        def all_poll() -> bool:
            views = [v for v in system.sandbox.bots() if v.name != "alerts"]
            return len(views) == len(bots) and all(v.polls > before[v.number] for v in views)

        began = time.monotonic()
        with subprocess.Popen([*system.cli, "--home", str(system.home.config), "start"], env=system.environment,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as start:  # fmt: skip
            wait(all_poll, "all bots to poll", 0.05)
            seconds = time.monotonic() - began
            start.wait(PATIENCE_S)
        time.sleep(IDLE_S)  # what a start leaves to be done is no idle time
        return seconds, idle(system.supervisord_pid)


def idle(supervisord: int) -> list[Share]:
    members: dict[str, list[psutil.Process]] = {}
    for process in tree(supervisord):
        members.setdefault(part_of(process, supervisord), []).append(process)
    # A bot's short-lived children (curl) count once they are reaped.
    before, began = {part: cpu_of(found) for part, found in members.items()}, time.monotonic()
    time.sleep(IDLE_S)  # what is measured is an idle time
    lasted = time.monotonic() - began
    shares = []
    for part, found in members.items():
        alive = [p for p in found if p.is_running()]
        percent = 100 * (cpu_of(alive) - before[part]) / lasted
        shares.append(Share(part, len(alive), max(0.0, percent), pss_of(alive)))
    return shares


def part_of(process: psutil.Process, supervisord: int) -> str:
    if process.pid == supervisord:
        return "supervisord"
    lineage = [process, *process.parents()]
    own = next(p for p in lineage if p.ppid() == supervisord)  # its direct child
    words = own.cmdline()
    if "multibot_runner" in words:
        return "bots"
    return "database" if any("postgres" in word for word in words) else "monitor"


def lines(found: list[tuple[str, Cost, Cost]], beat: tuple[float, int, float], start_s: float,
          shares: list[Share]) -> Iterator[str]:  # fmt: skip
    yield f"The median of {SAMPLES} starts, one at a time: directly / by the runner, and their ratio. A"
    yield "`build` bot is held against the same bot as a script. Poll timeouts are 1 s."
    yield ""
    yield "| bot | CPU to first poll (s) | × | PSS when idle (MiB) | × | SIGTERM to its end (s) | × |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for name, alone, ours in found:
        cells = [
            beside(alone.cpu_s, ours.cpu_s),
            beside(alone.pss_mib, ours.pss_mib),
            beside(alone.stop_s, ours.stop_s),
        ]
        yield f"| {name} | {' | '.join(cells)} |"
    cpu_s, size, every_s = beat
    yield ""
    yield (
        f"A heartbeat is one file of {size} bytes and {1e6 * cpu_s:.0f} µs of CPU: every {every_s:g} s, so "
        f"{100 * cpu_s / every_s:.4f} % of a core."
    )
    yield ""
    directly_s = sum(found[number % len(found)][1].cpu_s for number in range(FLEET))
    yield (
        f"{FLEET} bots of all these kinds, in turn: all poll {start_s:.1f} s after `multibot start`. Started directly "
        f"they need {directly_s:.1f} s of CPU for that: they start side by side, as fast as the cores can. Then, idle:"
    )
    yield ""
    yield "| part | processes | CPU (% of a core) | PSS (MiB) |"
    yield "|---|--:|--:|--:|"
    total = Share("all", *(sum(getattr(s, k) for s in shares) for k in ("processes", "cpu_percent", "pss_mib")))
    for share in [*shares, total]:
        yield f"| {share.part} | {share.processes} | {share.cpu_percent:.2f} | {share.pss_mib:.0f} |"


def beside(alone: float, ours: float) -> str:
    """Return two cells; a ratio says nothing where the clock has ticked once or not at all."""
    ratio = f"{ours / alone:.2f}" if alone > TICK_S else "–"
    return f"{alone:.3g} / {ours:.3g} | {ratio}"


def main() -> int:
    found = list(kinds())
    beat = heartbeat()
    start_s, shares = fleet()
    results = {
        "kinds": {name: {"directly": asdict(alone), "runner": asdict(ours)} for name, alone, ours in found},
        "heartbeat": dict(zip(("cpu_s", "bytes", "every_s"), beat, strict=True)),
        "fleet": {"bots": FLEET, "all_poll_s": start_s, "idle": [asdict(share) for share in shares]},
    }
    publish("costs", results, lines(found, beat, start_s, shares))
    return 0


if __name__ == "__main__":
    sys.exit(main())
