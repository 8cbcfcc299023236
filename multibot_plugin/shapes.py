"""Dataclasses out of JSON that somebody may have damaged: every field of its type, or ValueError. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from multibot_plugin.health.states import Health, Level

_T = TypeVar("_T")
_LARGEST = 1e18  # that all our arithmetic can take


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number, of a size that means something."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


_READERS: Mapping[str, tuple[Callable[[Any], bool], Callable[[Any], Any]]] = {
    "str": (lambda value: isinstance(value, str), str),
    "bool": (lambda value: isinstance(value, bool), bool),
    "int": (lambda value: is_number(value) and isinstance(value, int), int),
    "float": (is_number, float),
    "Mapping[str, Any]": (lambda value: isinstance(value, dict), dict),
    "Level": (lambda value: value in set(Level), Level),
    "Health": (lambda value: value in set(Health), Health),
}


def build(kind: type[_T], item: Any, **known: Any) -> _T:
    """Return the ``kind`` that ``dataclasses.asdict`` made ``item`` from; unknown keys are ignored.

    ``known``: fields that are already what they should be. Raises ValueError, which names the field and no value.
    """
    if not isinstance(item, dict):
        raise ValueError(f"not a {kind.__name__}")
    found = dict(known)
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name in known:
            continue
        if field.name in item:
            found[field.name] = _value(kind, field.name, str(field.type), item[field.name])
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"not a {kind.__name__}: no {field.name}")
    return kind(**found)


def _value(kind: type[Any], name: str, annotation: str, value: Any) -> Any:
    if value is None and annotation.endswith(" | None"):
        return None
    fits, read = _READERS[annotation.removesuffix(" | None")]
    try:
        if fits(value):
            return read(value)
    except TypeError:  # a list is in no set
        pass
    raise ValueError(f"not a {kind.__name__}: {name} is a {type(value).__name__} or out of range")
