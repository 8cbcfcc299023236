"""The pure parts of bench/: what the comparison says of values, and that each benchmark writes its own section."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture(autouse=True)
def bench_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)


def only_row(measure: str, **values: list[float]) -> list[str]:
    from comparison import rows, table

    head, _, line = table(rows({(measure, 200): values}), {"start-200": "because"})
    return [cell.strip() for cell in line.split("|")[1:-1]][-4:] if head else []


def test_ours_is_best_by_its_median() -> None:
    assert only_row("start", multibot=[1, 9, 2], stock=[4], pm2=[3]) == ["0.5", "0.67", "best", ""]


def test_a_row_that_is_not_best_says_so_and_has_the_reason_that_a_person_wrote() -> None:
    assert only_row("start", multibot=[4], stock=[8], circus=[2]) == ["0.5", "2", "**not best**", "because"]
    assert only_row("crash", multibot=[4], stock=[2])[2:] == ["**not best**", "not explained"]


def test_close_is_level() -> None:
    assert only_row("start", multibot=[1.05], stock=[1.0])[2] == "level"
    assert only_row("gap", multibot=[0.009], stock=[0.006])[2] == "level", "less than the probe's own pause"
    assert only_row("lost", multibot=[0], stock=[0]) == ["–", "–", "level", ""]


def test_longest_is_the_largest_of_all() -> None:
    assert only_row("restart-max", multibot=[1, 6], stock=[2])[0] == "3"


def test_memory_may_be_half_as_much_again_as_stock() -> None:
    assert only_row("pss", multibot=[14], stock=[10])[2] == "**not best**, within 1.5 × stock"
    assert only_row("pss", multibot=[16], stock=[10])[2] == "**not best**, **over** 1.5 × stock"


def test_what_only_ours_has_or_was_not_measured_has_no_verdict() -> None:
    assert only_row("monitor-pss", multibot=[30]) == ["–", "–", "", ""]
    assert only_row("start", circus=[1], pm2=[2]) == ["–", "–", "", ""]


def test_what_ours_does_by_stocks_command_is_held_against_stocks_own_row() -> None:
    from comparison import rows

    found = rows({("stop", 50): {"multibot": [1.0], "stock": [3.0]}, ("stop-ctl", 50): {"multibot": [2.0]}})
    assert {row.key: (row.values["stock"], row.word) for row in found} == {
        "stop-50": (3.0, "best"),
        "stop-ctl-50": (3.0, "best"),
    }


def test_a_section_is_replaced_and_the_others_stay() -> None:
    from document import TITLES, with_section

    first, second, *_ = TITLES.values()
    page = with_section(with_section("", second, "b"), first, "a\n")
    assert page.endswith(f"## {first}\n\na\n\n## {second}\n\nb\n")
    assert with_section(page, first, "c") == page.replace("a\n\n##", "c\n\n##")
    assert with_section(page, first, "a") == page


def test_what_a_bot_costs_stands_beside_its_library_alone() -> None:
    from costs import Cost, Share, lines

    shares = [Share("supervisord", 1, 0.5, 10.0), Share("bots", 50, 2.0, 1000.0)]
    found = [("script, x", Cost(0.2, 0.3, 30.0, 0.005), Cost(0.3, 0.4, 45.0, 0.1))]
    text = "\n".join(lines(found, (0.0003, 572, 3.0), 7.25, shares))
    assert "| script, x | 0.2 / 0.3 | 1.50 | 30 / 45 | 1.50 | 0.005 / 0.1 | – |" in text
    assert "one file of 572 bytes and 300 µs of CPU: every 3 s, so 0.0100 % of a core" in text
    assert "all poll 7.2 s after `multibot start`. Started directly they need 10.0 s of CPU" in text
    assert "| all | 51 | 2.50 | 1010 |" in text
