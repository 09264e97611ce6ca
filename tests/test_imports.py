"""`import recsys` and `recsys --help` load nothing heavy, and the package holds what it should."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch",
    "torchrec",
    "fbgemm_gpu",
    "lightning",
    "mlflow",
    "pandas",
    "numpy",
    "implicit",
    "jsonargparse",
    "rich",
)


@pytest.mark.parametrize(
    "statement",
    [
        "import recsys",
        "import recsys.cli.main",
        "from recsys.cli.main import main; assert main(['--help']) == 0",
        "from recsys.cli.main import main; assert main(['recipes', 'list']) == 0",
    ],
)
def test_nothing_heavy_is_loaded(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint('LOADED', *sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED"


def test_the_wheel_installs_recsys_alone_with_its_recipes(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"recsys"}
    kinds = ("features", "models", "experiments")
    recipes = {path.relative_to(ROOT).as_posix() for kind in kinds for path in (ROOT / kind).rglob("*.yaml")}
    shipped = {name.removeprefix("recsys/recipes/") for name in names if name.startswith("recsys/recipes/")}
    assert recipes
    assert shipped == recipes
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recsys").rglob("*.py")}
    assert code | {"recsys/py.typed"} <= names

    # An installed package, with no source tree beside it, finds the recipes.
    listing = (
        "import os, sys; here = os.getcwd(); sys.path.insert(0, here); import recsys;"
        "assert recsys.__file__.startswith(here); from recsys.cli.recipes import find_recipes; print(*find_recipes())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", listing], capture_output=True, text=True, timeout=60, cwd=tmp_path / "site"
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {name.removesuffix(".yaml") for name in recipes}
