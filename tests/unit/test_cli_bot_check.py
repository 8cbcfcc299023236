"""What `bot create` asks before it writes: tokens, files as the bot's user, imports by the bot's interpreter."""

from __future__ import annotations

import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from multibot_plugin.bots.check import (
    check_command,
    check_executable,
    check_id,
    check_imports,
    check_launch,
    check_readable,
    check_token_form,
    check_token_free,
    check_workdir,
)
from multibot_plugin.bots.config import BotConfig
from multibot_plugin.bots.identity import Identity, identify, obstacle
from multibot_plugin.bots.telegram import check_chat, check_token, webhook_info
from multibot_plugin.cli.bot_create import _mention_closed
from multibot_plugin.errors import BadValue, MultibotError, Refused

TOKEN = "123456789:" + "A" * 35
ME = identify("", None, root=False)
NOBODY = Identity(70003, 70003)
DEFAULTS = {"workdir": "", "env_file": "", "python": "", "token_var": "BOT_TOKEN", "receives": "auto"}


def config(launch: str, target: str, env: dict[str, str] | None = None) -> BotConfig:
    return BotConfig("echo", True, launch, target, TOKEN, env or {})


@pytest.fixture
def open_path(tmp_path: Path) -> Path:
    """A directory that every user can enter (pytest's own are 0700)."""
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder != Path("/tmp") and folder.stat().st_uid == os.geteuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    return tmp_path


def question(**given: object) -> dict[str, object]:
    return {
        "folder": "",
        "file": "",
        "module": "",
        "function": "",
        "run": False,
        "modules": [],
        "python": False,
        "workdir": "",
    } | given


class Telegram(http.server.BaseHTTPRequestHandler):
    """Answers every request with what the server object holds."""

    def do_GET(self) -> None:
        code, body, headers = self.server.reply  # type: ignore[attr-defined]
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.server.login = self.headers.get("Authorization")  # type: ignore[attr-defined]
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def telegram() -> Iterator[http.server.HTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Telegram)
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ({"url": f"https://b.example:8443/{TOKEN}?x", "pending_update_count": 3, "last_error_date": 1e300,
          "last_error_message": f"no {TOKEN} " + "x" * 900}, None),
        ([], "does not answer like a Bot API server"), ({"pending_update_count": "many"}, "does not answer like"),
        ({"url": "http://[", "pending_update_count": 1}, "does not answer like"),
    ],
)  # fmt: skip
def test_what_telegram_says_of_a_webhook_is_short_and_holds_no_token(
    telegram: http.server.HTTPServer, result: object, error: str | None
) -> None:
    telegram.reply = (200, {"ok": True, "result": result}, {})  # type: ignore[attr-defined]
    if error:
        with pytest.raises(MultibotError, match=error):
            webhook_info(TOKEN, url(telegram), "", {}, 1.0)
        return
    info = webhook_info(TOKEN, url(telegram), "https://b.example:8443/other", {}, 1.0)
    assert (info.origin, info.as_configured, info.pending, info.error_at) == ("https://b.example:8443", False, 3, None)
    assert len(repr(info)) < 600
    assert TOKEN.partition(":")[2] not in repr(info)


