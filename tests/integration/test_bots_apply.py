"""apply, render-config and the wish, against a real supervisord."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from supervisord import UIDS, Supervisord, row, rows, supervisord, wait_for

from multibot_plugin.bots import apply as apply_module
from multibot_plugin.bots import conform as conform_module
from multibot_plugin.bots.apply import apply, finish, load, not_applied, set_autostart, write
from multibot_plugin.bots.conform import Applied
from multibot_plugin.bots.files import write_bot
from multibot_plugin.bots.plan import Plan, narrowed
from multibot_plugin.bots.render import read_rendered
from multibot_plugin.bots.unfinished import Whose, restarting, under_way
from multibot_plugin.cli.bot_power import Outcome, attempt
from multibot_plugin.errors import MultibotError, NoSuchBot, Refused, SupervisordAway
from multibot_plugin.home import Home
from multibot_plugin.journal import AuditEntry, Journal
from multibot_plugin.supervisor.client import Supervisor
from multibot_runner.protocol import RunnerSettings, decode, replace_file

TEN = [f"bot{number}" for number in range(10)]


@pytest.fixture
def running() -> Iterator[Supervisord]:
    with supervisord() as system:
        yield system


def test_a_changed_setting_of_one_bot_leaves_nine_pids_alone(running: Supervisord) -> None:
    bots = rows(*TEN)
    applied = running.apply(bots)
    assert applied.started == tuple(TEN)
    running.wait_state("RUNNING", *TEN)
    before = running.pids()

    bots["bot3"]["settings"] = {"poll_timeout_s": "7s"}
    applied = running.apply(bots)
    assert applied == type(applied)(restarted=("bot3",))
    running.wait_state("RUNNING", *TEN)
    after = running.pids()
    assert [bot for bot in TEN if before[bot] != after[bot]] == ["bot3"]
    assert not_applied(running.home, running.client.bots()["bots"]) == ()

    assert running.apply(bots) == type(applied)()
    assert running.pids() == after


def test_a_change_rendered_and_then_taken_over_by_stock_supervisorctl_restarts_one_bot(running: Supervisord) -> None:
    bots = rows(*TEN)
    running.apply(bots)
    running.wait_state("RUNNING", *TEN)
    before = running.pids()

    bots["bot7"]["env"] = {"GREETING": "hello"}
    write(running.home, running.plan(bots))
    assert running.pids() == before
    assert not_applied(running.home, running.client.bots()["bots"]) == ("bot7",)
    assert running.ctl("reread") == "bot-bot7: changed\n"
    assert "bot-bot7: updated process group" in running.ctl("update")
    running.wait_state("RUNNING", *TEN)
    after = running.pids()
    assert [bot for bot in TEN if before[bot] != after[bot]] == ["bot7"]


def test_a_plan_for_one_bot_restarts_no_other_and_keeps_the_files_that_others_run_from(running: Supervisord) -> None:
    bots = rows("one", "two", "three")
    running.apply(bots)
    running.wait_state("RUNNING", *bots)
    before, digests = running.pids(), {bot: seen["digest"] for bot, seen in running.rows().items()}
    for bot in bots.values():
        bot["env"] = {"A": "1"}
    write(running.home, narrowed(running.plan(bots), {"three"}))  # rendered, and not taken over by supervisord
    del bots["two"]
    plan = narrowed(running.plan(bots), {"one"})
    assert plan.others == ("two",)
    assert apply(running.home, plan, running.client).restarted == ("one",)
    running.wait_state("RUNNING", "one", "two", "three")
    after = running.pids()
    assert [bot for bot in before if before[bot] != after[bot]] == ["one"]
    for bot in ("two", "three"):
        assert running.home.bot(bot).token(digests[bot]).exists()
    assert not running.home.bot("one").token(digests["one"]).exists()
    applied = running.apply(bots)
    assert (applied.restarted, applied.removed) == (("three",), ("two",))


def test_a_live_setting_restarts_nothing_and_stands_in_the_file_for_the_monitor(running: Supervisord) -> None:
    bots = rows("one")
    running.apply(bots)
    before = running.pids()
    bots["one"]["settings"] = {"memory_limit": "128MB"}
    plan = running.plan(bots)
    assert [(change.bot, change.effect) for change in plan.changed] == [("one", "live")]
    assert apply(running.home, plan, running.client).restarted == ()
    assert running.pids() == before
    assert b'"memory_limit": 134217728' in running.home.bot("one").live.read_bytes()


def test_bots_that_changed_are_stopped_at_the_same_time(running: Supervisord) -> None:
    names = [f"slow-{number}" for number in range(5)]
    bots = rows(*names)
    running.apply(bots)
    running.wait_state("RUNNING", *names)
    for bot in bots.values():
        bot["env"] = {"A": "1"}
    assert running.apply(bots).restarted == tuple(names)
    running.wait_state("RUNNING", *names)
    assert sorted(running.stops()[:5]) == [f"told {name}" for name in names]


def test_a_bot_that_ignores_the_signal_is_killed_in_its_time_and_comes_back(running: Supervisord) -> None:
    bots = rows("deaf-one", settings={"stop_wait_s": "1s"})
    running.apply(bots)
    running.wait_state("RUNNING", "deaf-one")
    pid = running.pids()["deaf-one"]
    bots["deaf-one"]["env"] = {"A": "1"}
    assert running.apply(bots).restarted == ("deaf-one",)
    running.wait_state("RUNNING", "deaf-one")
    assert running.pids()["deaf-one"] != pid


def test_bots_that_are_no_more_are_stopped_and_their_secrets_swept_but_not_their_data(running: Supervisord) -> None:
    bots = rows("one", "two")
    running.apply(bots)
    running.wait_state("RUNNING", "one", "two")
    paths = running.home.bot("two")
    paths.work.mkdir()
    (paths.work / "data").write_text("mine")
    old = running.home.bot("one").token(running.rows()["one"]["digest"])
    del bots["two"]
    bots["one"]["token"] = row("one", 77)["token"]
    applied = running.apply(bots)
    assert applied.removed == ("two",)
    assert set(running.rows()) == {"one"}
    assert [path.name for path in paths.state_dir.iterdir()] == ["work"]
    assert (paths.work / "data").read_text() == "mine"
    assert not old.exists()
    assert len(list(running.home.bot("one").state_dir.glob("*.token"))) == 1


def test_an_empty_database_does_not_stop_the_fleet_unless_told_to(running: Supervisord) -> None:
    running.apply(rows("one", "two"))
    running.wait_state("RUNNING", "one", "two")
    text = running.home.rendered.read_text()
    with pytest.raises(Refused, match="holds no bot, but 2 are rendered"):
        running.apply({})
    with pytest.raises(Refused):
        write(running.home, running.plan({}))
    running.home.rendered.unlink()
    with pytest.raises(Refused):  # nothing rendered, but supervisord runs them
        running.apply({})
    assert not running.home.rendered.exists()
    running.home.rendered.write_text(text)
    assert running.apply({}, force=True).removed == ("one", "two")
    assert running.rows() == {}


def test_a_missing_or_damaged_file_is_rebuilt_and_no_bot_notices(running: Supervisord) -> None:
    bots = rows("one", "two")
    running.apply(bots)
    running.wait_state("RUNNING", "one", "two")
    before, text = running.pids(), running.home.rendered.read_text()
    for damage in ("", "garbage [\n" + text[:300], text.replace("autostart=true", "autostart=perhaps")):
        running.home.rendered.write_text(damage)
        running.apply(bots)
        assert running.home.rendered.read_text() == text
    running.home.rendered.unlink()
    assert running.plan(bots).added == ("one", "two")
    assert running.apply(bots) == Applied(rendered_again=("one", "two"))
    assert running.home.rendered.read_text() == text
    assert running.pids() == before


def test_a_bot_whose_files_were_damaged_gets_them_back(running: Supervisord) -> None:
    bots = rows("one")
    running.apply(bots)
    digest = running.rows()["one"]["digest"]
    settings, token = running.home.bot("one").settings(digest), running.home.bot("one").token(digest)
    whole = settings.read_bytes()
    token.unlink()
    replace_file(settings, b"{")
    plan = running.plan(bots)
    assert plan.pending
    assert plan.repairs == ("one",)
    apply(running.home, plan, running.client)
    assert settings.read_bytes() == whole
    assert token.read_text() == bots["one"]["token"]
    assert stat.S_IMODE(token.stat().st_mode) == 0o400


def test_only_bots_are_touched_and_nobody_elses_mistake_is_in_the_way(running: Supervisord) -> None:
    other = running.home.config / "conf.d" / "other.conf"
    other.write_text("[program:other]\ncommand=/bin/sleep 3600\n[program:bad]\ncommand=/bin/true\nstartsecs=soon\n")
    assert "ERROR: CANT_REREAD" in running.ctl("reread", code=None)
    assert running.apply(rows("one")).started == ("one",)
    assert "other" not in running.ctl("status", code=None)


def test_a_disabled_bot_is_added_and_not_started(running: Supervisord) -> None:
    bots = rows("off", "on")
    bots["off"]["enabled"] = False
    running.apply(bots)
    running.wait_state("RUNNING", "on")
    assert running.states()["off"] == "STOPPED"
    bots["off"]["env"] = {"A": "1"}
    applied = running.apply(bots)
    assert (applied.started, applied.restarted, applied.stopped) == ((), (), ())
    assert running.states()["off"] == "STOPPED"
    assert running.rows()["off"]["start_at"] is None


def test_enabled_changed_in_the_database_starts_and_stops_without_touching_others(running: Supervisord) -> None:
    bots = rows("a", "b", "slow-c")
    running.apply(bots)
    running.wait_state("RUNNING", "a", "b", "slow-c")
    before = running.pids()
    bots["a"]["enabled"] = bots["slow-c"]["enabled"] = False
    applied = running.apply(bots)
    assert applied == type(applied)(stopped=("a", "slow-c"))
    assert running.states() == {"a": "STOPPED", "b": "RUNNING", "slow-c": "STOPPED"}
    assert running.ctl("reread") == "No config updates to processes\n"
    bots["a"]["enabled"] = True
    assert running.apply(bots) == type(applied)(started=("a",))
    running.wait_state("RUNNING", "a", "b")
    assert running.pids()["b"] == before["b"]
    assert running.ctl("reread") == "No config updates to processes\n"


def test_enabled_and_a_setting_changed_together_follow_the_wish(running: Supervisord) -> None:
    bots = rows("a", "b")
    bots["b"]["enabled"] = False
    running.apply(bots)
    running.wait_state("RUNNING", "a")
    for bot in bots.values():
        bot |= {"enabled": not bot["enabled"], "env": {"A": "1"}}
    applied = running.apply(bots)
    assert (applied.started, applied.stopped) == (("b",), ("a",))
    running.wait_state("RUNNING", "b")
    assert running.states()["a"] == "STOPPED"


def test_a_quarantined_bot_starts_anew_when_its_configuration_changes(running: Supervisord) -> None:
    bots = rows("final-one")
    running.apply(bots)
    running.wait_state("EXITED", "final-one")
    assert running.rows()["final-one"]["exit_code"] == 78
    assert running.rows()["final-one"]["state"] == "quarantined"
    first = running.rows()["final-one"]["start_at"]
    assert running.apply(bots).started == ()
    bots["final-one"]["token"] = row("final-one", 5)["token"]
    assert running.apply(bots).started == ("final-one",)
    wait_for(lambda: (running.rows()["final-one"]["start_at"] or 0) > first, "another start")


def test_one_bad_row_keeps_its_bot_as_it_is_and_holds_up_nobody(running: Supervisord) -> None:
    bots = rows("good", "bad")
    running.apply(bots)
    running.wait_state("RUNNING", "good", "bad")
    before = running.pids()
    bots["bad"]["launch"] = "teleport"
    bots["good"]["env"] = {"A": "1"}
    plan = running.plan(bots)
    assert "teleport" in plan.problems["bad"]
    assert apply(running.home, plan, running.client).restarted == ("good",)
    assert running.pids()["bad"] == before["bad"]
    assert "bad" in read_rendered(running.home.rendered.read_text())
    digest = running.rows()["bad"]["digest"]
    assert running.home.bot("bad").settings(digest).exists()


def test_a_plan_that_was_overtaken_is_refused(running: Supervisord) -> None:
    bots = rows("one")
    running.apply(bots)
    bots["one"]["env"] = {"A": "1"}
    plan = running.plan(bots)
    set_autostart(running.home, running.client, "one", False)
    with pytest.raises(Refused, match="run it again"):
        apply(running.home, plan, running.client)


def test_the_wish_is_written_so_that_supervisord_sees_no_change_and_keeps_it(running: Supervisord) -> None:
    running.apply(rows("one", "two"))
    running.wait_state("RUNNING", "one", "two")
    before = running.pids()
    set_autostart(running.home, running.client, "one", False)
    assert running.rows()["one"]["enabled"] is False
    assert running.ctl("reread") == "No config updates to processes\n"
    assert "No config updates" in running.ctl("reread")
    assert running.ctl("update") == ""
    assert running.pids() == before
    running.ctl("stop", "bot-one")
    running.reload()
    running.wait_state("RUNNING", "two")
    assert running.states()["one"] == "STOPPED"
    with pytest.raises(NoSuchBot, match="did you mean 'one'"):
        set_autostart(running.home, running.client, "onee", False)


def test_the_wish_can_be_recorded_without_supervisord_and_holds_at_its_next_start(running: Supervisord) -> None:
    bots = rows("one", "two")
    running.apply(bots)
    running.stop()
    set_autostart(running.home, None, "one", False)
    with pytest.raises(SupervisordAway, match=r"run 'multibot --home .* start'"):
        set_autostart(running.home, running.client, "two", True)
    with pytest.raises(SupervisordAway):
        running.apply(bots)
    assert "autostart=false" in running.home.rendered.read_text()
    running.start()
    running.wait_state("RUNNING", "two")
    assert running.states()["one"] == "STOPPED"


def test_cut_off_before_the_rename_the_next_start_is_wholly_old_and_after_it_wholly_new(
    running: Supervisord, monkeypatch: pytest.MonkeyPatch
) -> None:
    bots = rows("one", "two")
    running.apply(bots)
    running.wait_state("RUNNING", "one", "two")
    old = {bot: entry["digest"] for bot, entry in running.rows().items()}
    for bot in bots.values():
        bot["env"] = {"A": "new"}
    plan = running.plan(bots)

    class CutOff(Exception):
        pass

    def cut_off(*arguments: object, **options: object) -> None:
        raise CutOff

    with monkeypatch.context() as patch:
        # The settings of all bots are on disk, the file of sections is not.
        patch.setattr(apply_module, "replace_file", cut_off)
        with pytest.raises(CutOff):
            write(running.home, plan)
    running.reload()
    running.wait_state("RUNNING", "one", "two")
    assert {bot: entry["digest"] for bot, entry in running.rows().items()} == old
    for bot, digest in old.items():
        assert decode(RunnerSettings, running.home.bot(bot).settings(digest).read_bytes()).env == {}

    write(running.home, plan)  # and cut off here: nothing was told to supervisord
    running.reload()
    running.wait_state("RUNNING", "one", "two")
    new = {bot: entry["digest"] for bot, entry in running.rows().items()}
    assert new == {bot: deployment.digest for bot, deployment in plan.deployments.items()}
    for bot, digest in new.items():
        assert decode(RunnerSettings, running.home.bot(bot).settings(digest).read_bytes()).env == {"A": "new"}
        assert running.home.bot(bot).settings(old[bot]).exists()
    assert apply(running.home, running.plan(bots), running.client).restarted == ()
    assert not any(running.home.bot(bot).settings(digest).exists() for bot, digest in old.items())


def test_cut_off_between_remove_and_add_the_next_apply_brings_the_bot_back(running: Supervisord) -> None:
    bots = rows("one", "two")
    running.apply(bots)
    running.wait_state("RUNNING", "one", "two")
    running.ctl("stop", "bot-one")
    running.ctl("remove", "bot-one")
    assert running.apply(bots).started == ("one",)
    running.wait_state("RUNNING", "one", "two")


def killed(system: Supervisord, code: str, once: str) -> None:
    """Run ``code`` (it has ``home``, ``client``, ``plan``) in a process that is killed when the bot ``once`` ends."""
    begin = (
        "import json, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from supervisord import Supervisord, make_home\n"
        "from multibot_plugin.bots.apply import apply, load\n"
        "from multibot_plugin.bots.unfinished import Whose, restarting\n"
        "from multibot_plugin.settings import load as load_settings\n"
        "from multibot_plugin.supervisor.client import Supervisor\n"
        "home = make_home(Path(sys.argv[1])); client = Supervisor.of(home); whose = Whose('ada', 'multibot test')\n"
        "settings, python = load_settings(home.toml, environ={}), str(Path(sys.argv[1], 'stand-in'))\n"
        "def plan(rows): return load(home, settings, rows, python=python)\n"
    )
    words = [sys.executable, "-c", begin + code, str(system.home.config), str(Path(__file__).parents[1])]
    with subprocess.Popen(words) as process:
        try:
            system.wait_state("STOPPING", once)
            assert under_way(system.home) == {once}
            assert finish(system.home, system.client) is None  # its lock is held
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL


def finished(system: Supervisord) -> list[tuple[str, str, str | None, str]]:
    batch = Journal(system.home.journal).pending()
    entries = batch.entries if batch else ()
    return [(e.actor, e.door, e.bot, e.action) for e in entries if isinstance(e, AuditEntry)]


def test_what_a_killed_apply_has_left_is_finished_by_somebody_else(running: Supervisord) -> None:
    bots = rows("slow-a", "b", "slow-c")
    running.apply(bots)
    running.wait_state("RUNNING", *bots)
    before = running.pids()
    bots["slow-a"]["env"] = {"A": "1"}
    killed(running, f"apply(home, plan({[*bots.values()]!r}), client, whose=whose)", "slow-a")
    running.ctl("stop", "bot-b")  # of an operator at the same moment
    applied = finish(running.home, running.client)
    assert applied is not None
    assert (applied.restarted, applied.started, applied.failed) == (("slow-a",), (), {})
    running.wait_state("RUNNING", "slow-a", "slow-c")
    assert running.states()["b"] == "STOPPED"
    assert running.rows()["slow-a"]["digest"] == running.plan(bots).deployments["slow-a"].digest
    assert running.pids()["slow-c"] == before["slow-c"]
    assert under_way(running.home) == frozenset()
    assert finished(running) == [("ada", "multibot test", "slow-a", "bot.restarted")]
    assert finish(running.home, running.client) is None


def test_what_a_killed_restart_has_left_is_finished_by_the_next_apply(running: Supervisord) -> None:
    bots = rows("slow-a", "b")
    running.apply(bots)
    running.wait_state("RUNNING", *bots)
    before = running.pids()
    running.home.status.write_text(json.dumps({"mono": time.monotonic(), "tick_s": 3600.0}))  # a monitor looks
    killed(running, "with restarting(home, ['slow-a'], whose): client.stop('bot-slow-a')", "slow-a")
    with restarting(running.home, ["b"], Whose("eve", "multibot bot restart")) as done:
        running.client.restart("bot-b")
        done("b")
    assert under_way(running.home) == {"slow-a"}
    assert running.apply(bots).restarted == ("slow-a",)
    running.wait_state("RUNNING", *bots)
    assert all(before[bot] != pid for bot, pid in running.pids().items())
    assert under_way(running.home) == frozenset()
    assert finished(running) == [("ada", "multibot test", "slow-a", "bot.restarted")]


def test_an_error_that_a_person_is_told_leaves_no_work_behind(
    running: Supervisord, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.apply(rows("one"))

    def write_what_supervisord_refuses(home: Home, plan: Plan, **options: object) -> None:
        replace_file(home.rendered, b"[program:bot-one]\ncommand=x\nstartsecs=soon\n")

    monkeypatch.setattr(apply_module, "write", write_what_supervisord_refuses)
    with pytest.raises(MultibotError, match="refuses its configuration"):
        running.apply(rows("one", settings={"poll_timeout_s": "7s"}))
    assert under_way(running.home) == frozenset()


@pytest.fixture
def left(running: Supervisord) -> Iterator[Callable[[], Applied | None]]:
    """What a monitor does for 'slow-a' and 'b', of which the first was left stopped by a failure."""
    running.apply(rows("slow-a", "b"))
    running.wait_state("RUNNING", "slow-a", "b")
    yield lambda: finish(running.home, running.client)
    assert under_way(running.home) == frozenset()
    assert [(e[2], e[3]) for e in finished(running)] == [("slow-a", "bot.restarted")]
    assert running.rows()["slow-a"]["enabled"]


def test_an_error_in_the_middle_of_the_stops_is_work_that_somebody_finishes(
    running: Supervisord, left: Callable[[], Applied | None]
) -> None:
    bots, rendered = rows("slow-a", "b", env={"A": "1"}), running.home.rendered.parent
    plan = running.plan(bots)
    with ThreadPoolExecutor(1) as pool, Supervisor.of(running.home) as client:
        applying = pool.submit(apply, running.home, plan, client)
        running.wait_state("STOPPING", "slow-a")
        new = plan.deployments["b"].digest
        wait_for(lambda: running.rows()["b"]["digest"] == new, "b replaced, while the slow one still ends")
        rendered.rename(rendered.with_name("away"))
        assert set(applying.result().failed) >= {"slow-a"}
    assert under_way(running.home) == {"slow-a"}
    running.wait_state("STOPPED", "slow-a")
    for _ in range(2):
        with pytest.raises(MultibotError, match="refuses its configuration"):
            left()
        assert under_way(running.home) == {"slow-a"}
    rendered.with_name("away").rename(rendered)
    applied = left()
    assert applied is not None
    assert (applied.started, applied.failed) == (("slow-a",), {})
    running.wait_state("RUNNING", "slow-a", "b")


def restart(system: Supervisord, bot: str) -> Outcome:
    """Do what 'multibot bot restart' does."""
    context = SimpleNamespace(home=system.home, supervisor=lambda: Supervisor.of(system.home))
    with restarting(system.home, [bot], Whose("ada", "multibot bot restart")) as done:
        return attempt(cast(Any, context), "restart", system.rows()[bot], False, done)


def test_a_restart_that_cannot_start_is_work_that_somebody_finishes(
    running: Supervisord, left: Callable[[], Applied | None]
) -> None:
    away = running.stand_in.rename(running.stand_in.with_name("away"))
    assert restart(running, "slow-a").text == "failed: bot 'slow-a': its program does not exist"
    assert running.states()["slow-a"] == "STOPPED"
    for _ in range(2):
        applied = left()
        assert applied == Applied(failed={"slow-a": "bot 'slow-a': its program does not exist"})
        assert under_way(running.home) == {"slow-a"}
    away.rename(running.stand_in)
    applied = left()
    assert applied == Applied(started=("slow-a",))
    running.wait_state("RUNNING", "slow-a", "b")
    # Again, but now somebody starts it: the next stop past multibot is an operator's.
    away = running.stand_in.rename(away)
    restart(running, "slow-a")
    away.rename(running.stand_in)
    running.ctl("start", "bot-slow-a")
    assert left() == Applied()


def test_a_failed_apply_takes_no_stop_of_somebody_else_for_its_own(
    running: Supervisord, monkeypatch: pytest.MonkeyPatch
) -> None:
    bots, rendered = rows("slow-a", "b", "c"), running.home.rendered.parent
    running.apply(bots)
    running.wait_state("RUNNING", *bots)
    running.ctl("stop", "bot-b")
    plan = running.plan(rows(*bots, env={"A": "1"}))
    monkeypatch.setattr(apply_module, "write", lambda *a, **o: rendered.rename(rendered.with_name("away")))
    with pytest.raises(MultibotError, match="refuses its configuration"):
        apply(running.home, plan, running.client)
    assert under_way(running.home) == frozenset()  # b was stopped before, the others run


def test_half_a_line_of_a_killed_writer_names_nobody_and_hides_nobody(running: Supervisord) -> None:
    running.apply(rows("one"))
    lock = running.home.state / "apply.lock"
    lock.write_text('\n{"bots": ["one"], "actor": "ada", "door": "d"}\n\n{"bots": ["tw')
    assert under_way(running.home) == {"one"}
    with restarting(running.home, ["two"], Whose("eve", "d")):
        assert under_way(running.home) == {"one", "two"}
    assert under_way(running.home) == {"one"}
    lock.write_text('[]\n{"bots": 3}\n{"bots": ["../x", 7]}\n')
    assert under_way(running.home) == frozenset()


def test_without_a_monitor_nobody_undoes_what_an_operator_stopped_past_multibot(running: Supervisord) -> None:
    bots = rows("a", "b", "slow-c")
    running.apply(bots)
    running.wait_state("RUNNING", *bots)
    running.ctl("stop", "bot-a")
    assert running.apply(bots) == Applied(standing=("a",))
    bots["a"]["env"] = bots["b"]["env"] = {"A": "1"}
    assert running.apply(bots) == Applied(restarted=("b",), standing=("a",))
    assert (running.states()["a"], not_applied(running.home, running.client.bots()["bots"])) == ("STOPPED", ())
    assert running.apply(bots) == Applied(standing=("a",))
    running.ctl("start", "bot-a")
    running.wait_state("RUNNING", *bots)
    assert running.rows()["a"]["digest"] == running.plan(bots).deployments["a"].digest
    assert running.apply(bots) == Applied()
    running.client.stop("bot-slow-c", None)  # still under way when the change comes
    bots["slow-c"]["env"] = {"A": "1"}
    assert running.apply(bots) == Applied(standing=("slow-c",))
    assert (running.states()["slow-c"], not_applied(running.home, running.client.bots()["bots"])) == ("STOPPED", ())


def test_a_program_of_somebody_else_may_be_called_like_a_bot(running: Supervisord) -> None:
    own = running.home.config / "conf.d" / "own.conf"
    own.write_text("[program:bot-foo]\ncommand=/bin/sleep 600\n")
    assert running.apply(rows("a")) == Applied(started=("a",))
    running.ctl("update", "bot-foo")
    running.wait_state("RUNNING", "a")
    pid = running.client.info("bot-foo")["pid"]
    assert list(running.rows()) == ["a"]
    assert running.apply(rows("a")) == Applied()
    assert not_applied(running.home, running.client.bots()["bots"]) == ()
    assert running.client.info("bot-foo")["pid"] == pid
    bots = rows("a", "foo", "c")
    overtaken = load(running.home, running.settings, bots.values(), str(running.stand_in))
    with pytest.raises(Refused, match="has a program bot-foo that is not multibot's"):
        apply(running.home, overtaken, running.client)
    write(running.home, overtaken)  # what 'bot create' does while supervisord is away
    assert "foo" in read_rendered(running.home.rendered.read_text())
    plan = running.plan(bots)
    assert plan.problems["foo"].startswith("supervisord has a program bot-foo that is not multibot's: rename that, or")
    assert "[program:bot-foo]" not in narrowed(plan, {"a"}).file.text
    assert apply(running.home, plan, running.client).started == ("c",)
    assert "foo" not in read_rendered(running.home.rendered.read_text())
    running.ctl("update")
    assert running.client.info("bot-foo")["pid"] == pid
    own.unlink()
    running.ctl("update")
    assert running.apply(bots) == Applied(started=("foo",))


def test_a_stop_that_may_be_an_operators_wish_is_left_to_the_monitor(
    running: Supervisord, monkeypatch: pytest.MonkeyPatch
) -> None:
    bots = rows("a", "slow-b")
    running.apply(bots)
    running.wait_state("RUNNING", *bots)
    running.home.status.write_text(json.dumps({"mono": time.monotonic(), "tick_s": 3600.0}))
    running.ctl("stop", "bot-a")
    assert running.apply(bots).started == ()
    running.client.stop("bot-slow-b", None)
    monkeypatch.setattr(conform_module, "_WISH_WAITS_S", -1.0)
    assert running.apply(bots).started == ()  # somebody is in the middle of stopping
    running.wait_state("STOPPED", "a", "slow-b")
    assert running.apply(bots).started == ("a", "slow-b")


def test_a_bot_that_is_enabled_while_it_ends_starts_when_it_has_ended(running: Supervisord) -> None:
    bots = rows("slow-a")
    running.apply(bots)
    running.wait_state("RUNNING", "slow-a")
    first = running.pids()["slow-a"]
    set_autostart(running.home, running.client, "slow-a", False)
    running.client.stop("bot-slow-a", None)
    assert running.states()["slow-a"] == "STOPPING"
    assert running.apply(bots).restarted == ("slow-a",)
    running.wait_state("RUNNING", "slow-a")
    assert running.pids()["slow-a"] != first


def test_files_of_what_runs_survive_a_file_that_is_rendered_meanwhile(
    running: Supervisord, monkeypatch: pytest.MonkeyPatch
) -> None:
    bots, later = rows("one"), rows("one", env={"A": "later"})
    real = conform_module.conform

    def slow(*arguments: Any, **options: Any) -> Any:
        applied = real(*arguments, **options)
        write(running.home, running.plan(later))  # somebody's render-config --output
        return applied

    monkeypatch.setattr(apply_module, "conform", slow)
    running.apply(bots)
    runs, rendered = running.rows()["one"]["digest"], read_rendered(running.home.rendered.read_text())["one"].digest
    assert runs != rendered
    assert all(running.home.bot("one").token(digest).exists() for digest in (runs, rendered))


def test_files_belong_to_the_bot_alone_in_directories_that_it_cannot_change(running: Supervisord) -> None:
    running.apply(rows("one"))
    paths, owner = running.home.bot("one"), UIDS + 1 if os.geteuid() == 0 else os.geteuid()
    digest = running.rows()["one"]["digest"]
    for path in (paths.settings(digest), paths.token(digest)):
        assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (owner, 0o400)
    for directory in (paths.state_dir, paths.state_dir.parent):
        assert (directory.stat().st_uid, stat.S_IMODE(directory.stat().st_mode)) == (os.geteuid(), 0o711)
    assert stat.S_IMODE(paths.live.stat().st_mode) == 0o600
    assert stat.S_IMODE(running.home.bot_log("one").stat().st_mode) == 0o600
    assert stat.S_IMODE(running.home.log.stat().st_mode) == 0o700


def test_a_directory_or_a_link_put_there_by_somebody_else_is_refused(running: Supervisord, tmp_path: Path) -> None:
    deployment = running.plan(rows("one")).deployments["one"]
    state_dir = running.home.bot("one").state_dir
    state_dir.symlink_to(tmp_path)
    owner = (os.geteuid(), os.getegid())
    with pytest.raises(Refused, match="can be changed by others"):
        write_bot(running.home, deployment, owner)
    assert list(tmp_path.iterdir()) == []
    state_dir.unlink()
    running.home.bot_log("one").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MultibotError, match="cannot write"):
        write(running.home, running.plan(rows("one")))
    assert list(tmp_path.iterdir()) == []


def test_the_file_can_be_rendered_somewhere_else(running: Supervisord, tmp_path: Path) -> None:
    before = running.home.rendered.read_text()
    write(running.home, running.plan(rows("one")), tmp_path / "out.conf")
    assert "[program:bot-one]" in (tmp_path / "out.conf").read_text()
    assert running.home.rendered.read_text() == before
    assert len(list(running.home.bot("one").state_dir.glob("*.json"))) == 2
