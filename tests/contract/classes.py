"""Finds the concrete classes of a package, and builds them: a class that needs arguments has a case in a table."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
Settings = Mapping[str, Any]
"""Arguments of a constructor by name."""


def concrete(package: ModuleType, base: type[T]) -> Iterator[type[T]]:
    """Every concrete class under `base` that a module of the package defines."""
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, base) and kind.__module__ == module.__name__ and not inspect.isabstract(kind):
                yield kind


def build(kind: type[T], settings: Settings) -> T:
    """The class with these settings; a test of a class that needs others fails by the name of the class."""
    missing = [
        name
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and name not in settings
    ]
    if missing:
        pytest.fail(f"{kind.__name__} needs {', '.join(missing)}: give it a case in the table of this file")
    return kind(**settings)


def has_setting(kind: type, name: str) -> bool:
    """Whether the constructor has an argument of that name."""
    return name in inspect.signature(kind).parameters


def check_docstring(kind: type) -> None:
    """The class itself, not one that it inherits from, says where it comes from or shows how it is used."""
    text = kind.__doc__ or ""
    assert "Source:" in text or "Example:" in text, f"{kind.__name__} has neither Source nor Example in its docstring"


def check_refusals(kind: type, refused: Mapping[str, Sequence[Settings]], needed: Settings) -> None:
    """Each of the settings is refused, and a class that says that it raises ValueError has some that are."""
    wrong = refused.get(kind.__name__, [])
    documented = "ValueError:" in (kind.__doc__ or "")
    assert documented == bool(wrong), f"{kind.__name__}: its docstring and the table of refused settings do not agree"
    for settings in wrong:
        with pytest.raises(ValueError):
            build(kind, {**needed, **settings})
            pytest.fail(f"{kind.__name__} accepts {settings}")
