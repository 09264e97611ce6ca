"""The command finds sub-commands, runs them and turns what ends them into exit codes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from recsys.cli import main as cli
from recsys.features.schema import SchemaError

PLUGIN = '''"""Says hello, from another package."""
import sys, time
marker = "imported"

def main(argv):
    if argv == ["wait"]:
        print("waiting", flush=True)
        time.sleep(60)
    if argv == ["environment"]:
        import os
        print(os.environ.get("MALLOC_MMAP_THRESHOLD_"), os.environ.get("MALLOC_TRIM_THRESHOLD_"))
        return 0
    print("hello", *argv)
    return 7
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A folder that holds an installed third-party distribution with a sub-command."""
    (tmp_path / "tiny_command.py").write_text(PLUGIN)
    info = tmp_path / "tiny-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[recsys.commands]\nhello = tiny_command:main\n")
    return tmp_path


def environment(plugin: Path, **extra: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "RECSYS_"))}
    return {**clean, "PYTHONPATH": str(plugin), **extra}


def run(plugin: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "recsys.cli.main", *arguments]
    return subprocess.run(command, env=environment(plugin, **extra), capture_output=True, text=True, timeout=60)


def test_help_lists_every_command_with_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in ("doctor", "prepare", "fit", "evaluate", "recommend", "recipes", "checkpoint"):
        assert f"\n  {name} " in text
    assert "Checks the installation and the machine" in text


def test_a_command_of_another_package_is_listed_and_run(plugin: Path) -> None:
    assert re.search(r"^  hello +Says hello, from another package$", run(plugin, "--help").stdout, re.MULTILINE)
    done = run(plugin, "hello", "you", "--and", "me")
    assert (done.returncode, done.stdout) == (7, "hello you --and me\n")


def test_summary_does_not_import_the_module(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(plugin)
    point = EntryPoint("hello", "tiny_command:main", cli.GROUP)
    assert cli.summary(point) == "Says hello, from another package"
    assert "tiny_command" not in sys.modules


def test_summary_of_a_module_that_is_missing() -> None:
    assert cli.summary(EntryPoint("x", "no_such_package.command:main", cli.GROUP)).startswith("(cannot be read")
    assert cli.summary(EntryPoint("x", "no_such_module:main", cli.GROUP)) == "(not installed)"


def test_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["docter"]) == 2
    assert "did you mean `doctor`?" in capsys.readouterr().err
    assert cli.main(["zzzzz"]) == 2
    assert "`recsys --help` lists the commands" in capsys.readouterr().err


def test_no_arguments_is_wrong_usage_and_version_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert capsys.readouterr().out.startswith("usage: recsys COMMAND")
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("recsys ")


class _Raises:
    """Stands in for an entry point whose command raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def load(self) -> object:
        def command(argv: list[str]) -> int:
            raise self.error

        return command


class _Derived(SchemaError):
    """An error of another package that derives from one of this package."""


@pytest.mark.parametrize(
    "error", [SchemaError("shop.yaml: key"), _Derived("shop.yaml: key"), FileNotFoundError(2, "missing", "shop.yaml")]
)
def test_errors_for_people_are_one_message(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("fit", _Raises(error), []) == 1  # type: ignore[arg-type]
    text = capsys.readouterr().err
    assert text.startswith("recsys fit: ")
    assert "shop.yaml" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("a bug"), OSError("no file")])
def test_bugs_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        cli.run("fit", _Raises(error), [])  # type: ignore[arg-type]


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cli.TRACEBACK, "1")
    with pytest.raises(SchemaError):
        cli.run("fit", _Raises(SchemaError("key")), [])  # type: ignore[arg-type]


def test_interrupt_ends_with_130_and_one_line(plugin: Path) -> None:
    command = [sys.executable, "-m", "recsys.cli.main", "hello", "wait"]
    process = subprocess.Popen(
        command, env=environment(plugin), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip() == "recsys hello: interrupted"


def test_commands_run_with_the_allocator_settings_unless_switched_off(plugin: Path) -> None:
    try:
        glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except ValueError:
        glibc = False
    if not glibc:
        pytest.skip("the settings are those of glibc")
    assert run(plugin, "hello", "environment").stdout.split() == ["8589934592", "17179869184"]
    assert run(plugin, "hello", "environment", RECSYS_KEEP_MEMORY="0").stdout.split() == ["None", "None"]
    assert run(plugin, "hello", "environment", MALLOC_TRIM_THRESHOLD_="5").stdout.split() == ["None", "5"]


def test_a_reader_that_leaves_early_is_no_error(plugin: Path) -> None:
    script = f"{sys.executable} -m recsys.cli.main recipes list | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], env=environment(plugin), capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
