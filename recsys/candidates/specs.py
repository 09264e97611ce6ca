"""Objects of a configuration as plain values, and made again of these, wherever a part is made."""

from __future__ import annotations

import importlib
from dataclasses import fields, is_dataclass
from typing import Any

from recsys.candidates.files import JobError


def described(value: Any) -> Any:
    """A dataclass as the `class_path` and `init_args` that make it; lists of such, and plain values, as they are.

    Raises:
        JobError: it is an object of another kind, or of a class that cannot be imported elsewhere.

    Example:
        >>> from recsys.retrieval.merging import BySource
        >>> described(BySource())
        {'class_path': 'recsys.retrieval.merging.BySource', 'init_args': {}}
    """
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        if kind.__module__ == "__main__" or "." in kind.__qualname__:
            raise JobError(
                f"{kind.__module__}.{kind.__qualname__} cannot be imported where parts are made; define the class at "
                "the top level of a module"
            )
        arguments = {field.name: described(getattr(value, field.name)) for field in fields(value) if field.init}
        return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}
    if isinstance(value, list | tuple):
        return [described(item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise JobError(f"{type(value).__name__} in a configuration; sources and orders are dataclasses of plain values")


def made(spec: Any) -> Any:
    """What `described` has described; lists become tuples.

    Raises:
        JobError: a class cannot be imported.
    """
    if isinstance(spec, dict):
        module, _, name = spec["class_path"].rpartition(".")
        try:
            kind = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise JobError(
                f"{spec['class_path']} cannot be imported ({error}); install the package it came from wherever parts "
                "are made"
            ) from error
        return kind(**{name: made(value) for name, value in spec["init_args"].items()})
    return tuple(made(item) for item in spec) if isinstance(spec, list) else spec
