"""The sandbox as a process, its client, and ``multibot sandbox``."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result
from sandboxes import threaded

from multibot_plugin.bots.render import Place, Section, render
from multibot_plugin.cli import main
from multibot_plugin.errors import BadValue, MultibotError, NoSuchBot, Refused, Unreachable
from multibot_plugin.home import find_home
from multibot_plugin.sandbox import client
from multibot_plugin.sandbox.client import Sandbox
from multibot_plugin.sandbox.process import child
from multibot_plugin.supervisor.conf import template

TOKEN = f"7001:{'A' * 35}"
MODULE = [sys.executable, "-P", "-m", "multibot_plugin.sandbox"]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with threaded() as running:
        yield running


def call(sandbox: Sandbox, method: str, token: str = TOKEN, **parameters: object) -> dict[str, object]:
    """Call the Bot API as a bot of the standard library does."""
    request = urllib.request.Request(
        f"{sandbox.url}/bot{token}/{method}", json.dumps(parameters).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        return dict(json.load(answer))


@contextmanager
def parrot(sandbox: Sandbox) -> Iterator[None]:
    """A bot that repeats what it is told, with a button, until the block ends."""
    ended = threading.Event()

    def serve() -> None:
        offset = 0
        while not ended.is_set():
            updates = call(sandbox, "getUpdates", timeout=1, offset=offset)["result"]
            assert isinstance(updates, list)
            for update in updates:
                offset = update["update_id"] + 1
                if query := update.get("callback_query"):
                    call(sandbox, "answerCallbackQuery", callback_query_id=query["id"], text=f"got {query['data']}")
                elif update["message"]["text"] != "quiet":
                    message = update["message"]
                    keyboard = {"inline_keyboard": [[{"text": "More", "callback_data": "more"}]]}
                    text = message["text"]
                    call(sandbox, "sendMessage", chat_id=message["chat"]["id"], text=text, reply_markup=keyboard)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        sandbox.say(TOKEN, "quiet")
        thread.join()


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def process(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the module and give the process and its first line."""
    with subprocess.Popen([*MODULE, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout
        try:
            yield running, running.stdout.readline().strip()
        finally:
            running.terminate()


def test_a_client_plays_the_users_of_a_bot(sandbox: Sandbox) -> None:
    sandbox.register(TOKEN, "parrot")
    with parrot(sandbox):
        answer = sandbox.ask("parrot", "hello")
        assert (answer.name, answer.text, answer.buttons) == ("parrot", "hello", ("More",))
        tap = sandbox.tap(TOKEN, "More")
        assert sandbox.wait_for("got more", bot="@parrot_bot", after=tap.n).kind == "answer"
        assert sandbox.ask("7001", "in a group", chat=-7).chat == -7
    assert [entry.by for entry in sandbox.transcript("parrot")][:6] == ["user", "bot"] * 3
    assert sandbox.transcript(after=sandbox.last()) == []
    assert sandbox.counters("parrot").calls["sendmessage"] == 2


def test_a_sandbox_as_a_child_ends_with_its_block_and_with_its_parent() -> None:
    with child() as running:
        running.register(TOKEN)
        assert call(running, "getMe")["ok"]
    with pytest.raises(Unreachable):
        running.bots()
    orphan = subprocess.Popen([*MODULE, "--lifeline"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    orphan.communicate(timeout=10)
    assert orphan.returncode == 0


def test_several_users_speak_each_in_a_chat_of_his_own(sandbox: Sandbox) -> None:
    sandbox.register(TOKEN, "parrot")
    said = [sandbox.say("parrot", "hi", user=user) for user in (None, "Bob", "Eve", "Bob")]
    assert [(entry.user, entry.chat) for entry in said] == [("Ada", 1001), ("Bob", 1002), ("Eve", 1003), ("Bob", 1002)]
    assert sandbox.say("parrot", "hi", chat=-7, user="Bob").user == "Bob"


def test_a_client_sets_ends_and_sees_faults(sandbox: Sandbox) -> None:
    sandbox.register(TOKEN, "parrot")
    sandbox.fault("parrot", status=403, method="getMe", description="Forbidden: no", for_s=60)
    sandbox.fault(None, hang=True, times=1)
    with pytest.raises(OSError, match="403"):
        call(sandbox, "getMe")
    assert sandbox.counters("parrot").faults == 1
    assert (sandbox.clear("parrot"), sandbox.clear()) == (1, 1)
    assert call(sandbox, "getMe")["ok"]


def test_a_client_raises_what_went_wrong(sandbox: Sandbox) -> None:
    sandbox.register(TOKEN, "parrot")
    with pytest.raises(NoSuchBot, match=r"no bot 'parot' \(did you mean 'parrot'\?\)"):
        sandbox.say("parot", "hi")
    with pytest.raises(NoSuchBot, match="no bot '7002'"):
        sandbox.counters(f"7002:{'A' * 35}")
    with pytest.raises(BadValue, match="1 to 4096"):
        sandbox.say("parrot", "x" * 4097)
    with pytest.raises(BadValue, match="use 400 to 599"):
        sandbox.fault("parrot", status=200)
    with pytest.raises(BadValue, match="a fault is one of status, hang, drop, lose"):
        sandbox.fault("parrot", hang=True, drop=True)
    with pytest.raises(Refused, match="no button"):
        sandbox.tap("parrot", "More")
    with pytest.raises(MultibotError, match=r"parrot has not sent 'hello' within 0\.1 s"):
        sandbox.wait_for("hello", 0.1, bot="parrot")
    with pytest.raises(Unreachable, match="is not a sandbox"):
        Sandbox(f"{sandbox.url}/elsewhere").bots()


def test_blocked_and_made_chats_are_the_clients_to_choose(sandbox: Sandbox) -> None:
    sandbox.register(TOKEN)
    sandbox.add_chat(4242, "Operator")
    sandbox.block(TOKEN, 4242)
    with pytest.raises(OSError, match="403"):
        call(sandbox, "sendMessage", chat_id=4242, text="x")
    sandbox.block(TOKEN, 4242, on=False)
    assert call(sandbox, "sendMessage", chat_id=4242, text="x")["ok"]


def test_a_restarted_process_comes_back_at_its_url(tmp_path: Path) -> None:
    record = tmp_path / "run" / "sandbox.json"
    urls = []
    for _ in range(2):
        with process("--record", str(record)) as (running, line):
            urls.append(line)
            assert json.loads(record.read_text()) == {"url": line.removeprefix("sandbox: "), "pid": running.pid}
            assert client.find(record).bots() == []
        assert running.returncode == 0
    assert urls[0] == urls[1]
    with pytest.raises(Unreachable, match=r"the sandbox has ended: run 'multibot sandbox serve'"):
        client.find(record)
    with process("--record", str(record)) as (running, _):
        running.kill()
    with pytest.raises(Unreachable, match="does not answer"):
        client.find(record).bots()


def test_a_second_one_with_the_same_record_is_refused_and_leaves_it_alone(tmp_path: Path) -> None:
    record = tmp_path / "sandbox.json"
    with process("--record", str(record)) as (first, line):
        before, url = record.read_bytes(), line.removeprefix("sandbox: ")
        with process("--record", str(record)) as (second, said):
            assert second.wait() == Refused.exit_code
            told = f"a sandbox runs here already: {url} (pid {first.pid}); for a second one: --record FILE"
            assert said == f"multibot: {told}"
        assert record.read_bytes() == before
        with process("--record", str(tmp_path / "other.json")) as (_, said):
            assert said.startswith("sandbox: ")


def test_a_record_that_another_one_has_replaced_is_left_to_it(tmp_path: Path) -> None:
    record = tmp_path / "sandbox.json"
    with process("--record", str(record)):
        record.rename(tmp_path / "moved.json")
        record.write_text("another's")
    assert record.read_text() == "another's"


def test_a_process_whose_port_was_taken_meanwhile_takes_another(tmp_path: Path) -> None:
    record = tmp_path / "sandbox.json"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        record.write_text(json.dumps({"url": f"http://127.0.0.1:{taken.getsockname()[1]}", "pid": 1}))
        with process("--record", str(record)) as (_, line):
            assert line.startswith("sandbox: http://127.0.0.1:")
            assert line.rpartition(":")[2] != str(taken.getsockname()[1])
        with process("--port", str(taken.getsockname()[1])) as (running, line):
            assert running.wait() == Refused.exit_code
            assert line.startswith("multibot: cannot listen on 127.0.0.1 port")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org", "::", ""])
def test_only_loopback_is_listened_on(host: str) -> None:
    with process("--host", host) as (running, line):
        assert running.wait() == BadValue.exit_code
        assert "loopback only" in line


def test_a_second_interrupt_is_not_needed_while_polls_are_open(sandbox: Sandbox) -> None:
    with process() as (running, line):
        there = Sandbox(line.removeprefix("sandbox: "))
        there.register(TOKEN)
        host, _, port = there.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port))) as poll:
            poll.sendall(f"GET /bot{TOKEN}/getUpdates?timeout=50 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            wait_for(lambda: there.counters(TOKEN).polls_open)
            running.send_signal(signal.SIGINT)
            assert b"Internal Server Error: restart" in poll.recv(4096)
            assert running.wait(10) == 0


@pytest.mark.root
def test_root_drops_to_the_account_it_is_told(tmp_path: Path) -> None:
    record = tmp_path / "sandbox.json"
    with process("--user", "nobody", "--record", str(record)) as (running, line):
        assert line.startswith("sandbox: http")
        status = Path(f"/proc/{running.pid}/status").read_text()
        assert f"Uid:\t{pwd.getpwnam('nobody').pw_uid}\t" in status
        assert "Groups:\t \n" in status or "Groups:\t\n" in status
    assert record.stat().st_uid == 0
    assert stat.S_IMODE(record.stat().st_mode) == 0o644


def test_an_account_that_does_not_exist_is_refused() -> None:
    with process("--user", "no-such-account") as (running, line):
        assert running.wait() == Refused.exit_code
        assert line.startswith("multibot: no account 'no-such-account'")


def test_without_aiohttp_one_line_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['aiohttp'] = None; from multibot_plugin.sandbox.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "multibot: the sandbox needs aiohttp: pip install 'supervisor-multibot[sandbox]'\n"


def cli(home: Path, *words: str) -> Result:
    # As a process sees it: CliRunner would keep the exit code of a MultibotError to itself.
    return CliRunner().invoke(main, ["--home", str(home), "sandbox", *words], standalone_mode=True)


@pytest.fixture
def home(tmp_path: Path, sandbox: Sandbox) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "sandbox.json").write_text(json.dumps({"url": sandbox.url, "pid": os.getpid()}))
    sandbox.register(TOKEN, "parrot")
    return tmp_path


def test_the_command_line_speaks_with_a_bot(home: Path, sandbox: Sandbox) -> None:
    with parrot(sandbox):
        said = cli(home, "say", "parrot", "hello", "there")
        assert said.stdout.splitlines() == ["you → parrot        hello there", "parrot → you        hello there [More]"]
        tapped = cli(home, "tap", "parrot", "More")
        assert tapped.stdout.splitlines() == ["you → parrot        [More]", "parrot → you        (notice) got more"]
        lines = cli(home, "say", "parrot", "a\nb\x1b[2J").stdout.splitlines()
        assert lines[:2] == ["you → parrot        a", "                    b\\x1b[2J"]
    entries = json.loads(cli(home, "transcript", "parrot", "--after", "2", "--json").stdout)["entries"]
    assert [entry["kind"] for entry in entries] == ["tap", "answer", "message", "message", "message"]
    assert "[More]" in cli(home, "transcript").stdout
    (row,) = json.loads(cli(home, "bots", "--json").stdout)["bots"]
    assert (row["name"], row["conflicts"]) == ("parrot", 0)


def test_the_command_line_sets_faults_and_revokes(home: Path, sandbox: Sandbox) -> None:
    told = cli(home, "fault", "parrot", "--status", "429", "--retry-after", "9", "--times", "2", "--method", "getMe")
    assert told.stderr.startswith("parrot: getMe fails with 429, 2 times (to end it: ")
    with pytest.raises(OSError, match="429") as flood:
        call(sandbox, "getMe")
    assert flood.value.headers["Retry-After"] == "9"  # type: ignore[attr-defined]
    flood.value.close()  # type: ignore[attr-defined]
    assert cli(home, "fault", "parrot", "--hang", "--for", "1m").stderr.startswith(
        "parrot: getUpdates hangs for 1m 00s"
    )
    assert cli(home, "fault", "--all", "--clear").stderr == "all bots: 2 faults ended\n"
    assert cli(home, "revoke", "parrot").stderr.endswith("the next one is any that begins with 7001:\n")
    with pytest.raises(OSError, match="401") as unauthorised:
        call(sandbox, "getMe")
    unauthorised.value.close()  # type: ignore[attr-defined]


def test_the_command_line_says_what_it_did_as_json(home: Path, sandbox: Sandbox) -> None:
    def told(*words: str) -> dict[str, Any]:
        answer = json.loads(cli(home, *words, "--json").stdout)
        assert answer.pop("schema") == 1
        return dict(answer)

    with parrot(sandbox):
        assert [e["text"] for e in told("say", "parrot", "hi")["entries"]] == ["hi", "hi"]
        assert [e["kind"] for e in told("tap", "parrot", "More")["entries"]] == ["tap", "answer"]
    assert told("fault", "parrot", "--hang", "--times", "2")["fault"]["kind"] == "hang"
    assert told("fault", "parrot", "--clear") == {"fault": {"bot": "parrot", "cleared": 1}}
    assert told("revoke", "parrot") == {"bot": {"name": "parrot", "number": 7001, "revoked": True}}


@contextmanager
def serving(tmp_path: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """``multibot sandbox serve`` once it serves."""
    command = [sys.executable, "-P", "-m", "multibot_plugin.cli", "--home", str(tmp_path), "sandbox", "serve", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("sandbox: http://127.0.0.1:")
            yield process
        finally:
            process.terminate()


@pytest.mark.root
@pytest.mark.parametrize(("words", "account"), [((), "multibot"), (("--user", "root"), "root")])
def test_roots_sandbox_runs_as_an_account_of_its_own_unless_told_otherwise(
    tmp_path: Path, words: tuple[str, ...], account: str
) -> None:
    with serving(tmp_path, *words) as process:
        assert psutil.Process(process.pid).username() == account


def test_a_bot_of_the_home_is_known_by_its_id_before_it_has_called(home: Path, sandbox: Sandbox) -> None:
    digest = "0123456789abcdef"
    place = find_home(str(home))
    place.rendered.parent.mkdir(parents=True)
    section = Section("greeter", digest, True, 10)
    place.rendered.write_text(render(template("program.conf.j2"), [], [section], Place(sys.executable, place.log)).text)
    token = place.bot("greeter").token(digest)
    token.parent.mkdir(parents=True)
    token.write_text(f"8001:{'B' * 35}")
    assert cli(home, "say", "greeter", "hi", "--wait", "0").exit_code == 0
    assert sandbox.counters("greeter").number == 8001
    assert call(sandbox, "getUpdates", token=f"8001:{'B' * 35}")["ok"]
    token.unlink()
    assert "cannot be read: give its number" in cli(home, "say", "greeter", "hi").stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["say", "parot", "hi"], 4, "no bot 'parot' (did you mean 'parrot'?)"),
        (["tap", "parrot", "More"], 6, "parrot shows no button 'More' in chat 1001"),
        (["say", "parrot", "quiet", "--wait", "0.1s"], 1, "parrot has not answered within 0.1 s"),
        (["fault", "parrot"], 2, "give one of --hang, --drop, --lose, --status, --clear"),
        (["fault", "parrot", "--hang", "--drop", "--status", "500"], 2, "give one of"),
        (["fault", "--hang"], 2, "give a bot, or --all"),
        (["fault", "parrot", "--hang", "--for", "soon"], 2, "'soon' is not a duration"),
        (["fault", "parrot", "--status", "200"], 2, "'--status'"),
        (["bots", "--url", "http://127.0.0.1:1"], 5, "the sandbox does not answer at http://127.0.0.1:1"),
        (["serve", "--record", "/nonexistent/record", "--host", "0.0.0.0"], 2, "loopback only"),
    ],
)
def test_the_command_line_says_in_one_line_what_is_wrong(home: Path, words: list[str], code: int, message: str) -> None:
    result = cli(home, *words)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_command_line_says_what_to_start_when_there_is_no_sandbox(tmp_path: Path) -> None:
    result = cli(tmp_path, "bots")
    assert result.exit_code == 5
    assert f"multibot --home {tmp_path} sandbox serve" in result.stderr