def url(server: http.server.HTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize("bot", ["", "Echo", "-echo", "a/b", "a" * 40, "echo\n", "[x]", "ä"])
def test_an_id_that_supervisord_or_a_path_could_misread_is_refused(bot: str) -> None:
    with pytest.raises(BadValue, match="an id is"):
        check_id(bot)


@pytest.mark.parametrize("token", ["", "TOKEN", "123:short", TOKEN + "\n", TOKEN + " x", "x" + TOKEN])
def test_a_token_of_the_wrong_form_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(BadValue) as error:
        check_token_form("echo", token)
    assert not token or token not in str(error.value)


def test_a_token_that_another_bot_has_is_refused_with_the_name_of_that_bot() -> None:
    with pytest.raises(Refused) as error:
        check_token_free("shop2", TOKEN, [{"id": "shop", "token": TOKEN}])
    assert str(error.value) == "the token of 'shop2' is already used by 'shop': one token can be polled once"


def test_another_token_of_the_same_telegram_bot_is_refused() -> None:
    with pytest.raises(Refused, match="'shop' already is"):
        check_token_free("shop2", "123456789:" + "B" * 35, [{"id": "shop", "token": TOKEN}])


def test_a_bot_may_keep_its_own_token() -> None:
    check_token_free("shop", TOKEN, [{"id": "shop", "token": TOKEN}, {"id": "other", "token": "99:" + "C" * 35}])


def test_getme_tells_who_a_token_is(telegram: http.server.HTTPServer) -> None:
    telegram.reply = (200, {"ok": True, "result": {"id": 123456789, "username": "echo_bot"}}, {})  # type: ignore[attr-defined]
    assert check_token(TOKEN, url(telegram)).username == "echo_bot"
    assert telegram.asked == [f"/bot{TOKEN}/getMe"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("code", [401, 404])
def test_a_token_that_telegram_rejects_is_refused_and_not_shown(telegram: http.server.HTTPServer, code: int) -> None:
    telegram.reply = (code, {"ok": False, "error_code": code, "description": "Unauthorized"}, {})  # type: ignore[attr-defined]
    with pytest.raises(Refused, match="Telegram rejects this token") as error:
        check_token(TOKEN, url(telegram))
    assert "A" * 10 not in str(error.value)


@pytest.mark.parametrize(
    ("code", "body"),
    [(404, b"<html>"), (200, b"[]"), pytest.param(200, b"[" * 10**6, id="deep"), (302, b""), (200, {"ok": True})],
)
def test_a_server_that_is_no_bot_api_rejects_nothing(telegram: http.server.HTTPServer, code: int, body: object) -> None:
    telegram.reply = (code, body, {"Location": "http://127.0.0.1:1/elsewhere"} if code == 302 else {})  # type: ignore[attr-defined]
    with pytest.raises(MultibotError, match="check bot_api_url") as error:
        check_token(TOKEN, url(telegram))
    assert not isinstance(error.value, Refused)


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 404 No\r\nContent-Length: 99999\r\n\r\n"])
def test_a_server_that_trickles_is_not_waited_for(begin: bytes) -> None:
    over = threading.Event()

    def trickle(listening: socket.socket) -> None:
        with listening.accept()[0] as to, suppress(OSError):
            to.sendall(begin)
            while not over.wait(0.02):
                to.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=trickle, args=(server,))
        thread.start()
        try:
            with pytest.raises(MultibotError, match=r"does not answer|like a Bot API"):
                check_token(TOKEN, f"http://127.0.0.1:{server.getsockname()[1]}", 0.2)
        finally:
            over.set()
            thread.join()


def test_a_login_in_the_address_goes_into_a_header(telegram: http.server.HTTPServer) -> None:
    telegram.reply = (200, {"ok": True, "result": {"id": 123456789}}, {})  # type: ignore[attr-defined]
    check_token(TOKEN, url(telegram).replace("//", "//u:p%40ss@"))
    assert telegram.login == "Basic dTpwQHNz"  # type: ignore[attr-defined]


@pytest.mark.parametrize("address", ["http://u:s3cret@", "http://u:s3cret@127.0.0.1:1", "http://u:s3@cret@127.0.0.1:1"])
def test_no_password_of_an_address_is_told(address: str) -> None:
    with pytest.raises(MultibotError, match="does not answer") as error:
        check_token(TOKEN, address)
    assert "cret" not in str(error.value)


def test_a_server_that_does_not_answer_is_named_with_the_way_around_it_and_without_the_token() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://user:secret@127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(MultibotError, match="--no-check") as error:
            check_token(TOKEN, address)
    text = str(error.value)
    assert "127.0.0.1" in text
    assert "secret" not in text
    assert TOKEN not in text


def test_a_trouble_at_telegram_is_not_taken_for_a_rejected_token(telegram: http.server.HTTPServer) -> None:
    telegram.reply = (429, {"ok": False, "error_code": 429, "description": "Too Many Requests"}, {})  # type: ignore[attr-defined]
    with pytest.raises(MultibotError, match="429") as error:
        check_token(TOKEN, url(telegram))
    assert not isinstance(error.value, Refused)


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match=r"script .*bot.py does not exist"):
        check_readable(ME, tmp_path / "bot.py", "script")
    with pytest.raises(BadValue, match="is not a file"):
        check_readable(ME, tmp_path, "script")
    with pytest.raises(BadValue, match="no directory"):
        check_workdir(ME, tmp_path / "nowhere")


def test_a_program_without_the_right_to_be_executed_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("#!/bin/sh\n")
    with pytest.raises(BadValue, match=r"not executable: chmod \+x it"):
        check_executable(ME, tmp_path / "run", "command")


