"""What ``multibot doctor`` looks at of the running system: each function is one check and returns what it found."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import multibot_plugin
from multibot_plugin.cli.config import problems
from multibot_plugin.cli.fleet import Fleet, NotLoaded, Row
from multibot_plugin.cli.output import Context, count, spoken
from multibot_plugin.cli.start import is_running
from multibot_plugin.errors import MultibotError
from multibot_plugin.home import Home, typed
from multibot_plugin.supervisor.client import STOPPED_STATES

GOOD, WARNING, BAD = "●", "▲", "✖"
OLD_BUILD_DAYS = 120
_DESCRIPTORS_OF_A_BOT = 3  # of supervisord: two pipes and a log file
_DESCRIPTORS_BESIDES = 60
# pip does not keep the times of a wheel's files, so the age of the pinned build stands here (its newest file).
_WHEEL_BUILT = {"18.6": date(2026, 9, 7)}


@dataclass(frozen=True)
class Check:
    """One line: ● fine, ▲ worth a look, ✖ wrong; ``remedies`` are what to type (or do), one per line."""

    name: str
    mark: str
    text: str
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Patient:
    """What the checks look at; everything that is slow to find out was asked once."""

    context: Context
    fleet: Fleet
    picture: dict[str, Any]

    @property
    def started(self) -> bool:
        """Whether this installation ever ran: before that there is nothing to be said of what runs."""
        home = self.context.home
        log = home.log / "monitor.log" if home.foreign else home.supervisord_log
        return self.fleet.away is None or log.exists()


Found = Check | Iterable[Check]


def settings(patient: Patient) -> Found:
    """multibot.toml can be read and makes sense."""
    toml = patient.context.home.toml
    found = [p for p in problems(patient.context.settings) if not p.startswith("alerts.")]
    if found:
        return [Check("settings", BAD, text, (f"edit {toml}",)) for text in found]
    own = sum(origin != "default" for origin in patient.context.settings.origins.values())
    return Check("settings", GOOD, f"settings fine, {f'{own} changed' if own else 'all as by default'}")


def supervisord(patient: Patient) -> Found:
    """supervisord answers, has our plugin of this version, and its configuration is what we would write."""
    home, fleet = patient.context.home, patient.fleet
    if fleet.away:
        if pid := is_running(home):
            return Check("supervisord", BAD, f"supervisord (pid {pid}) lives but does not answer", (f"kill {pid}",))
        text = "supervisord is not running" if patient.started else "not started yet"
        return Check("supervisord", BAD, text, (home.command("start"),))
    with patient.context.supervisor() as supervisor:
        loaded = supervisor.version()
    again = tuple(home.command(act) for act in ("stop", "start"))
    if loaded["multibot"] != multibot_plugin.__version__:
        text = f"supervisord runs multibot {loaded['multibot']}, installed is {multibot_plugin.__version__}"
        return Check("supervisord", WARNING, text, again)
    return Check("supervisord", GOOD, f"supervisord {loaded['supervisor']}, plugin loaded in it")


def main_file(patient: Patient) -> Found:
    """supervisord.conf is the one that this version writes for these settings, but for the switches of our plugin."""
    from multibot_plugin.database.embedded import is_embedded, program
    from multibot_plugin.supervisor.beside import without_switches, wrong_switch
    from multibot_plugin.supervisor.conf import render_main
    from multibot_plugin.supervisor.mainfile import MainFile

    home, settings = patient.context.home, patient.context.settings
    wanted = render_main(home, program(home, settings) if is_embedded(settings) else None)
    if mistake := wrong_switch(MainFile(home.supervisord_conf).own.get("rpcinterface:multibot", {})):
        text = f"{home.supervisord_conf}: [rpcinterface:multibot] {mistake}"
        return Check("configuration", BAD, text, (f"edit {home.supervisord_conf}",))
    if without_switches(home.supervisord_conf.read_text()) == without_switches(wanted):
        return ()
    text = f"{home.supervisord_conf} differs from what this multibot writes (changed by hand, or of another version)"
    return Check("configuration", WARNING, text, (home.command("init"),))


def monitor(patient: Patient) -> Found:
    """The listener looks at the bots; its plugins work."""
    home, state = patient.context.home, patient.fleet.monitor
    if patient.fleet.away:
        return ()
    log = home.log / "monitor.log"
    if state.get("state") in STOPPED_STATES:
        meant = state["state"] == "STOPPED"
        how = "is stopped" if meant else f"does not run ({state['state']})"
        remedies = (home.command("start"),) if meant else (f"tail {log}", home.command("start"))
        return Check("monitor", BAD, f"the monitor {how}: nobody watches the bots", remedies)
    if not state.get("ok"):
        age_s = state.get("tick_age_s")
        text = (
            f"the monitor has been silent for {spoken(age_s)}" if age_s is not None else "the monitor does not report"
        )
        ctl = f"{typed('supervisorctl')} -c {home.supervisord_conf}"
        return Check(
            "monitor", BAD, f"{text}: bots run on, nobody watches them", (f"tail {log}", f"{ctl} restart multibot")
        )
    bad = [p for p in patient.picture.get("plugins", ()) if p.get("disabled") or p.get("failures")]
    found = [Check("monitor", GOOD, f"listener answering, last tick {spoken(state['tick_age_s'])} ago")]
    for plugin in bad:
        what = "disabled" if plugin.get("disabled") else f"failing ({plugin['failures']} times in a row)"
        found.append(
            Check("plugin", WARNING, f"plugin {plugin['name']} is {what}: {plugin.get('text', '')}", (f"tail {log}",))
        )
    return found


def database(patient: Patient) -> Found:
    """The database answers, has our tables, and ours is not an old build."""
    return patient.context.run(_ask_database(patient.context)) if patient.started else ()


async def _ask_database(context: Context) -> Found:
    from multibot_plugin.database.migrate import LATEST, schema_version

    home = context.home
    try:
        async with asyncio.timeout(6), context.database(3.0) as connection:
            version = connection.get_settings().server_version.partition(" ")[0]
            schema = await schema_version(connection)
    except (MultibotError, TimeoutError) as error:
        remedy = f"tail {home.log / 'postgres.log'}" if not context.settings["database_url"] else "see that it runs"
        return Check("database", BAD, str(error) or "the database does not answer in time", (remedy,))
    text = f"database: schema {schema}, PostgreSQL {version}"
    if schema != LATEST:
        remedy = home.command("start") if schema < LATEST else "install the multibot that made it, or a newer one"
        return Check("database", BAD, f"{text}, this multibot needs {LATEST}", (remedy,))
    built = None if context.settings["database_url"] else _built(context)
    days = (datetime.now(UTC).date() - built).days if built else 0
    if days > OLD_BUILD_DAYS:
        cure = "update multibot, or set database_url to a server that your distribution keeps up to date"
        return Check("database", WARNING, f"{text}: its build is {days} days old, security fixes are missing", (cure,))
    return Check("database", GOOD, f"{text}{f' (built {days} days ago)' if built else ''}")


def _built(context: Context) -> date | None:
    """Return when the embedded server's programs were built if they came with us; a distribution mends its own."""
    from multibot_plugin.database.server import read_server

    server = read_server(context.home.state)
    return _WHEEL_BUILT.get(server.version) if server.origin == "wheel" else None


