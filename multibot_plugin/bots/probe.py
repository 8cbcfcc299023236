"""What a bot's own interpreter is asked before the bot exists: does it find what the bot imports?

This text is handed to it as ``python -c``, as the user that the bot will have; nothing of the bot is imported or
run. Argument: a JSON object: ``folder`` (put first on sys.path), ``file`` or ``module`` (of the bot), ``function``
(that must be defined in it, may be empty), ``run`` (whether the module is run as a program), ``modules`` (needed
besides), ``token_var`` (the variable in which the bot finds its token; empty: it is not asked about). Output: a JSON
object with ``version``, and one with what is wrong: ``missing`` (a module), ``syntax``, ``unreadable`` or ``undefined``
(one line), or ``literal`` (where a token stands as a text) and ``instead`` (the call that takes it).

Standard library only, and in the language of an old Python 3, so that an old interpreter can say its version.
"""

from __future__ import annotations

import ast
import json
import sys
from typing import Any


def certain_imports(tree: ast.Module) -> list[str]:
    """Return the modules that running ``tree`` imports for certain: an import that may be skipped does not count."""
    names: list[str] = []

    def walk(body: list[Any]) -> None:
        for node in body:
            if isinstance(node, ast.Import):
                names.extend(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.append(node.module)
            elif runs_for_certain(node):
                walk(node.body)

    walk(tree.body)
    # The runner brings its own folder along.
    return [name for name in dict.fromkeys(name.split(".")[0] for name in names) if name != "multibot_runner"]


def runs_for_certain(block: Any) -> bool:
    """Return whether the body of this statement runs, and an import in it may not fail."""
    if isinstance(block, ast.If):
        return is_main(block.test)
    return isinstance(block, ast.With) or (isinstance(block, ast.Try) and not block.handlers)


def is_main(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"


def changes_path(tree: ast.Module) -> bool:
    """Return whether the code looks as if it extended sys.path; then nothing can be said about its imports."""
    return any(
        isinstance(node, ast.Attribute) and node.attr in ("path", "addsitedir") and isinstance(node.value, ast.Name)
        and node.value.id in ("sys", "site") for node in ast.walk(tree)
    )  # fmt: skip


def defines(tree: ast.Module, name: str) -> bool:
    """Return whether ``name`` may exist in the module after its import."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name == name:
            return True
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name:
            return True
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                if name == (alias.asname or alias.name) or alias.name == "*":
                    return True
    return False


def literal_token(tree: ast.Module, variable: str) -> Any:
    """Return the line and the call in which a bot gets its token as a text; None also when it reads ``variable``."""
    texts: dict[str, bool] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value == variable:
            return None
        if isinstance(node, ast.Assign):
            for name in node.targets:
                if isinstance(name, ast.Name):
                    texts[name.id] = is_text(node.value) and texts.get(name.id, True)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            call = call_with_token(node.func)
            given = node.args[:1] + [k.value for k in node.keywords if k.arg == "token"]
            if call and any(is_text(v) or (isinstance(v, ast.Name) and texts.get(v.id, False)) for v in given):
                return node.lineno, call
    return None


def is_text(node: Any) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def call_with_token(called: ast.expr) -> str:
    """Return how a call that takes a token is written, in the libraries that bots are written with; else nothing."""
    if isinstance(called, ast.Attribute) and called.attr == "token":
        return ".token"
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name if name in ("Bot", "TeleBot", "AsyncTeleBot") else ""


def find(module: str) -> Any:
    """Return the spec of a dotted module without importing its packages, or None."""
    if module in sys.modules:
        return sys.modules[module]
    spec: Any = None
    path: Any = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        found = (finder.find_spec(name, path) for finder in sys.meta_path)
        spec = next((s for s in found if s is not None), None)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return spec


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Return what is wrong with the bot, in at most one key."""
    file = question["file"]
    if question["module"]:
        spec = find(question["module"])
        if spec is not None and question["run"] and spec.submodule_search_locations is not None:
            spec = find(question["module"] + ".__main__")
        if spec is None:
            return {"missing": question["module"]}
        file = getattr(spec, "origin", None) or ""
    needed: list[str] = list(question["modules"])
    tree: ast.Module | None = None
    if file.endswith(".py") or question["file"]:
        try:
            with open(file, "rb") as source:
                text = source.read()
            if not text.startswith(b"PK"):  # a zip file can be run, too
                tree = ast.parse(text, file)
        except OSError as error:
            return {"unreadable": f"{file}: {error.strerror}"}
        except (SyntaxError, ValueError) as error:
            line, what = getattr(error, "lineno", None), getattr(error, "msg", error)
            return {"syntax": f"{file}, line {line}: {what}" if line else f"{file}: {what}"}
        if tree is not None and not changes_path(tree):
            needed += certain_imports(tree)
    for module in needed:
        if find(module) is None:
            return {"missing": module}
    if tree is not None and question["function"] and not defines(tree, question["function"]):
        return {"undefined": file}
    if tree is not None and question.get("token_var"):
        found = literal_token(tree, question["token_var"])
        if found:
            return {"literal": f"{file}, line {found[0]}", "instead": found[1]}
    return {}


def main() -> None:
    question = json.loads(sys.argv[1])
    sys.path[:] = [entry for entry in sys.path if entry]
    if question["folder"]:
        sys.path.insert(0, question["folder"])
    # The version first and by itself: below it an old interpreter may fail.
    print("\n" + json.dumps({"version": list(sys.version_info[:3])}), flush=True)
    print("\n" + json.dumps(answer(question)))


if __name__ == "__main__":
    main()
