"""The rules of CONTRIBUTING.md on who may import whom, and that everything is shipped. Reads source, runs nothing."""

from __future__ import annotations

import ast
import configparser
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_CONFIG = configparser.ConfigParser()
_CONFIG.read(ROOT / "setup.cfg")
FOLDERS = dict(line.replace(" ", "").split("=") for line in _CONFIG["options"]["package_dir"].strip().splitlines())
PACKAGES = _CONFIG["options"]["packages"].split()

# Modules that decide: values in, values out.
PURE = (
    "multibot_plugin.kinds", "multibot_plugin.bots.config", "multibot_plugin.bots.plan", "multibot_plugin.bots.render",
    "multibot_plugin.health.states", "multibot_plugin.health.incidents", "multibot_plugin.health.recovery",
    "multibot_plugin.health.ends", "multibot_plugin.health.judgement", "multibot_plugin.health.lifecycle",
    "multibot_plugin.health.picture", "multibot_plugin.health.rules",
    "multibot_plugin.alerts.format", "multibot_runner.backoff", "multibot_runner.lines",
    "multibot_runner.redact",
)  # fmt: skip
IMPURE_IMPORTS = {"asyncio", "asyncpg", "io", "os", "psutil", "random", "secrets", "shutil", "signal", "socket",
                  "subprocess", "tempfile", "threading"}  # fmt: skip
IMPURE_CALLS = {
    "open",
    "print",
    "input",
    "now",
    "today",
    "utcnow",
    "time",
    "monotonic",
    "perf_counter",
    "sleep",
    "read_text",
    "write_text",
    "read_bytes",
    "write_bytes",
}


def modules() -> dict[str, Path]:
    """Return every module of ours by its import name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
INSIDE_SUPERVISORD = (
    "multibot_plugin.supervisor.rpc",
    *(name for name in MODULES if name.startswith("multibot_plugin.supervisor.inside")),
)


def imports(name: str, top_only: bool) -> Iterator[str]:
    """Yield the modules that ``name`` imports; ``top_only``: when it is itself imported, so not inside functions."""
    tree = ast.parse(MODULES[name].read_text())
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{origin}.{alias.name}"
                yield whole if whole in MODULES else origin
        stack.extend(ast.iter_child_nodes(node))


def ours(module: str) -> bool:
    return module.split(".")[0] in FOLDERS


def standard(module: str) -> bool:
    return module.split(".")[0] in sys.stdlib_module_names


def of(package: str) -> list[str]:
    return [name for name in MODULES if name == package or name.startswith(f"{package}.")]


@pytest.mark.parametrize("name", of("multibot_runner"))
def test_the_runner_imports_nothing_of_ours_and_only_the_standard_library_at_the_top(name: str) -> None:
    at_top = set(imports(name, top_only=True))
    anywhere = set(imports(name, top_only=False))
    assert not {m for m in at_top if not standard(m) and m.split(".")[0] != "multibot_runner"}
    assert not {m for m in anywhere if ours(m) and m.split(".")[0] != "multibot_runner"}


@pytest.mark.parametrize("name", PURE)
def test_modules_that_decide_do_no_input_or_output_and_read_no_clock(name: str) -> None:
    assert not {m.split(".")[0] for m in imports(name, top_only=False)} & IMPURE_IMPORTS
    calls = {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(ast.parse(MODULES[name].read_text()))
        if isinstance(node, ast.Call)
    }
    assert not calls & IMPURE_CALLS


@pytest.mark.parametrize("module", INSIDE_SUPERVISORD)
def test_what_runs_inside_supervisord_imports_only_supervisor_and_the_protocol(module: str) -> None:
    for name in imports(module, top_only=False):
        allowed = {"multibot_runner.protocol", *INSIDE_SUPERVISORD}
        assert standard(name) or name.split(".")[0] == "supervisor" or name in allowed, name


@pytest.mark.parametrize("name", of("multibot_hooks"))
def test_built_in_hooks_use_only_what_a_stranger_may_use(name: str) -> None:
    used = {m for m in imports(name, top_only=False) if ours(m) and not m.startswith("multibot_hooks")}
    assert used <= {"multibot_plugin.hookspecs"}


def test_the_manager_loads_hooks_and_templates_by_name_only() -> None:
    for name in of("multibot_plugin"):
        used = {m.split(".")[0] for m in imports(name, top_only=False)}
        assert not used & {"multibot_hooks", "multibot_templates", "multibot_demo"}, name


def test_there_are_no_import_circles() -> None:
    graph = {name: {m for m in imports(name, top_only=True) if m in MODULES and m != name} for name in MODULES}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, naming the circle
    assert set(order) >= set(MODULES)


def test_every_package_folder_is_listed_and_so_in_the_wheel() -> None:
    folders = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert folders == set(PACKAGES)
    loose = {p.parent for f in FOLDERS.values() for p in (ROOT / f).rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in loose)


def test_functions_and_modules_stay_short() -> None:
    """The bound is on the tail: beyond it a piece is taken apart, with a reason or not at all."""
    for name, path in MODULES.items():
        text = path.read_text()
        assert text.count("\n") <= 400, name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 60, f"{name}:{node.lineno} {node.name}"


def test_no_test_is_skipped_or_expected_to_fail() -> None:
    words = [f"pytest.{word}" for word in ("skip", "xfail", "mark.skip", "mark.skipif", "mark.xfail", "importorskip")]
    for path in (ROOT / "tests").rglob("*.py"):
        text = path.read_text()
        assert path == Path(__file__) or not [word for word in words if f"{word}(" in text], path
