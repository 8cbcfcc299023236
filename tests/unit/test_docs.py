"""Pages that come from the code are what the code says."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path

import pytest
from test_supervisor_rows import ROW_KEYS

from multibot_plugin.health.states import Health, Level
from multibot_plugin.supervisor.ctl import HELP, BotsPlugin
from multibot_plugin.supervisor.inside.requests import FAULTS
from multibot_plugin.supervisor.inside.status import incident_rows
from multibot_plugin.supervisor.rpc import MultibotInterface

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
assert _spec is not None
assert _spec.loader is not None
INNER = ("setAutostart", "updateBots")  # what our own commands need of supervisord
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)


@pytest.mark.parametrize("name", sorted(generate.PARTS))
def test_a_generated_page_is_what_the_code_says(name: str) -> None:
    assert generate.page(name) == (ROOT / "docs" / name).read_text(), "stale: make docs"


def test_every_page_that_is_linked_exists() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_method_of_xmlrpc_is_described_as_it_is_called_and_every_fault_that_is_raised_is_listed() -> None:
    page = (ROOT / "docs" / "rpc.md").read_text()
    for name, method in vars(MultibotInterface).items():
        if name.startswith("_"):
            continue
        signature = inspect.signature(method)
        parameters = [p for p in signature.parameters.values() if p.name != "self"]
        tags = re.findall(r"^@(param|return) (\S+) (\S+) .+", inspect.getdoc(method) or "", re.MULTILINE)
        types = {"list[str]": "array", "str": "string", "bool": "boolean"}
        expected = [("param", types[p.annotation], p.name) for p in parameters]
        assert tags == [*expected, ("return", types[signature.return_annotation], "result")], name
        assert f"### `multibot.{name}(" in page
        assert f"`{name}" in page.partition("## Methods")[0] or name in INNER, f"{name} is not introduced"
    supervisor = ROOT / "multibot_plugin" / "supervisor"
    source = "".join(path.read_text() for path in [supervisor / "rpc.py", *(supervisor / "inside").glob("*.py")])
    raised = set(re.findall(r"Refusal\((?:requests\.)?([A-Z_]+),", source))
    assert raised | {"TOO_OLD", "NOT_LOADED"} == {name for name, _ in FAULTS.values()}  # that one by every method
    assert all(f"| {code} | `{name}` |" in page for code, (name, _) in FAULTS.items())
    assert set(re.findall(r"Faults\.([A-Z_]+)", source)) == set(re.findall(r"`([A-Z_]+)` \((?:2|6|10|92)\)", page))


def test_every_command_of_supervisorctl_is_on_the_page() -> None:
    page = (ROOT / "docs" / "rpc.md").read_text()
    commands = {name.removeprefix("do_") for name in vars(BotsPlugin) if name.startswith("do_")} - {"help"}
    assert commands == set(HELP)
    assert all(f"`{command}" in page for command in commands)


def test_every_key_of_a_bot_and_of_an_incident_is_explained() -> None:
    page = (ROOT / "docs" / "rpc.md").read_text().partition("## A bot")[2].partition("## Examples")[0]
    (incident,) = incident_rows({"incidents": [{"bot": "echo"}]}, {"echo"})
    assert set(re.findall(r"`([a-z_0-9-]+)`", page)) >= {*ROW_KEYS, *incident, *Health, *Level}
