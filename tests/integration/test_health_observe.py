"""What is measured of real processes."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from multibot_plugin.health.observe import Meter

PROGRAM = """
import socket, subprocess, sys
ballast = bytearray(64 * 1024 * 1024)
ballast[::4096] = b"x" * len(ballast[::4096])
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
code = "import time; print('child', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code], stdout=sys.stdout)
print("ready", child.pid, flush=True)
while sys.stdin.readline():
    for _ in range(3_000_000): pass
    print("worked", flush=True)
child.kill()
"""


@pytest.fixture
def program() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process with 64 MiB, a connection and a child, which works a while for each line it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(port)], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True)  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        child = 0
        try:
            connection, _ = server.accept()
            words: list[str] = []
            while not {"ready", "child"} <= set(words):
                words += process.stdout.readline().split()
            child = int(words[words.index("ready") + 1])
            yield process, child
            connection.close()
        finally:
            with contextlib.suppress(psutil.Error):
                psutil.Process(child or process.pid).kill()
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def test_a_process_is_measured_with_its_children(program: tuple[subprocess.Popen[str], int]) -> None:
    process, child = program
    meter = Meter()
    meter.begin([process.pid])
    memory, cpu, connections = meter.measure(process.pid)
    own = psutil.Process(process.pid).memory_info().rss
    assert memory is not None
    assert own > 64 * 1024**2
    assert memory >= own + psutil.Process(child).memory_info().rss * 0.9
    assert cpu == 0.0
    assert connections == 1

    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "worked\n"
    meter.begin([process.pid])
    worked = meter.measure(process.pid)[1]
    assert worked is not None
    assert worked > 0.0


def test_a_process_that_is_gone_has_no_numbers(program: tuple[subprocess.Popen[str], int]) -> None:
    process, child = program
    meter = Meter()
    meter.begin([process.pid])
    assert meter.measure(process.pid)[0] is not None
    psutil.Process(child).kill()
    process.kill()
    process.wait()
    assert meter.measure(process.pid) == (None, None, None)
    meter.begin([process.pid])
    assert meter.measure(process.pid) == (None, None, None)
    meter.begin([])
    assert meter.measure(process.pid) == (None, None, None)
