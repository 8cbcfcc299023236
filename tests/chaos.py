"""Faults in random order against a whole installation, and what has to hold after them.

``make chaos MINUTES=30`` runs this for long and prints its figures; tests/acceptance/test_chaos.py for some seconds.
Those in ``ALWAYS`` come first; then every kind of fault comes once before one comes again. After each handful of them
the same bots poll, exactly once each, supervisord is the one that it was, and every bot's death that was caused has
exactly one row in the audit log, and no other death one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from system import System, alive, wait_for

from multibot_plugin.bots.apply import not_applied
from multibot_plugin.bots.unfinished import under_way
from multibot_plugin.errors import MultibotError
from multibot_plugin.health.rules import WISH_AFTER_S
from multibot_plugin.journal import Journal
from multibot_plugin.supervisor.client import MONITOR, POSTGRES, Supervisor
from multibot_plugin.supervisor.inside.requests import inbox

FORMS = ("build", "script", "command")
SUPERVISORD = ""
ALL_WELL = "all well"
STOPPED = "stopped"  # a bot that nobody wants to run: it never polls
_AT_ONCE = 3  # faults before everything has to be well again
_LONGEST_PAUSE_S = 0.5
_LONGEST_COMMAND_S = 1.5
_PATIENCE_S = 2  # of supervisord with a listener that hangs
_SETTLED_S = 90.0
_LAST_LINES = 30  # of a log, when something does not get well


@dataclass
class Figures:
    """What a run found. ``deaths``: caused ones, as (bot or SUPERVISORD, pid), of which ``lost`` (by bot) have no row
    in the audit log; ``doubled``: deaths with more than one; ``others``: deaths that no fault of ours explains;
    ``silent_s``: the longest time that a bot did not poll, by fault.
    """

    faults: Counter[str] = field(default_factory=Counter)
    deaths: set[tuple[str, int]] = field(default_factory=set)
    lost: Counter[str] = field(default_factory=Counter)
    doubled: set[tuple[str, int]] = field(default_factory=set)
    others: set[tuple[str, int]] = field(default_factory=set)
    double_polls: int = 0
    silent_s: dict[str, float] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return them for people."""
        return [
            *(f"{count:5} × {name}, longest time without a poll {self.silent_s.get(name, 0.0):.1f} s"
              for name, count in sorted(self.faults.items())),
            f"{len(self.deaths):5} deaths of bots and supervisord caused, {len(self.others)} others",
            f"{self.lost.total():5} of them not recorded, {len(self.doubled)} recorded twice",
            f"{self.double_polls:5} double polls",
            self.verdict,
        ]  # fmt: skip

    @property
    def verdict(self) -> str:
        """Say whether everything held, or what did not."""
        wrong = {
            "deaths not recorded": self.lost.total(), "deaths recorded twice": len(self.doubled),
            "deaths that no fault explains": len(self.others), "double polls": self.double_polls,
        }  # fmt: skip
        return "; ".join(f"{count} {what}" for what, count in wrong.items() if count) or ALL_WELL