def rendered(patient: Patient) -> Found:
    """supervisord runs what is rendered, and what is rendered is what the database says."""
    from multibot_plugin.bots.astray import astray
    from multibot_plugin.cli.applying import plan_now

    home = patient.context.home
    if not patient.started:
        return ()
    lost = "" if patient.fleet.away else astray(home, {row["id"] for row in patient.fleet.rows})
    if lost:
        return Check("rendered", BAD, lost, (home.command("apply"),))
    known = False
    with suppress(MultibotError):  # an absent database has its own line
        plan = plan_now(patient.context)
        found = [Check("bots", BAD, text, (home.command(f"bot show {bot}"),)) for bot, text in plan.problems.items()]
        if plan.pending:
            changed = len(plan.added) + len(plan.changed) + len(plan.removed) + len(plan.repairs)
            differ = f"{count(changed, 'bot')} in the database {'differs' if changed == 1 else 'differ'}"
            text = f"{differ} from what is rendered" if changed else "files to write"
            return [
                *found,
                Check("rendered", WARNING, text, (home.command("render-config --diff"), home.command("apply"))),
            ]
        if found:
            return found
        known = True
    return _running(patient, known)


def _running(patient: Patient, known: bool) -> Check:
    """Compare what supervisord runs with what is rendered; ``known``: that is what the database says."""
    from multibot_plugin.bots.apply import not_applied

    home, bots = patient.context.home, count(len(patient.fleet.rows), "bot")
    differing = () if patient.fleet.away else not_applied(home, patient.fleet.rows)
    if differing:
        text = f"supervisord runs {', '.join(differing[:5])} otherwise than rendered"
        return Check("rendered", WARNING, text, (home.command("apply"),))
    if isinstance(patient.fleet.away, NotLoaded):
        return Check("rendered", WARNING, f"{bots}; what runs of them is not known")
    if patient.fleet.away:
        return Check("rendered", WARNING, f"{bots}, none of which runs without supervisord")
    if not known:
        text = f"{bots}, running as they were rendered last: what the database says is not known"
        return Check("rendered", WARNING, text)
    return Check("rendered", GOOD, f"{bots}, running as the database says")


def descriptors(patient: Patient) -> Found:
    """supervisord may open enough files for its bots."""
    pid = patient.fleet.supervisord.get("pid")
    if not pid:
        return ()
    line = next(s for s in Path(f"/proc/{pid}/limits").read_text().splitlines() if s.startswith("Max open files"))
    limit, bots = int(line.split()[3]), len(patient.fleet.rows)
    room = (limit - _besides(pid, patient.fleet.rows)) // _DESCRIPTORS_OF_A_BOT
    text = f"descriptors: {limit:,} allow {count(room, 'bot')}, {bots:,} configured"
    if bots * 10 < room * 8:
        return Check("descriptors", GOOD, text)
    home = patient.context.home
    remedies = (f"raise minfds in {home.supervisord_conf} to {limit * 4}", _to_restart(home))
    return Check("descriptors", BAD if bots >= room else WARNING, text, remedies)


def _to_restart(home: Home) -> str:
    from multibot_plugin.supervisor.beside import to_restart

    return to_restart(home) if home.foreign else home.to_restart


def _besides(pid: int, rows: Iterable[Row]) -> int:
    """Return how many descriptors of supervisord are not for bots: its own, those of other programs."""
    running = sum(bool(row["pid"]) for row in rows)
    open_now = len(os.listdir(f"/proc/{pid}/fd"))
    return max(_DESCRIPTORS_BESIDES, open_now - running * _DESCRIPTORS_OF_A_BOT)