@pytest.mark.root
def test_a_file_that_the_bots_user_cannot_read_is_refused_with_the_remedy(open_path: Path) -> None:
    script = open_path / "bot.py"
    script.write_text("")
    script.chmod(0o600)
    with pytest.raises(Refused) as error:
        check_readable(NOBODY, script, "script")
    assert str(error.value) == f"uid 70003 cannot read {script}: chmod o+r it"
    os.chown(script, 1, 1)
    with pytest.raises(Refused, match="or run the bot as its owner: --user daemon"):
        check_readable(NOBODY, script, "script")
    script.chmod(0o604)
    check_readable(NOBODY, script, "script")


@pytest.mark.root
def test_a_file_of_secrets_is_to_become_the_bots_own_and_is_opened_to_nobody_else(open_path: Path) -> None:
    secrets = open_path / "my env"
    secrets.write_text("")
    secrets.chmod(0o600)
    config = BotConfig("echo", True, "command", "/bin/true", "", {}, {})
    settings = {"workdir": "", "env_file": str(secrets)}
    with pytest.raises(Refused) as error:
        check_launch(config, settings, NOBODY, open_path)
    todo = f"chown 70003 '{secrets}' && chmod 400 '{secrets}'"
    assert str(error.value) == f"uid 70003 cannot read {secrets}: {todo}"
    subprocess.run(todo, shell=True, check=True)
    check_launch(config, settings, NOBODY, open_path)


@pytest.mark.root
def test_the_directory_in_the_way_is_named_also_behind_a_link(open_path: Path) -> None:
    closed = open_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "bot.py").write_text("")
    (open_path / "link.py").symlink_to(closed / "bot.py")
    for path in (closed / "bot.py", open_path / "link.py"):
        assert obstacle(NOBODY, path, os.R_OK) == str(closed)
    with pytest.raises(Refused, match=rf"uid 70003 cannot enter {closed}, which it must for .*: chmod o\+x it"):
        check_readable(NOBODY, closed / "bot.py", "script")
    with pytest.raises(Refused, match="cannot enter"):
        check_workdir(NOBODY, closed)


@pytest.mark.root
def test_a_named_account_gets_its_own_groups_and_an_unknown_one_is_refused(open_path: Path) -> None:
    who = identify("daemon", None, root=True)
    assert (who.uid, who.name, str(who)) == (1, "daemon", "user daemon")
    script = open_path / "bot.py"
    script.write_text("")
    os.chown(script, 0, who.gid)
    script.chmod(0o640)
    check_readable(who, script, "script")
    with pytest.raises(BadValue, match="no such account"):
        identify("no-such-account", None, root=True)


def test_an_installation_of_a_user_runs_bots_as_nobody_else() -> None:
    with pytest.raises(Refused, match="only an installation of root"):
        identify("somebody-else", None, root=False)


@pytest.mark.root
def test_an_interpreter_that_the_bots_user_cannot_reach_is_refused(open_path: Path) -> None:
    closed = open_path / "venv"
    closed.mkdir(mode=0o700)
    (closed / "python").symlink_to("/usr/bin/python3")
    script = open_path / "bot.py"
    script.write_text("")
    with pytest.raises(Refused, match=f"cannot enter {closed}"):
        check_launch(config("script", str(script)), DEFAULTS | {"python": str(closed / "python")}, NOBODY, open_path)


