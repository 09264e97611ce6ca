"""Imports go down the layers, or sideways inside one package; never up, and never out to what is not installed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS: list[set[str]] = [
    {"documents", "features"},
    {"losses", "models"},
    {"unbiased", "denoising"},
    {"training", "retrieval"},
    {"evaluation"},
    {"simulation"},
    {"tracking"},
    {"candidates"},
    {"cli"},
]
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}
# `recsys.evaluation` stands above `recsys.retrieval`; within one layer two packages do not know each other.
OUTSIDE = {"tests", "experiments", "features", "models", "docs", "mlflow_server"}


def imported(source: str, module: str) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of everything that the source of `module` imports, wherever in the file."""
    package = module.split(".")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level], *filter(None, [node.module])])
            name = base if node.level else node.module or ""
            yield from ((node.lineno, f"{name}.{alias.name}") for alias in node.names)


def violations(source: str, module: str) -> list[str]:
    """What `source`, the text of the module `recsys.<package>...`, imports against the rules."""
    parts = module.split(".")
    own = parts[1] if len(parts) > 1 else ""
    found = []
    for line, name in imported(source, module):
        top, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if top in OUTSIDE:
            found.append(f"{module}:{line} imports {name}, which is not installed with the package")
        elif top == "recsys" and other in LEVEL and other != own and LEVEL.get(own, -1) <= LEVEL[other]:
            found.append(f"{module}:{line} imports {name}, from the same layer or one above")
    return found


def modules() -> list[Path]:
    return sorted((ROOT / "recsys").rglob("*.py"))


def test_no_module_imports_upwards() -> None:
    paths = modules()
    assert len(paths) > 10
    found = []
    for path in paths:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found += violations(path.read_text(encoding="utf-8"), module)
    assert not found, "\n".join(found)


def test_every_package_has_a_layer() -> None:
    packages = {path.parent.name for path in (ROOT / "recsys").glob("*/__init__.py")}
    assert packages <= set(LEVEL), f"give these a layer: {packages - set(LEVEL)}"


@pytest.mark.parametrize(
    ("source", "module", "bad"),
    [
        ("from recsys.models import x", "recsys.features.log", True),
        ("import recsys.models.x", "recsys.losses.base", True),
        ("from recsys import training", "recsys.models.x", True),
        ("from ..training import loop", "recsys.models.x", True),
        ("def f():\n    from recsys.cli import main", "recsys.tracking.x", True),
        ("from recsys.features import x", "recsys.version", True),
        ("from tests.helpers import x", "recsys.cli.x", True),
        ("import experiments", "recsys.cli.x", True),
        ("from recsys.features import x", "recsys.models.x", False),
        ("from recsys.retrieval import x", "recsys.evaluation.x", False),
        ("from .batch import x", "recsys.features.x", False),
        ("from recsys import __version__", "recsys.features.x", False),
        ("import torch.models", "recsys.features.x", False),
    ],
)
def test_the_rule_itself(source: str, module: str, bad: bool) -> None:
    assert bool(violations(source, module)) is bad