class Chaos:
    """Faults against ``system``, whose bots are ``FORMS`` and ``STOPPED``. ``seed`` decides about everything."""

    def __init__(self, system: System, client: Supervisor, seed: int, say: Callable[[str], None]) -> None:
        self.system = system
        self.random = random.Random(seed)
        self.figures = Figures()
        self._say = say
        self._client = client
        self._pid = system.supervisord_pid
        self._now = "nothing yet"
        self._changes = 0
        self._hand = list(reversed(ALWAYS))
        self._unsettled: list[str] = []

    def run(self, seconds: float) -> Figures:
        """Cause faults for so long, but those in ``ALWAYS`` in any case; fails when something does not get well."""
        self.settle()
        end = time.monotonic() + seconds
        with self._watching():
            while time.monotonic() < end or self.figures.faults.total() < len(ALWAYS):
                fault = self._next()
                if fault.alone:
                    self.settle()
                self._cause(fault)
                if fault.alone or len(self._unsettled) >= _AT_ONCE:
                    self.settle()
            self.settle()
        self._judge()
        return self.figures

    def settle(self) -> None:
        """Wait until every bot is as it should be, and everything is recorded."""
        began, why = time.monotonic(), ""

        def well() -> bool:
            nonlocal why
            why = self._trouble()
            return not why

        try:
            wait_for(well, "settled", _SETTLED_S)
        except AssertionError:
            raise AssertionError(f"not well again after {self._now}: {why}\n{self._last_words()}") from None
        if self._unsettled:
            self._say(f"  well again {time.monotonic() - began:.1f} s after: {', '.join(self._unsettled)}")
        self._unsettled.clear()

    # -- what the faults need ----------------------------------------------------------------------------------

    def living(self) -> dict[str, int]:
        """Return the pids of the bots' processes that no fault has killed yet."""
        with contextlib.suppress(MultibotError):
            pids = {row["id"]: row["pid"] for row in self._client.bots()["bots"] if row["pid"]}
            return {bot: pid for bot, pid in pids.items() if (bot, pid) not in self.figures.deaths}
        return {}

    def kill(self, who: str, pid: int, victim: int | None = None) -> None:
        """Kill a bot's process (or ``victim``, a part of it) or supervisord, which has to be recorded."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim or pid, signal.SIGKILL)
            self.figures.deaths.add((who, pid))

    def signal(self, program: str, number: int) -> None:
        """Send a signal to a program of supervisord's, if it runs."""
        with contextlib.suppress(ProcessLookupError):
            if pid := self.pid(program):
                os.kill(pid, number)

    def pid(self, program: str) -> int:
        """Return the pid of a program of supervisord's, 0 when it does not run."""
        with contextlib.suppress(MultibotError):
            return self._client.running(program)
        return 0

    def pause(self) -> None:
        """Let a random moment pass."""
        time.sleep(self.random.uniform(0, _LONGEST_PAUSE_S))

    def change(self) -> subprocess.Popen[bytes]:
        """Begin a command that restarts one bot or all; other faults may let it fail."""
        self._changes += 1
        bot, number = self.random.choice(FORMS), self._changes
        words = self.random.choice(
            (("bot", "set", bot, "--env", f"N={number}"), ("bot", "restart", *FORMS), ("apply",),
             ("supervisorctl", "bot_restart", *FORMS), ("supervisorctl", "bot_apply"))
        )  # fmt: skip
        if "apply" in words[-1]:
            self.system.sql("UPDATE bot_configs SET settings = settings || $1", {"stop_wait_s": 10 + number % 5})
        return self.begin(*words)

    @contextlib.contextmanager
    def halfway(self) -> Iterator[None]:
        """Be in the middle of an apply that restarts every bot: one of them, frozen, does not end before this does."""
        self._changes += 1
        slow = self.random.choice(FORMS)
        process = psutil.Process(self.living()[slow])
        self.system.sql("UPDATE bot_configs SET settings = settings || $1", {"stop_wait_s": 20 + self._changes % 5})
        process.suspend()
        try:
            with self.begin("apply") as command:
                wait_for(lambda: self._state(slow) == "STOPPING", f"the apply's stop of {slow}")
                assert command.poll() is None
                yield
                process.resume()
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def _state(self, bot: str) -> str:
        return next(str(row["statename"]) for row in self._client.bots()["bots"] if row["id"] == bot)

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        """Begin a command of ours, or of supervisorctl."""
        system = self.system
        command = [*system.cli, "--home", str(system.home.config), *words]
        if words[0] == "supervisorctl":
            folder = Path(system.cli[0]).parent
            command = [f"{folder}/supervisorctl", "-c", str(system.home.supervisord_conf), *words[1:]]
        return subprocess.Popen(command, env=self.system.environment, stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip

    def cut_off(self, *words: str) -> None:
        """Begin a command and kill it at a random moment."""
        with self.begin(*words) as command:
            time.sleep(self.random.uniform(0, _LONGEST_COMMAND_S))
            command.kill()

    def start_again(self) -> None:
        """Start the installation after the end of supervisord, perhaps in two attempts."""
        wait_for(lambda: not alive(self._pid), "supervisord's end")
        if self.random.random() < 0.3:
            self.cut_off("start")
        self.system.run("start")
        self._client.close()
        self._pid = self.system.supervisord_pid

    # -- what has to hold --------------------------------------------------------------------------------------

    def _trouble(self) -> str:
        """Return what is not as it should be; nothing when all is well."""
        try:
            answer = self._client.bots()
        except MultibotError as error:
            return str(error)
        if answer["supervisord"]["pid"] != self._pid:
            return f"supervisord (pid {self._pid}) is another one"
        if left := (*not_applied(self.system.home, answer["bots"]), *under_way(self.system.home)):
            return f"not as rendered: {left}"
        states = {row["id"]: (row["statename"], row["enabled"]) for row in answer["bots"]}
        wanted = {**dict.fromkeys(FORMS, ("RUNNING", True)), STOPPED: ("STOPPED", False)}
        if states != wanted:
            return f"states {states}"
        monitor = answer["monitor"]
        if not (monitor["ok"] and monitor["database"] and monitor["database"]["ok"]):
            return f"monitor {monitor}"
        polls = {bot.name: bot.polls_open for bot in self.system.sandbox.bots()}
        if (polls[STOPPED], *(polls[bot] for bot in FORMS)) != (0, 1, 1, 1):
            return f"polls {polls}"
        if waiting := list(inbox(self.system.home.state).glob("*.json")):
            return f"requests wait: {waiting}"
        if size := Journal(self.system.home.journal).size():
            return f"{size} bytes wait in the journal"
        self._compare()
        return f"no row of {dict(self.figures.lost)}" if self.figures.lost else ""

    def _last_words(self) -> str:
        """Return the ends of the logs that tell what went wrong; they are removed with the installation."""
        logs = (self.system.home.supervisord_log, self.system.home.log / "monitor.log")
        return "\n".join(
            line for log in logs for line in (f"{log.name}:", *log.read_text().splitlines()[-_LAST_LINES:])
        )

    def _compare(self) -> None:
        """Compare the deaths that were caused with those in the audit log."""
        figures, rows = self.figures, []
        with contextlib.suppress(MultibotError):
            rows = self.system.sql(
                "SELECT coalesce(bot_id, $1) AS who, (detail ->> 'pid')::int AS pid FROM audit_log"
                " WHERE action IN ('bot.exited', 'bot.start_failed', 'supervisord.died')", SUPERVISORD
            )  # fmt: skip
        recorded = Counter((row["who"], row["pid"]) for row in rows if row["pid"] is not None)
        early = Counter(row["who"] for row in rows if row["pid"] is None)  # supervisord does not say whose start failed
        figures.lost = Counter(who for who, _ in figures.deaths - recorded.keys()) - early
        figures.doubled = {death for death, times in recorded.items() if times > 1}
        figures.others = recorded.keys() - figures.deaths

    def _judge(self) -> None:
        self._compare()
        views = [bot for bot in self.system.sandbox.bots() if bot.name in (*FORMS, STOPPED)]
        self.figures.double_polls = sum(bot.conflicts + max(0, bot.most_polls_open - 1) for bot in views)
        wishes = self.system.sql(
            "SELECT bot_id, action, door FROM audit_log WHERE action IN ('bot.stopped', 'bot.started', 'bot.disabled')"
            " AND bot_id <> $1", STOPPED
        )  # fmt: skip
        assert wishes == [], wishes  # nobody wished anything

    def _next(self) -> Fault:
        if not self._hand:
            self._hand = list(FAULTS)
            self.random.shuffle(self._hand)
        return FAULTS[self._hand.pop()]

    def _cause(self, fault: Fault) -> None:
        self._now = fault.name
        self._unsettled.append(fault.name)
        self._say(fault.name)
        fault.act(self)
        self.figures.faults[fault.name] += 1
        self.pause()

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """Measure how long no poll of a bot is open."""
        over = threading.Event()

        def watch() -> None:
            seen = dict.fromkeys(FORMS, time.monotonic())
            while not over.wait(0.1):
                now = time.monotonic()
                for bot in self.system.sandbox.bots():
                    if bot.name in seen:
                        if bot.polls_open:
                            seen[bot.name] = now
                        longest = self.figures.silent_s.get(self._now, 0.0)
                        self.figures.silent_s[self._now] = max(longest, now - seen[bot.name])

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@dataclass(frozen=True)
class Fault:
    """A kind of fault. ``alone``: it comes when all is well, else one cannot tell what has to be recorded."""

    name: str
    act: Callable[[Chaos], None]
    alone: bool = False


def _kill_bots(chaos: Chaos) -> None:
    victims = list(wait_for(chaos.living, "a bot that can be killed").items())
    for bot, pid in chaos.random.sample(victims, chaos.random.randint(1, len(victims))):
        chaos.kill(bot, pid)


def _kill_program(chaos: Chaos) -> None:
    """Kill what a command bot's runner started."""
    pid = chaos.living().get("command")
    children = psutil.Process(pid).children() if pid and psutil.pid_exists(pid) else []
    if pid and children:
        chaos.kill("command", pid, children[0].pid)


def _kill_listener(chaos: Chaos) -> None:
    chaos.signal(MONITOR, signal.SIGKILL)


def _hang_listener(chaos: Chaos) -> None:
    """Let the listener hang until it is killed, by us or by supervisord."""
    chaos.signal(MONITOR, signal.SIGSTOP)
    _kill_bots(chaos)  # the next listener is told
    if chaos.random.random() < 0.5:
        chaos.pause()
        chaos.signal(MONITOR, signal.SIGKILL)


def _kill_database(chaos: Chaos) -> None:
    """Kill PostgreSQL, or one process of it, after which it begins anew by itself."""
    if chaos.random.random() < 0.5:
        chaos.signal(POSTGRES, signal.SIGKILL)
        return
    with contextlib.suppress(psutil.NoSuchProcess, IndexError):
        chaos.random.choice(psutil.Process(chaos.pid(POSTGRES)).children()).kill()


def _kill_supervisord(chaos: Chaos) -> None:
    chaos.kill(SUPERVISORD, chaos.system.supervisord_pid)
    chaos.start_again()


def _reload(chaos: Chaos) -> None:
    chaos.system.supervisorctl("reload")


def _shut_down(chaos: Chaos) -> None:
    system = chaos.system

    def stop_twice() -> None:
        chaos.cut_off("stop", "--yes")
        system.run("stop", "--yes")

    end: Callable[[], object] = chaos.random.choice(
        (
            lambda: system.supervisorctl("shutdown"),
            lambda: system.run("stop", "--now", "--yes"),
            lambda: os.kill(system.supervisord_pid, signal.SIGTERM),
            stop_twice,
        )
    )
    end()
    chaos.start_again()


def _cut_power(chaos: Chaos) -> None:
    """Kill everything at the same time; nobody is left to record it."""
    processes = sorted(chaos.system.processes(), key=lambda process: process.pid == chaos.system.supervisord_pid)
    os.kill(chaos.system.supervisord_pid, signal.SIGSTOP)  # it starts nothing any more, and ends last
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    chaos.start_again()


def _freeze_database(chaos: Chaos) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        server = psutil.Process(chaos.pid(POSTGRES))
        server.suspend()
        chaos.pause()
        server.resume()


def _freeze(chaos: Chaos) -> None:
    """Let supervisord stand still for a moment, and a bot die meanwhile."""
    pid = chaos.system.supervisord_pid
    victims = list(wait_for(chaos.living, "a bot that can be killed").items())
    os.kill(pid, signal.SIGSTOP)
    try:
        chaos.kill(*chaos.random.choice(victims))
        chaos.pause()
    finally:
        os.kill(pid, signal.SIGCONT)


def _lose_the_file(chaos: Chaos) -> None:
    """Remove the directory of the rendered file, and let somebody stop the fleet by that."""
    shutil.rmtree(chaos.system.home.rendered.parent)
    if chaos.random.random() < 0.5:
        chaos.system.supervisorctl("update")
    chaos.system.run("apply")


def _update(chaos: Chaos) -> None:
    chaos.system.supervisorctl("update", code=None)


def _during_change(act: Callable[[Chaos], None]) -> Callable[[Chaos], None]:
    """Return ``act`` in the middle of a command that changes a bot and restarts it, at a random moment of it."""

    def act_meanwhile(chaos: Chaos) -> None:
        with chaos.change():
            time.sleep(chaos.random.uniform(0.2, _LONGEST_COMMAND_S))
            act(chaos)

    return act_meanwhile


def _reload_halfway(chaos: Chaos) -> None:
    with chaos.halfway():
        _reload(chaos)


def _shut_down_halfway(chaos: Chaos) -> None:
    with chaos.halfway():
        chaos.system.supervisorctl("shutdown")
    chaos.start_again()


def _update_halfway(chaos: Chaos) -> None:
    with chaos.halfway():
        _update(chaos)


def _lose_the_file_halfway(chaos: Chaos) -> None:
    with chaos.halfway():
        shutil.rmtree(chaos.system.home.rendered.parent)
    # The apply cannot start the bot again, and its stop is nobody's wish, however long the monitor looks at it.
    over = time.monotonic() + 2 * WISH_AFTER_S
    wait_for(lambda: chaos.system.status()["mono"] > over, "looks of the monitor")
    chaos.system.run("apply")


def _kill_change(chaos: Chaos) -> None:
    with chaos.change() as command:
        time.sleep(chaos.random.uniform(0.2, _LONGEST_COMMAND_S))
        command.kill()


FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in (
    Fault("bots killed", _kill_bots),
    Fault("a command bot's program killed", _kill_program),
    Fault("listener killed", _kill_listener),
    Fault("listener hung", _hang_listener),
    Fault("database killed", _kill_database),
    Fault("supervisord killed", _kill_supervisord, alone=True),
    Fault("supervisord frozen", _freeze),
    Fault("power cut", _cut_power, alone=True),
    Fault("database frozen during a change", _during_change(_freeze_database), alone=True),
    Fault("rendered file lost", _lose_the_file, alone=True),
    Fault("reload", _reload, alone=True),
    Fault("shutdown and start", _shut_down, alone=True),
    Fault("a change killed", _kill_change, alone=True),
    Fault("update during a change", _during_change(_update), alone=True),
    Fault("listener killed during a change", _during_change(_kill_listener), alone=True),
    Fault("database killed during a change", _during_change(_kill_database), alone=True),
    Fault("supervisord killed during a change", _during_change(_kill_supervisord), alone=True),
    Fault("shutdown during a change, and start", _during_change(_shut_down), alone=True),
    Fault("reload during a change", _during_change(_reload), alone=True),
    Fault("reload halfway through an apply", _reload_halfway, alone=True),
    Fault("shutdown halfway through an apply, and start", _shut_down_halfway, alone=True),
    Fault("update halfway through an apply", _update_halfway, alone=True),
    Fault("rendered file lost halfway through an apply", _lose_the_file_halfway, alone=True),
)}  # fmt: skip
ALWAYS = tuple(name for name in FAULTS if "halfway" in name)  # whatever the seed


