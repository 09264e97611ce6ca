"""Recipes are found, shown and copied whole, and nothing is overwritten by accident."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.cli import recipes


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {
        "features/shop.yaml": "# A shop's log\nname: shop\n",
        "models/small.yaml": "# A small model\nclass_path: m\n",
        "models/shop.yaml": "class_path: m\n",
        "experiments/night.yaml": (
            "# The nightly run\ndata: {schema: ../features/shop.yaml}\nmodels: [models/small.yaml, not/there.yaml]\n"
        ),
        "experiments/results/deep.yaml": "a: 1\n",
        "experiments/notes.md": "no recipe",
    }
    for name, text in files.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(recipes, "recipe_root", lambda: tmp_path / "tree")
    return tmp_path / "tree"


def test_list_names_every_recipe_with_its_first_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recipes.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "features/shop",
        "models/shop",
        "models/small",
        "experiments/night",
        "experiments/results/deep",
    ]
    assert lines[0].endswith("  A shop's log")
    assert lines[1] == "models/shop"


def test_show_by_full_and_by_short_name(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("experiments/night", "night", "night.yaml"):
        assert recipes.main(["show", name]) == 0
        assert capsys.readouterr().out == (root / "experiments/night.yaml").read_text()


@pytest.mark.parametrize(("name", "message"), [("shop", "names 2 recipes"), ("nigh", "no recipe `nigh`")])
def test_a_name_that_does_not_say_which(root: Path, name: str, message: str) -> None:
    with pytest.raises(recipes.RecipeError, match=message):
        recipes.main(["show", name])


def test_copy_brings_what_the_recipe_names(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    assert recipes.main(["copy", "night", "--to", str(target)]) == 0
    copied = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert copied == {"experiments/night.yaml", "features/shop.yaml", "models/small.yaml"}
    for name in copied:
        assert (target / name).read_bytes() == (root / name).read_bytes()


def test_copy_without_names_copies_all(root: Path, tmp_path: Path) -> None:
    assert recipes.main(["copy", "--to", str(tmp_path / "mine")]) == 0
    assert len(list((tmp_path / "mine").rglob("*.yaml"))) == 5


def test_copy_overwrites_only_when_forced_and_all_or_nothing(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    (target / "models").mkdir(parents=True)
    (target / "models/small.yaml").write_text("mine")
    with pytest.raises(recipes.RecipeError, match=r"small\.yaml exists already"):
        recipes.main(["copy", "night", "--to", str(target)])
    assert not (target / "experiments").exists()
    assert (target / "models/small.yaml").read_text() == "mine"
    assert recipes.main(["copy", "night", "--to", str(target), "--force"]) == 0
    assert (target / "models/small.yaml").read_text() == (root / "models/small.yaml").read_text()


def test_recipes_that_name_each_other_end(root: Path) -> None:
    (root / "models/small.yaml").write_text("next: shop.yaml\n")
    (root / "models/shop.yaml").write_text("next: small.yaml\n")
    found = recipes.find_recipes()
    assert recipes.with_references(["models/small"], found) == ["models/small", "models/shop"]


def test_the_installed_recipes_are_found() -> None:
    root = recipes.recipe_root()
    assert (root / "experiments").is_dir()