def test_a_script_whose_imports_are_found_passes_and_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("raise SystemExit('imported')\n")
    script = tmp_path / "bot.py"
    script.write_text("import json, beside\nfrom os import path\nopen('made', 'w')\n")
    check_launch(config("script", str(script)), DEFAULTS, ME, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["beside.py", "bot.py"]


def test_a_script_with_arguments_is_the_file_that_comes_first(tmp_path: Path) -> None:
    script = tmp_path / "my bot.py"
    script.write_text("import no_such_library\n")
    for target in (str(script), f"'{script}' --flag 'a b'"):
        with pytest.raises(Refused, match="no_such_library"):
            check_launch(config("script", target), DEFAULTS, ME, tmp_path)
    with pytest.raises(Refused, match="No module named 'no_such_package'"):
        check_launch(config("script", "-m no_such_package --flag"), DEFAULTS, ME, tmp_path)


def test_a_build_bot_that_receives_by_webhook_needs_tornado(tmp_path: Path) -> None:
    bare = tmp_path / "venv"
    subprocess.run([os.path.realpath(sys.executable), "-m", "venv", "--without-pip", str(bare)], check=True)
    for package in ("telegram", "telegram/ext"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "bot.py").write_text("def build(builder): ...\n")
    wish = DEFAULTS | {"python": f"{bare}/bin/python", "receives": "webhook"}
    with pytest.raises(Refused) as error:
        check_launch(config("build", f"{tmp_path}/bot.py:build"), wish, ME, tmp_path)
    assert str(error.value) == (
        f"No module named 'tornado' for {bare}/bin/python: {bare}/bin/python -m pip install"
        " 'python-telegram-bot[webhooks]'"
    )


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("bot.py", "is neither an absolute path nor '-m MODULE'"),
        ("-m", "is neither an absolute path nor '-m MODULE'"),
        ("-m 1x", "is neither an absolute path nor '-m MODULE'"),
        ("/srv/bot.py 'one", "script cannot be split into words: No closing quotation"),
        ("''", "is neither an absolute path nor '-m MODULE'"),
    ],
)
def test_a_script_that_names_none_is_refused(target: str, text: str) -> None:
    row = {"id": "a", "enabled": True, "launch": "script", "target": target, "token": TOKEN, "env": {}, "settings": {},
           "uid": None, "config_version": 1}  # fmt: skip
    with pytest.raises(BadValue, match=re.escape(text)):
        BotConfig.from_row(row)


def test_a_missing_module_is_named_with_the_remedy(tmp_path: Path) -> None:
    script = tmp_path / "bot.py"
    script.write_text("import json\nfrom no_such_library.ext import Thing\n")
    with pytest.raises(Refused) as error:
        check_launch(config("script", str(script)), DEFAULTS, ME, tmp_path)
    expected = f"No module named 'no_such_library' for {sys.executable}: give --python /path/venv/bin/python"
    assert str(error.value) == expected


def test_an_interpreter_that_was_given_is_told_what_to_install(tmp_path: Path) -> None:
    script, own = tmp_path / "bot.py", DEFAULTS | {"python": sys.executable}
    script.write_text("import no_such_library\n")
    with pytest.raises(Refused) as error:
        check_launch(config("script", str(script)), own, ME, tmp_path)
    there = f"for {sys.executable}: {sys.executable} -m pip install"
    assert str(error.value) == f"No module named 'no_such_library' {there} no_such_library"
    with pytest.raises(Refused, match=r"give --build /path/file.py:build, or --workdir DIR that holds it$"):
        check_launch(config("build", "no_such_module:build"), own, ME, tmp_path)


@pytest.mark.parametrize(
    ("source", "line", "call"),
    [
        ('app = Application.builder().token("TOKEN").build()\n', 1, ".token"),
        ('TOKEN = "123:ABC"\n\ndef main():\n    Application.builder().token(TOKEN)\n', 4, ".token"),
        ('bot = telebot.TeleBot("123:ABC")\n', 1, "TeleBot"),
        ('bot = Bot(token="123:ABC")\n', 1, "Bot"),
    ],
)
def test_a_token_in_the_script_is_refused_with_what_to_write(tmp_path: Path, source: str, line: int, call: str) -> None:
    script = tmp_path / "bot.py"
    script.write_text(source)
    with pytest.raises(Refused) as error:
        check_launch(config("script", str(script)), DEFAULTS, ME, tmp_path)
    text = str(error.value)
    assert text.startswith(f"{script}, line {line}: the token stands there as a text, so the one given here would not")
    assert f'write {call}(os.environ["BOT_TOKEN"])' in text
    assert "123:ABC" not in text


@pytest.mark.parametrize(
    "source",
    [
        'import os\nTOKEN = "x"\nTOKEN = os.environ["BOT_TOKEN"]\nApplication.builder().token(TOKEN)\n',
        'TOKEN = "x"\nTOKEN = read()\nApplication.builder().token(TOKEN)\n',
        "Application.builder().token(settings.token)\n",
        'Application.builder().token(read("token.txt"))\n',
        'print("TOKEN")\n',
    ],
)
def test_a_token_that_may_come_from_elsewhere_is_no_reason_to_refuse(tmp_path: Path, source: str) -> None:
    (tmp_path / "bot.py").write_text(source)
    check_launch(config("script", str(tmp_path / "bot.py")), DEFAULTS, ME, tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    import no_such_library\nexcept ImportError:\n    pass\n",
        "if False:\n    import no_such_library\n",
        "def later():\n    import no_such_library\n",
        "import sys\nsys.path.insert(0, '/somewhere')\nimport no_such_library\n",
    ],
)
def test_an_import_that_may_not_happen_or_may_be_found_elsewhere_is_no_reason_to_refuse(
    tmp_path: Path, source: str
) -> None:
    (tmp_path / "bot.py").write_text(source)
    check_launch(config("script", str(tmp_path / "bot.py")), DEFAULTS, ME, tmp_path)


