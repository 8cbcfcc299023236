"""Calls back when the bot imports a module: nothing of a library is imported by us, or before the bot wants it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

from multibot_runner import logs


@dataclass(frozen=True)
class Hook:
    """What to do about a module: ``after`` is called with it, once; ``hidden`` cannot be imported while it is executed.

    A failure of ``after`` is said in one line and never the bot's: this is a version of the module with other insides.
    """

    after: Optional[Callable[[Any], None]] = None
    hidden: Sequence[str] = ()

    def call(self, module: ModuleType) -> None:
        if self.after is None:
            return
        try:
            self.after(module)
        except Exception as error:
            why = f"this version has no {error.name!r}" if isinstance(error, AttributeError) else repr(error)
            logs.say(f"what the bot does with {module.__name__} shows only in part: {why}")


def install(hooks: Dict[str, Hook]) -> None:
    """Set ``hooks``, by the name of the module: for what is imported already at once, for the others when they are."""
    awaited = {name: hook for name, hook in hooks.items() if name not in sys.modules}
    for name in hooks.keys() - awaited.keys():
        hooks[name].call(sys.modules[name])
    sys.meta_path.insert(0, _Finder(awaited))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, hooks: Dict[str, Hook]) -> None:
        self._hooks = hooks
        self._searching: Set[Tuple[int, str]] = set()  # by which thread, for what: there the others find the module

    def find_spec(self, name: str, path: Any, target: Any = None) -> Optional[importlib.machinery.ModuleSpec]:
        search = (threading.get_ident(), name)
        if name not in self._hooks or search in self._searching:
            return None
        self._searching.add(search)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._searching.discard(search)
        if spec is None or spec.loader is None:
            return None
        spec.loader = _Loader(spec.loader, self._hooks, name)
        return spec


class _Loader(importlib.abc.Loader):
    """Takes the hook out when the module is executed, no sooner: a bot may only look for it, or import it once more."""

    def __init__(self, real: Any, hooks: Dict[str, Hook], name: str) -> None:
        self._real = real
        self._hooks = hooks
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Optional[ModuleType]:
        created: Optional[ModuleType] = self._real.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._real
        module.__loader__ = self._real
        hook = self._hooks.get(self._name, Hook())
        # Those names are of packages: a bot's own telegram.py shall find what it imports.
        hidden = hook.hidden if hasattr(module, "__path__") else ()
        taken: List[str] = [name for name in hidden if name not in sys.modules]
        for name in taken:
            sys.modules[name] = None  # type: ignore[assignment]
        try:
            self._real.exec_module(module)
        finally:
            for name in taken:
                if name in sys.modules and sys.modules[name] is None:
                    del sys.modules[name]
        if self._hooks.pop(self._name, None):
            hook.call(module)
