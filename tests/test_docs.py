"""The pages say what is: their code runs, their files parse, and what they name exists."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml

from recsys.candidates.data_contract import DataContract
from recsys.cli.candidates import parser as candidates_parser
from recsys.cli.main import find_commands
from recsys.features.schema import Schema
from recsys.tracking.gates.rules import GateRules

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "tests" / "system" / "plugin_package"
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("[!.]*/README.md"))]
SUBCOMMANDS = {
    "recipes": ["list", "show", "copy"],
    "checkpoint": ["inspect", "export"],
    "registry": ["register", "list", "history", "compare", "promote", "rollback"],
}
OPENS = {"yaml", "toml", "python", "pycon", "console", "text", ""}

pytestmark = pytest.mark.filterwarnings("ignore")


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line it begins at."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    fenced = re.finditer(r"^```([^\n`]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(m[1].strip(), m[2], text.count("\n", 0, m.start()) + 2) for m in fenced]


def of(language: str) -> list[tuple[Path, Block]]:
    return [(page, block) for page in PAGES for block in blocks(page) if block.language == language]


def name(value: object) -> str | None:
    return value.name if isinstance(value, Path) else f"line {value.line}" if isinstance(value, Block) else None


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the tables that the pages speak of, under the names that they use."""
    folder = tmp_path_factory.mktemp("shop")
    random = np.random.default_rng(0)
    customers = np.repeat([f"c{number}" for number in range(40)], 8)
    events = pd.DataFrame({"customer": customers, "sku": random.integers(0, 25, len(customers))})
    events["time"] = (1_600_000_000 + 60 * random.permutation(len(events))) * 1000
    events["line"] = range(len(events))
    events["kind"] = "buy"
    (folder / "logs").mkdir()
    events.to_parquet(folder / "logs" / "part-000.parquet")
    items = pd.DataFrame({"sku": range(25), "name": [f"red thing {n}" for n in range(25)]})
    items = items.assign(brand="acme", genres="a|b", price=1.5, image_embedding=list(np.eye(25, 3)))
    items.to_parquet(folder / "items.parquet")
    pd.DataFrame({"user_id": sorted(set(customers)), "country": "nl"}).to_parquet(folder / "users.parquet")
    return folder


def write_schemas(page: Path, folder: Path) -> None:
    """Writes each schema of a page under its own name, as the page's code expects."""
    for block in blocks(page):
        content = yaml.safe_load(block.text) if block.language == "yaml" else None
        if isinstance(content, dict) and "events" in content and "name" in content:
            (folder / f"{content['name']}.yaml").write_text(block.text)


def test_blocks_are_of_known_languages() -> None:
    found = {block.language for page in PAGES for block in blocks(page)}
    assert found - OPENS <= {"{toctree}"}
    assert {"yaml", "python", "pycon", "console"} <= found


@pytest.mark.parametrize(
    "page", [page for page in PAGES if {b.language for b in blocks(page)} & {"python", "pycon"}], ids=name
)
def test_code_runs(page: Path, shop: Path) -> None:
    """The blocks of a page run one after the other; what `pycon` blocks print is what stands there."""
    write_schemas(page, shop)
    namespace: dict[str, object] = {"__name__": page.stem}
    with inside(shop):
        for block in blocks(page):
            where = f"{page.name}, line {block.line}"
            if block.language == "python":
                exec(compile(block.text, where, "exec"), namespace)
            elif block.language == "pycon":
                example = doctest.DocTestParser().get_doctest(block.text, namespace, where, str(page), block.line)
                report = io.StringIO()
                result = doctest.DocTestRunner().run(example, out=report.write, clear_globs=False)
                namespace |= example.globs
                assert result.attempted and not result.failed, report.getvalue()


def test_files_that_pages_show_are_the_tested_ones() -> None:
    """A block that begins with the name of a file is a file of the package that `tests/system` installs."""
    shown = {}
    for page in PAGES:
        for block in blocks(page):
            first, _, rest = block.text.partition("\n")
            if found := re.fullmatch(r"# ([\w/.-]+\.(?:py|toml|yaml))", first):
                assert rest == (PLUGIN / found[1]).read_text(), f"{page.name}, line {block.line}: {found[1]} differs"
                shown[found[1]] = page
    files = {
        path.relative_to(PLUGIN).as_posix() for path in PLUGIN.rglob("*.*") if path.suffix in (".py", ".toml", ".yaml")
    }
    assert files - set(shown) == {"bookshop/__init__.py"}