def test_an_import_in_the_main_block_counts(tmp_path: Path) -> None:
    (tmp_path / "bot.py").write_text("if __name__ == '__main__':\n    import no_such_library\n")
    with pytest.raises(Refused, match="No module named 'no_such_library'"):
        check_launch(config("script", str(tmp_path / "bot.py")), DEFAULTS, ME, tmp_path)


def test_the_bots_own_pythonpath_is_respected(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "no_such_library.py").write_text("")
    (tmp_path / "bot.py").write_text("import no_such_library\n")
    bot = config("script", str(tmp_path / "bot.py"), {"PYTHONPATH": str(tmp_path / "lib")})
    check_launch(bot, DEFAULTS, ME, tmp_path)


def test_a_script_with_a_syntax_error_is_refused_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "bot.py").write_text("x = 1\nif x\n")
    with pytest.raises(Refused, match=r"bot.py, line 2"):
        check_launch(config("script", str(tmp_path / "bot.py")), DEFAULTS, ME, tmp_path)


def test_a_build_function_is_found_without_importing_its_module(tmp_path: Path) -> None:
    package = tmp_path / "shop" / "bots"
    package.mkdir(parents=True)
    (tmp_path / "shop" / "__init__.py").write_text("raise SystemExit('imported')\n")
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    (package / "main.py").write_text("def build(builder):\n    return builder.build()\n")
    env = {"PYTHONPATH": str(tmp_path)}
    check_launch(config("build", "shop.bots.main:build", env), DEFAULTS, ME, tmp_path / "work")
    check_launch(config("build", f"{package}/main.py:build"), DEFAULTS, ME, tmp_path / "work")
    with pytest.raises(Refused, match=r"no function 'other' in .*main.py"):
        check_launch(config("build", "shop.bots.main:other", env), DEFAULTS, ME, tmp_path / "work")
    told = r"No module named 'shop.missing' for .*: give --build /path/file.py:build, --workdir DIR that holds it, or"
    with pytest.raises(Refused, match=told):
        check_launch(config("build", "shop.missing:build", env), DEFAULTS, ME, tmp_path / "work")


def test_an_interpreter_older_than_3_10_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\necho '{\"version\": [3, 8, 2]}'\nexit 1\n")
    old.chmod(0o755)
    with pytest.raises(BadValue, match=r"is Python 3\.8\.2: bots need 3\.10 or later"):
        check_imports(ME, old, question(), {})


def test_a_program_that_is_no_interpreter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="does not work for"):
        check_imports(ME, Path("/bin/false"), question(), {})


def test_the_program_of_a_command_is_found_in_path_or_by_its_own(tmp_path: Path) -> None:
    program = tmp_path / "dice"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    check_command(config("command", "sh -c 'exit 0'"), ME, tmp_path)
    check_command(config("command", f"'{program}' --sides 6"), ME, tmp_path)
    check_command(config("command", "dice", {"PATH": str(tmp_path)}), ME, tmp_path)
    with pytest.raises(BadValue, match="command 'no-such-program' is not found in PATH"):
        check_command(config("command", "no-such-program"), ME, tmp_path)
    with pytest.raises(BadValue, match="does not exist"):
        check_command(config("command", "/no/such/program"), ME, tmp_path)


def test_an_env_file_and_a_workdir_are_looked_at(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="env-file"):
        check_launch(config("command", "sh"), DEFAULTS | {"env_file": str(tmp_path / "env")}, ME, tmp_path)
    (tmp_path / "broken.env").write_text("GOOD=1\nbad line\n")
    with pytest.raises(Refused, match=r"broken\.env, line 2: not KEY=VALUE"):
        check_launch(config("command", "sh"), DEFAULTS | {"env_file": str(tmp_path / "broken.env")}, ME, tmp_path)
    with pytest.raises(BadValue, match="workdir"):
        check_launch(config("command", "sh"), DEFAULTS | {"workdir": str(tmp_path / "no")}, ME, tmp_path)


