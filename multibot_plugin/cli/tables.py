"""Aligned tables for a terminal of any width: what matters least is left out first, no line is longer than it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

_GAP = 2
UNLIMITED = 10_000
FULL = 120  # from this width on a long cause costs no other column


@dataclass(frozen=True)
class Column:
    """A column of a table: its title, how a row's cell is made, and when it is shown.

    ``shown``: "always", "full" (where there is room for it), "wide" (the same, but only with ``-o wide``).
    ``yields``: its turn to be left out where the terminal is too narrow (1 is first; with "always" 0 is never).
    ``least``: it may be cut down to so many characters; 0: not at all.
    """

    title: str
    cell: Callable[[Mapping[str, Any]], str]
    right: bool = False
    shown: Literal["always", "full", "wide"] = "always"
    yields: int = 0
    least: int = 0


def lay_out(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], width: int, wide: bool = False,
            clean: Callable[[object], str] = str) -> list[str]:  # fmt: skip
    """Return the lines, titles first, none longer than ``width``; ``clean`` makes a cell harmless for a terminal.

    Columns are left out until a column that may be cut is whole (those "always" shown, and from FULL on: until it has
    its least).
    """
    from rich.cells import cell_len

    chosen = [column for column in columns if wide or column.shown != "wide"]
    cells = {column: [column.title, *(clean(column.cell(row)) for row in rows)] for column in chosen}
    widths = {column: max(map(cell_len, cells[column])) for column in chosen}
    by_turn = sorted((c for c in chosen if c.shown != "always" or c.yields), key=lambda column: column.yields)
    for column in [c for c in by_turn if c.shown != "always" and not c.least]:
        if width < FULL and _needed(widths) > width:
            del widths[column]
    for column in by_turn:
        if column in widths and _needed({c: min(w, c.least or w) for c, w in widths.items()}) > width:
            del widths[column]
    for column in reversed([c for c in widths if c.least]):
        widths[column] = max(min(column.least, widths[column]), widths[column] - max(0, _needed(widths) - width))
    lines = range(len(rows) + 1)
    return [_cut(_line([(cells[c][n], w, c.right) for c, w in widths.items()]), width) for n in lines]


def _needed(widths: Mapping[Column, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)


def _line(cells: Sequence[tuple[str, int, bool]]) -> str:
    from rich.cells import cell_len

    padded = []
    for text, width, right in cells:
        text = _cut(text, width)
        space = " " * (width - cell_len(text))
        padded.append(space + text if right else text + space)
    return (" " * _GAP).join(padded).rstrip()


def _cut(text: str, width: int) -> str:
    """Return ``text`` in at most ``width`` columns of a terminal, with an ellipsis where something is missing."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)).rstrip() + "…"
