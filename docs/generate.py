"""Write the reference pages that come from the code (``make docs``); a test fails when one is stale."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from pathlib import Path

from multibot_plugin import hookspecs
from multibot_plugin.health.lifecycle import TABLE, WISHES, Act, Cell, Event, State
from multibot_plugin.settings import EFFECTS, SETTINGS, Setting
from multibot_plugin.supervisor.inside.parts import Parts
from multibot_plugin.supervisor.inside.requests import FAULTS
from multibot_plugin.supervisor.rpc import MultibotInterface

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
import matrix

DOCS = Path(__file__).resolve().parent
_SCOPE = {"fleet": "fleet", "bot": "bot", "both": "fleet, bot"}
_BEGIN, _END = "<!-- generated from the code: make docs -->", "<!-- end of the generated part -->"


def _row(setting: Setting) -> str:
    default = setting.kind.show(setting.default) if setting.default != "" else ""
    value = f"{setting.kind.expected}, {setting.bounds}" if setting.bounds else setting.kind.expected
    cells = (f"`{setting.name}`", value, f"`{default}`" if default else "–",
             _SCOPE[setting.scope], EFFECTS[setting.applies], setting.help)  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def settings_table() -> str:
    head = "| setting | value | default | for | takes effect | meaning |\n|---|---|---|---|---|---|\n"
    return head + "\n".join(_row(s) for s in SETTINGS)


def _described(name: str, function: object) -> str:
    signature = str(inspect.signature(function)).replace("multibot_plugin.health.states.", "")  # type: ignore[arg-type]
    signature = re.sub(r"self, |\(self\)", lambda m: "()" if ")" in m[0] else "", signature)
    signature = re.sub(r"(: |-> )'([^']+)'", r"\1\2", signature)  # annotations are strings
    text = inspect.getdoc(function) or ""
    return f"### `{name}{signature}`\n\n{text.strip()}"


def hooks_part() -> str:
    names = sorted(n for n in hookspecs.__all__ if n.startswith("multibot_"))
    return "\n\n".join(_described(n, getattr(hookspecs, n)) for n in names)


def types_part() -> str:
    kinds = (hookspecs.Observation, hookspecs.Finding, hookspecs.Alert, hookspecs.MonitorInfo, hookspecs.Heartbeat,
             hookspecs.WebhookInfo)  # fmt: skip
    parts = []
    for kind in kinds:
        fields = ", ".join(f"`{f}`" for f in kind.__dataclass_fields__)
        parts.append(f"### `{kind.__name__}`\n\n{inspect.getdoc(kind)}\n\nFields: {fields}.")
    return "\n\n".join(parts)


def rpc_part() -> str:
    methods = [m for n, m in vars(MultibotInterface).items() if not n.startswith("_") and callable(m)]
    described = "\n\n".join(_described(f"multibot.{m.__name__}", m) for m in methods)
    faults = "\n".join(f"| {code} | `{name}` | {meaning} |" for code, (name, meaning) in FAULTS.items())
    return f"{described}\n\n### Faults of ours\n\n| code | name | meaning |\n|---|---|---|\n{faults}"


def parts_table() -> str:
    rows = [f"| `{f.name}` | `{str(f.default).lower()}` | {f.metadata['help']} |" for f in dataclasses.fields(Parts)]
    return "| option | default | what it does |\n|---|---|---|\n" + "\n".join(rows)


def _cell(cell: Cell | None, state: State) -> str:
    if cell is None:
        return "–"
    if cell.act == Act.RUN:
        return "runs it in this terminal"
    done = "" if cell.act == Act.LEAVE else "refused: " if cell.act == Act.REFUSE else f"{cell.act}: "
    words = f"{done}{f'“{cell.words}”' if cell.words else ''}".rstrip(": ")
    follows = "" if cell.then == state else f"→ {cell.then}"
    return " ".join(filter(None, (words, follows))) or "stays so"


def lifecycle_tables() -> str:
    tables = []
    for events in (WISHES, [event for event in Event if event not in WISHES]):
        head = [f"`{event}`" if event.startswith("bot ") else str(event) for event in events]
        lines = [["", *head], ["---"] * (len(events) + 1)]
        lines += [[f"**{state}**", *(_cell(TABLE[event][state], state) for event in events)] for state in State]
        tables.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(tables)


def health_tables() -> str:
    return f"{matrix.POLLING.markdown()}\n\nBots that receive by webhook:\n\n{matrix.WEBHOOK.markdown()}"


PARTS = {
    "health.md": health_tables,
    "lifecycle.md": lifecycle_tables,
    "inside-supervisord.md": parts_table,
    "settings.md": settings_table,
    "plugins.md": lambda: f"{hooks_part()}\n\n## The types\n\n{types_part()}",
    "rpc.md": rpc_part,
}


def page(name: str) -> str:
    """Return the page as it should be: what people wrote around the generated part, and that part anew."""
    text = (DOCS / name).read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n\n{PARTS[name]()}\n\n{_END}{after}"


def main() -> int:
    for name in PARTS:
        (DOCS / name).write_text(page(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