def test_a_working_directory_that_the_bot_cannot_write_to_is_mentioned(
    open_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = open_path / "read only"
    closed.mkdir(0o555)
    who = ME if os.geteuid() else NOBODY
    _mention_closed(closed, who)
    assert f"{who} may not write to {closed}, where it runs" in capsys.readouterr().err
    closed.chmod(0o777)
    _mention_closed(closed, who)
    assert capsys.readouterr().err == ""


def test_a_package_that_is_run_needs_its_main_module(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    bot, settings = config("script", "-m shop --fast"), DEFAULTS | {"workdir": str(tmp_path)}
    told = f"No module named 'shop' in {tmp_path} or for {sys.executable}: give --script /path/file.py, --workdir DIR"
    with pytest.raises(Refused, match=f"^{re.escape(told)} that holds it, or --python"):
        check_launch(bot, settings, ME, tmp_path)
    (tmp_path / "shop" / "__main__.py").write_text("import no_such_library\n")
    with pytest.raises(Refused, match="No module named 'no_such_library'"):
        check_launch(bot, settings, ME, tmp_path)
    (tmp_path / "shop" / "__main__.py").write_text("import json\n")
    check_launch(bot, settings, ME, tmp_path)
    check_launch(config("script", str(tmp_path / "shop")), DEFAULTS, ME, tmp_path)


@pytest.mark.parametrize("said", ['{"version": "3.12"}', '{"version": [3, "x"]}', "[1]", "hello"])
def test_an_interpreter_that_talks_nonsense_is_refused(tmp_path: Path, said: str) -> None:
    odd = tmp_path / "python"
    odd.write_text(f"#!/bin/sh\necho '{said}'\n")
    odd.chmod(0o755)
    with pytest.raises(Refused, match="does not work for"):
        check_imports(ME, odd, question(), {})


def test_the_first_program_in_path_that_the_user_may_start_counts(tmp_path: Path) -> None:
    for name, mode in (("a", 0o644), ("b", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dice").write_text("#!/bin/sh\n")
        (tmp_path / name / "dice").chmod(mode)
    check_command(config("command", "dice", {"PATH": f"{tmp_path}/a:{tmp_path}/b"}), ME, tmp_path)
    with pytest.raises(BadValue, match="not found in PATH"):
        check_command(config("command", "dice", {"PATH": f"{tmp_path}/a"}), ME, tmp_path)


@pytest.mark.root
def test_a_program_that_only_root_may_reach_does_not_hide_another_one(open_path: Path) -> None:
    (open_path / "mine").mkdir(mode=0o700)
    for folder in (open_path / "mine", open_path):
        (folder / "dice").write_text("#!/bin/sh\n")
        (folder / "dice").chmod(0o755)
    check_command(config("command", "dice", {"PATH": f"{open_path}/mine:{open_path}"}), NOBODY, open_path)
    with pytest.raises(Refused, match="uid 70003 cannot enter"):
        check_command(config("command", "dice", {"PATH": f"{open_path}/mine"}), NOBODY, open_path)


def test_a_chat_that_the_bot_knows_is_fine(telegram: http.server.HTTPServer) -> None:
    telegram.reply = (200, {"ok": True, "result": {"id": -7, "type": "group"}}, {})  # type: ignore[attr-defined]
    check_chat(TOKEN, url(telegram), "-7")
    assert telegram.asked == [f"/bot{TOKEN}/getChat?chat_id=-7"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("code", "description", "kind", "text"),
    [(400, "Bad Request: chat not found", Refused, "^Bad Request: chat not found: write /start to your alerts bot"),
     (401, "Unauthorized", Refused, "rejects the token"), (429, "Too Many Requests", MultibotError, "not checked")],
)  # fmt: skip
def test_a_chat_that_the_bot_does_not_know_is_told_from_a_trouble(
    telegram: http.server.HTTPServer, code: int, description: str, kind: type[MultibotError], text: str
) -> None:
    telegram.reply = (code, {"ok": False, "error_code": code, "description": description}, {})  # type: ignore[attr-defined]
    with pytest.raises(kind, match=text) as error:
        check_chat(TOKEN, url(telegram), "7")
    assert type(error.value) is kind