@pytest.mark.parametrize(("page", "block"), of("yaml"), ids=name)
def test_yaml_parses(page: Path, block: Block, tmp_path: Path) -> None:
    content = yaml.safe_load(block.text)
    assert isinstance(content, dict)
    if "gates" in content:
        assert GateRules.model_validate(content).build()
    elif "sources" in content:
        assert candidates_parser().instantiate_classes(candidates_parser().parse_object(content)).sources
    elif content.keys() <= DataContract.__dataclass_fields__.keys():
        (tmp_path / "limits.yaml").write_text(block.text)
        assert DataContract.read(tmp_path / "limits.yaml") != DataContract()
    elif not content.keys() & {"model", "job", "data", "trainer"}:
        Schema.parse(content, origin=f"{page.name}, line {block.line}")


def test_jobs_parse(shop: Path) -> None:
    """A complete job of a page is accepted by `recsys fit`, classes and data included."""
    from recsys.cli.fit_job import FitCLI

    page = ROOT / "docs" / "getting-started.md"
    write_schemas(page, shop)
    (job,) = (block for block in blocks(page) if block.language == "yaml" and "model:" in block.text)
    (shop / "job.yaml").write_text(job.text)
    with inside(shop):
        cli = FitCLI(
            args=["--config", "job.yaml", "--trainer.accelerator", "cpu", "--trainer.enable_model_summary", "false"]
        )
    assert cli.datamodule.log.schema.name == "shop"
    assert cli.datamodule.log.n_items == 25
    assert cli.trainer.max_epochs == 50


def commands(text: str) -> Iterator[list[str]]:
    """The words of every `recsys` command in console blocks and in inline code."""
    lines = re.findall(r"^(?:\$ | {4})(recsys [^#\n]*)", text, re.MULTILINE)
    lines += re.findall(r"`(recsys [^`\n]*)`", text)
    for line in lines:
        yield shlex.split(line.replace("...", ""))


@pytest.fixture(scope="module")
def help_of() -> dict[str, str]:
    """The help of each command that a page gives options to."""
    wanted = {
        words[1] for page in TEXTS for words in commands(page.read_text()) if any(w.startswith("--") for w in words[2:])
    }
    texts = {}
    for command in wanted & find_commands().keys():
        printed = io.StringIO()
        for words in (["--help"], *([sub, "--help"] for sub in SUBCOMMANDS.get(command, []))):
            with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
                find_commands()[command].load()(words)
        texts[command] = printed.getvalue()
    return texts


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_and_their_options_exist(page: Path, help_of: dict[str, str]) -> None:
    own = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]["entry-points"]["recsys.commands"]
    for _, command, *words in commands(page.read_text(encoding="utf-8")):
        if command in ("--help", "--version", "COMMAND") or command in own:
            continue
        assert command in find_commands(), f"{page.name}: recsys {command}"
        for option in (word.partition("=")[0] for word in words if word.startswith("--")):
            assert re.search(rf"{re.escape(option)}\b", help_of[command]), f"{page.name}: recsys {command} {option}"


def test_commands_are_found_in_the_pages() -> None:
    seen = {words[1] for page in PAGES for words in commands(page.read_text())}
    assert {"fit", "prepare", "evaluate", "recommend", "doctor", "recipes", "checkpoint"} <= seen


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(
        r"`((?:recsys|docs|tests|features|models|experiments|mlflow_server|requirements)/[\w./*-]*)`", text
    ):
        found = any(next(base.glob(path.rstrip("/")), None) for base in (ROOT, ROOT / "recsys"))
        made = path == "recsys/recipes" or path.startswith("experiments/results/")  # by building and by scripts
        placeholder = re.search(r"\b[A-Z]\b", path)
        assert found or made or placeholder, f"{page.name}: {path}"
    for dotted in set(re.findall(r"\brecsys(?:\.\w+)+", text)) - {"recsys.commands"}:
        module, _, attribute = dotted.rpartition(".")
        try:
            importlib.import_module(dotted)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute), f"{page.name}: {dotted}"
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|\$ | {4})make ([a-z]+)", text)) <= targets, page.name


def test_variables_exist() -> None:
    source = "".join(path.read_text() for path in (ROOT / "recsys").rglob("*.py"))
    for page in TEXTS:
        for variable in re.findall(r"`(?:export )?(RECSYS_[A-Z_]+[A-Z])\b", page.read_text(encoding="utf-8")):
            of_command = variable.split("_")[1].lower() in find_commands()
            assert of_command or f'"{variable}"' in source, f"{page.name}: {variable}"
