"""Lists, shows and copies the recipes (YAML files) that ship with the package.

A recipe is named `KIND/NAME`, for instance `experiments/movielens_100k`; `NAME` alone does where one kind has it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

import recsys
from recsys.tracking.files import write_whole

KINDS = ("features", "models", "experiments")


class RecipeError(ValueError):
    """A recipe that does not exist, is ambiguous, or would overwrite a file."""


def recipe_root() -> Path:
    """The folder that holds the recipe folders: inside an installed package, else the top of the source tree.

    Raises:
        RecipeError: neither is there.
    """
    package = Path(recsys.__file__).parent
    if (package / "recipes").is_dir():
        return package / "recipes"
    if (package.parent / "pyproject.toml").is_file():
        return package.parent
    raise RecipeError(f"{package}: this installation has no recipes; install the package again")


def find_recipes(root: Path | None = None) -> dict[str, Path]:
    """Every recipe by its name `KIND/NAME`, kinds in the order in which they build on each other."""
    root = root or recipe_root()
    return {
        path.relative_to(root).with_suffix("").as_posix(): path
        for kind in KINDS
        for path in sorted((root / kind).rglob("*.yaml"))
    }


def resolve(name: str, recipes: dict[str, Path]) -> str:
    """The full name of a recipe that is named in full or by its last part.

    Raises:
        RecipeError: no recipe, or more than one, has that name.
    """
    name = name.removesuffix(".yaml")
    if name in recipes:
        return name
    matches = [full for full in recipes if full.endswith(f"/{name}")]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise RecipeError(f"`{name}` names {len(matches)} recipes; say which: {', '.join(matches)}")
    raise RecipeError(f"no recipe `{name}`; `recsys recipes list` names all")


def description(path: Path) -> str:
    """The comment on the first line of a recipe."""
    with path.open(encoding="utf-8") as lines:
        first = lines.readline().strip()
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def _strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value)


def with_references(names: Iterable[str], recipes: dict[str, Path]) -> list[str]:
    """`names` and every recipe that they name in turn, so that a copy is complete."""
    by_path = {path.resolve(): name for name, path in recipes.items()}
    root = recipe_root()
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop(0)
        if name in found:
            continue
        found[name] = None
        path = recipes[name]
        for text in _strings(yaml.safe_load(path.read_text(encoding="utf-8"))):
            if text.endswith(".yaml"):
                places = ((path.parent / text).resolve(), (root / text).resolve())
                waiting += [by_path[place] for place in places if place in by_path]
    return list(found)


def copy_recipes(names: Iterable[str], recipes: dict[str, Path], target: Path, force: bool) -> list[Path]:
    """Copies recipes to `target/KIND/NAME.yaml`; nothing is written when one of them may not be.

    Raises:
        RecipeError: a file exists already and `force` is not set.
    """
    pairs = [(recipes[name], target / f"{name}.yaml") for name in names]
    existing = [str(copy) for source, copy in pairs if copy.exists() and copy.resolve() != source.resolve()]
    if existing and not force:
        raise RecipeError(f"{', '.join(existing)} exists already; nothing was copied (--force overwrites)")
    for source, copy in pairs:
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_whole(copy, source.read_bytes())
    return [copy for _, copy in pairs]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("recsys recipes", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="name every recipe, with its first line")
    show = actions.add_parser("show", help="print a recipe")
    show.add_argument("name")
    copy = actions.add_parser("copy", help="copy recipes, and those that they name, into a folder of yours")
    copy.add_argument("names", nargs="*", metavar="name", help="none: all recipes")
    copy.add_argument("--to", type=Path, default=Path(), metavar="FOLDER", help="default: the working folder")
    copy.add_argument("--force", action="store_true", help="overwrite files that exist")
    return parser


def main(argv: list[str]) -> int:
    """Runs `recsys recipes`."""
    arguments = _parser().parse_args(argv)
    recipes = find_recipes()
    if arguments.action == "list":
        width = max((len(name) for name in recipes), default=0)
        for name, path in recipes.items():
            print(f"{name:<{width}}  {description(path)}".rstrip())
    elif arguments.action == "show":
        sys.stdout.write(recipes[resolve(arguments.name, recipes)].read_text(encoding="utf-8"))
    else:
        names = [resolve(name, recipes) for name in arguments.names] or list(recipes)
        for path in copy_recipes(with_references(names, recipes), recipes, arguments.to, arguments.force):
            print(path)
    return 0