@contextlib.contextmanager
def chaotic(seed: int, say: Callable[[str], None]) -> Iterator[Chaos]:
    """Give an installation with its bots, to be put into disorder."""
    with System.create(start=False) as system:
        conf = system.home.supervisord_conf
        conf.write_text(conf.read_text().replace("\nstatus=", f"\nlistener_patience_s={_PATIENCE_S}\nstatus=", 1))
        system.run("start")
        for form in FORMS:
            system.create_form(form, form, "--backoff-max-s", "1s")
        system.create_form(STOPPED, "command", "--no-start")
        system.wait_polling(*FORMS)
        with Supervisor.of(system.home) as client:
            yield Chaos(system, client, seed, say)


def main() -> int:
    """Cause faults for the time that is asked for, and print what came of it."""
    parser = argparse.ArgumentParser(description="Faults in random order against a whole installation.")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.minutes:g} min", flush=True)
    with chaotic(options.seed, lambda text: print(text, flush=True)) as chaos:
        figures = chaos.figures
        try:
            chaos.run(options.minutes * 60)
        except AssertionError as error:
            print("\n".join(figures.lines()[:-1]))
            print(f"not well: {error}")
            return 1
    print("\n".join(figures.lines()))
    return 0 if figures.verdict == ALL_WELL else 1


if __name__ == "__main__":
    sys.exit(main())
