"""The numbers of processes, out of a /proc that the test writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from multibot_plugin.health import observe
from multibot_plugin.health.observe import Meter


class Proc:
    def __init__(self, top: Path) -> None:
        self.top, self.mono = top, 100.0

    def process(self, pid: int, parent: int = 1, *, ticks: int = 0, pages: int = 10, start: int = 7) -> None:
        folder = self.top / str(pid)
        (folder / "fd").mkdir(parents=True, exist_ok=True)
        fields = ["S", str(parent), *["0"] * 9, str(ticks), "0", *["0"] * 6, str(start), "0", str(pages), "0"]
        (folder / "stat").write_text(f"{pid} (odd) name (x) {' '.join(fields)}")

    def meter(self) -> Meter:
        return Meter(self.top, lambda: self.mono)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def test_a_tree_is_summed_and_cpu_is_what_was_used_since_the_last_tick(proc: Proc) -> None:
    page, second = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    proc.process(10)
    proc.process(11, parent=10, pages=5)
    proc.process(12)
    meter = proc.meter()
    proc.mono += 5
    meter.begin([10])
    assert meter.measure(10) == (15 * page, 0.0, 0)
    proc.mono += 5
    proc.process(11, parent=10, ticks=second, pages=6)
    meter.begin([10])
    assert meter.measure(10) == (16 * page, 20.0, 0)


def test_another_process_with_the_same_pid_begins_anew(proc: Proc) -> None:
    meter = proc.meter()
    for start, ticks in ((7, 10), (8, 5000)):
        proc.mono += 5
        proc.process(10, start=start, ticks=ticks)
        meter.begin([10])
        assert meter.measure(10)[1] == 0.0


def test_a_process_that_hides_its_descriptors_is_measured_all_the_same(
    proc: Proc, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(self: Meter, pid: int) -> int:
        raise PermissionError

    proc.process(10)
    meter = proc.meter()
    meter.begin([10])
    monkeypatch.setattr(observe.Meter, "_sockets", hidden)
    assert meter.measure(10)[0] is not None


def test_processes_that_are_gone_or_in_a_circle_cost_nothing(proc: Proc) -> None:
    proc.process(10, parent=11)
    proc.process(11, parent=10)
    (proc.top / "12").mkdir()
    meter = proc.meter()
    meter.begin([10, 12, 13])
    assert meter.measure(10)[0] is not None
    assert meter.measure(12) == meter.measure(13) == (None, None, None)
