"""Each check gives the right verdict and remedy for faked machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recsys.cli import checks, doctor
from recsys.cli.allocator import SETTINGS, missing_settings
from recsys.cli.checks import Check

CPU = {"torch": "2.13.0+cpu", "fbgemm-gpu-cpu": "1.8.0", "torchrec": "1.8.0", "torchmetrics": "1.0.3"}
CUDA = {"torch": "2.13.0", "fbgemm-gpu": "1.8.0", "torchrec": "1.8.0", "torchmetrics": "1.0.3"}


@pytest.mark.parametrize("versions", [CPU, CUDA, {**CUDA, "torch": "2.13.0+cu130"}, {**CPU, "torchrec": "1.8.1"}])
def test_fitting_stacks(versions: dict[str, str]) -> None:
    assert checks.check_triple(versions).status == "ok"


@pytest.mark.parametrize(
    ("versions", "remedy"),
    [
        ({**CPU, "torchrec": "1.9.2"}, "pip install --no-deps torchrec==1.8.0"),
        ({**CPU, "torchmetrics": "1.8.2"}, "pip install --no-deps torchmetrics==1.0.3"),
        ({**CPU, "fbgemm-gpu-cpu": None}, "pip install --no-deps fbgemm-gpu-cpu==1.8.0"),
        ({**CUDA, "fbgemm-gpu": "1.9.0"}, "pip install --no-deps fbgemm-gpu==1.8.0"),
        (
            {**CPU, "torch": "2.15.0+cpu"},
            "pip install --no-deps torch==2.13.0+cpu --extra-index-url https://download.pytorch.org/whl/cpu",
        ),
        ({**CUDA, "torch": "2.15.0"}, "pip install --no-deps torch==2.13.0"),
        (
            {**CPU, "fbgemm-gpu": "1.8.0"},
            "pip uninstall -y fbgemm-gpu && pip install --no-deps --force-reinstall fbgemm-gpu-cpu==1.8.0",
        ),
        (
            {**CPU, "torch": "2.13.0"},
            "pip uninstall -y fbgemm-gpu-cpu && pip install --no-deps --force-reinstall fbgemm-gpu==1.8.0",
        ),
        (
            {},
            "pip install --no-deps torch==2.13.0+cpu fbgemm-gpu-cpu==1.8.0 torchrec==1.8.0 torchmetrics==1.0.3"
            " --extra-index-url https://download.pytorch.org/whl/cpu",
        ),
    ],
)
def test_misfits_name_the_command_that_mends_them(versions: dict[str, str | None], remedy: str) -> None:
    check = checks.check_triple(versions)
    assert (check.status, check.remedy) == ("fail", remedy)


def test_the_pins_are_those_of_the_locks() -> None:
    folder = Path(__file__).parents[2] / "requirements"
    for lock, cuda in (("cpu.txt", False), ("gpu.txt", True)):
        lines = (folder / lock).read_text().splitlines()
        pins = checks.install_command(cuda).split("--no-deps ")[1].split(" --extra")[0].split()
        assert set(pins) <= set(lines)


def test_lookup() -> None:
    assert checks.check_lookup(lambda: None, cuda=False).status == "ok"

    def broken() -> None:
        raise OSError("undefined symbol: _ZN3c10\nmore")

    check = checks.check_lookup(broken, cuda=False)
    assert check.detail == "OSError: undefined symbol: _ZN3c10"
    assert "--force-reinstall torch==2.13.0+cpu fbgemm-gpu-cpu==1.8.0" in check.remedy


def test_lookup_here() -> None:
    doctor.look_up()


def test_requirements() -> None:
    wanted = ["mlflow<4,>=3.17", "duckdb>=1", "torch==2.13.*", 'ruff>=0.15; extra == "dev"']
    assert [c.status for c in checks.check_requirements(wanted, {"mlflow": "3.17.2", "duckdb": "2.0.0"}.get)] == ["ok"]
    failed = checks.check_requirements(wanted, {"mlflow": "2.9"}.get)
    assert [(c.name, c.status) for c in failed] == [("mlflow", "fail"), ("duckdb", "fail")]
    assert failed[0].remedy == 'pip install "mlflow<4,>=3.17"'
    assert failed[1].detail.startswith("missing")


@pytest.mark.parametrize(
    ("check", "status"),
    [
        (checks.check_python((3, 11)), "ok"),
        (checks.check_python((3, 10)), "fail"),
        (checks.check_devices("CPU", ["H200"], True), "ok"),
        (checks.check_devices("CPU", [], True), "warn"),
        (checks.check_devices("CPU", [], False), "ok"),
        (checks.check_blas(["mkl"]), "ok"),
        (checks.check_blas([]), "warn"),
        (checks.check_threads(2, 2), "ok"),
        (checks.check_threads(8, 2), "warn"),
        (checks.check_allocator(SETTINGS, True), "ok"),
        (checks.check_allocator({}, True), "warn"),
        (checks.check_allocator({}, False), "ok"),
        (checks.check_disk(Path("x"), 10 << 30, True), "ok"),
        (checks.check_disk(Path("x"), 1 << 30, True), "warn"),
        (checks.check_disk(Path("x"), 10 << 30, False), "fail"),
        (checks.check_memory(8 << 30), "ok"),
        (checks.check_memory(1 << 30), "warn"),
        (checks.check_data(Path("x"), ["amazon_beauty", "amazon_sports"], True), "ok"),
        (checks.check_data(Path("x"), ["amazon_beauty"], True), "warn"),
        (checks.check_data(None, [], False), "warn"),
        (checks.check_tracking("sqlite:///x.db", None), "ok"),
        (checks.check_tracking("http://x", "refused"), "fail"),
    ],
)
def test_verdicts(check: Check, status: str) -> None:
    assert check.status == status
    assert check.detail
    assert check.remedy or status == "ok" or check.name == "memory"


@pytest.mark.parametrize(
    ("versions", "status", "detail", "remedy"),
    [
        ({"sentence-transformers": "6.2.0", "some-model": "0.1.0"}, "ok", "6.2.0, some-model 0.1.0", ""),
        ({}, "ok", "missing; only features of type `sentence` need them: pip install", ""),
        ({"sentence-transformers": "6.2.0"}, "ok", "6.2.0, some-model missing; only", ""),
        (
            {"sentence-transformers": "3.4", "some-model": "0.1.0"},
            "warn",
            "3.4",
            'pip install "sentence-transformers>=6"',
        ),
    ],
)
def test_packages_of_sentences(versions: dict[str, str], status: str, detail: str, remedy: str) -> None:
    extra = ['sentence-transformers>=6; extra == "text"', 'some-model==0.1.*; extra == "text"']
    check = checks.check_text(["torch==2.13.*", *extra, 'ray; extra == "ray"'], versions.get)
    assert check.status == status and detail in check.detail and check.remedy.startswith(remedy)
    assert "ray" not in check.detail + check.remedy and bool(check.remedy) == (status == "warn")


def test_allocator_settings_are_left_alone_where_the_user_chose() -> None:
    assert missing_settings({}) == SETTINGS
    assert missing_settings({"RECSYS_KEEP_MEMORY": "0"}) == {}
    assert missing_settings({"MALLOC_TRIM_THRESHOLD_": "5"}) == {}


def test_tracking_problem(tmp_path: Path) -> None:
    assert doctor.tracking_problem(f"sqlite:///{tmp_path}/new/mlflow.db") is None
    assert not (tmp_path / "new").exists()
    (tmp_path / "broken.db").write_bytes(b"not a database" * 100)
    assert "not a database" in (doctor.tracking_problem(f"sqlite:///{tmp_path}/broken.db") or "")
    assert "not reachable" in (doctor.tracking_problem("http://127.0.0.1:9", timeout=1) or "")
    assert doctor.tracking_problem("mysql://host/db") is None


@pytest.mark.parametrize(
    ("status", "user", "verdict", "told"),
    [
        (200, None, "ok", "none is asked for"),
        (200, "anna", "ok", "anna"),
        (401, None, "fail", "one is asked for"),
        (401, "anna", "fail", "`anna` is unknown"),
        (500, "anna", "fail", "answers 500"),
        (0, None, "fail", "answers nothing"),
    ],
)
def test_account(status: int, user: str | None, verdict: str, told: str) -> None:
    check = checks.check_account(status, user)
    assert check.status == verdict and told in check.detail
    assert ("MLFLOW_TRACKING_USERNAME" in check.remedy) is (status == 401)


def test_exit_code_and_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    results = [Check("a", "ok", "fine"), Check("b [x]", "warn", "hm", "do this")]
    monkeypatch.setattr(doctor, "run_checks", lambda: results)
    assert doctor.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)[1] == {
        "name": "b [x]",
        "status": "warn",
        "detail": "hm",
        "remedy": "do this",
    }
    assert doctor.main([]) == 0
    text = capsys.readouterr().out
    assert "b [x]" in text
    assert "\n  do this\n" in text
    results.append(Check("c", "fail", "bad", "mend"))
    assert doctor.main([]) == 1
