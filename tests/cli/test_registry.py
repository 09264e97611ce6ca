"""A model becomes the one in production by evidence, and back again; who asks a script gets exit codes."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
import yaml
from mlflow.tracking import MlflowClient

from recsys.cli.main import find_commands, run
from recsys.evaluation.evaluation_set import EvaluationSet
from recsys.tracking.gates.gate import Gate, Verdict
from recsys.tracking.mlflow_store import open_client
from recsys.tracking.registry import Registry, who
from recsys.tracking.run_folder import RunFolder
from tests.tracking.stores import empty_store

pytestmark = pytest.mark.filterwarnings("ignore")
GATES = "recsys.tracking.gates"
SAME = {"class_path": f"{GATES}.same_evaluation_set.SameEvaluationSet"}
SUPERIOR = {"class_path": f"{GATES}.superiority.Superiority", "init_args": {"metrics": ["NDCG@10"]}}
FRESH = [
    {"class_path": f"{GATES}.load_test.LoadTest", "init_args": {"requests": 20}},
    {"class_path": f"{GATES}.size.Size", "init_args": {"most_mib": 100}},
    {"class_path": f"{GATES}.calibration.Calibration"},
]
HERE = "tests.cli.test_registry"


class Meddling(Gate):
    """Passes, and meanwhile somebody makes another version the challenger."""

    def __init__(self, name: str):
        self.name = name

    def check(self, case: Any) -> Verdict:
        registry = Registry.open(self.name)
        registry.challenge("1")
        return Verdict("meddling", True)


class Passing(Gate):
    """Asks nothing."""

    def check(self, case: Any) -> Verdict:
        return Verdict("passing", True)


class Interrupted(Gate):
    """Somebody presses Ctrl-C."""

    def check(self, case: Any) -> Verdict:
        raise KeyboardInterrupt


def registry(*words: object) -> int:
    """The exit code of the command."""
    return run("registry", find_commands()["registry"], [str(word) for word in words])


def of_gates(folder: Path, *gates: dict[str, Any]) -> Path:
    (folder / "gates.yaml").write_text(yaml.safe_dump({"gates": list(gates)}))
    return folder / "gates.yaml"


@pytest.fixture(scope="module")
def finished_run(finished: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with its evaluation set, never tracked."""
    run = RunFolder(tmp_path_factory.mktemp("registered") / "run")
    shutil.copytree(finished.path, run.path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        EvaluationSet.of(run.split(run.log())).save(run.evaluation_set)
    return run


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return empty_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def client(uri: str, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return open_client(uri)


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def aliases(client: MlflowClient, name: str) -> dict[str, int]:
    return {alias: int(version) for alias, version in client.get_registered_model(name).aliases.items()}


def test_a_life(
    client: MlflowClient, finished_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Registered, refused, promoted against popularity, followed by a model that is no better, rolled back."""
    name, lenient, strict = "a life", tmp_path / "lenient", tmp_path / "strict"
    for folder in (lenient, strict):
        folder.mkdir()
    lenient, strict = of_gates(lenient, SAME, *FRESH), of_gates(strict, SAME, SUPERIOR)

    assert registry("register", finished_run.path, "--name", name) == 0
    assert f"models:/{name}/1 is the challenger" in capsys.readouterr().out
    version = client.get_model_version(name, "1")
    assert version.description.startswith("# SynerGen on toy") and f"models:/{name}/1" in version.description
    assert version.tags["recsys.evaluation_set"] == EvaluationSet.load(finished_run.evaluation_set).fingerprint
    assert version.run_id == RunFolder(finished_run.path).record.mlflow["run"]

    assert registry("promote", name, "--gates", strict) == 1  # an untrained network is no better than popularity
    out = capsys.readouterr()
    assert "refused by superiority" in out.err and "popularity, for want of a champion" in out.out
    tags = client.get_model_version(name, "1").tags
    assert tags["recsys.verdict"] == "refused" and tags["recsys.judged_by"] and tags["recsys.judged_at"]
    assert tags["recsys.gate.superiority"].startswith("refused: none is better: NDCG@10 0.")
    assert tags["recsys.gate.same_evaluation_set"].startswith("passed: both answered the same 30 requests")
    (folder,) = client.list_artifacts(version.run_id, f"promotion/{name} 1")
    files = {Path(entry.path).name: entry.path for entry in client.list_artifacts(version.run_id, folder.path)}
    found = json.loads(Path(client.download_artifacts(version.run_id, files["verdicts.json"])).read_text())
    assert found["outcome"] == "refused" and [g["outcome"] for g in found["gates"]] == ["passed", "refused"]
    assert 0 < found["gates"][1]["numbers"]["NDCG@10 p"] <= 1
    page = Path(client.download_artifacts(version.run_id, files["verdicts.md"])).read_text()
    assert "| superiority | refused |" in page and "| NDCG@10 champion |" in page
    assert aliases(client, name) == {"challenger": 1}

    assert registry("promote", name, "--gates", lenient, "--dry-run", "--json") == 0
    judged = printed(capsys)
    assert {g["name"]: g["outcome"] for g in judged["gates"]} == {
        "same_evaluation_set": "passed", "load_test": "passed", "size": "passed", "calibration": "not run"
    }  # fmt: skip
    assert client.get_model_version(name, "1").tags["recsys.verdict"] == "refused"  # nothing was written
    assert aliases(client, name) == {"challenger": 1}

    assert registry("promote", name, "--gates", of_gates(tmp_path, SAME)) == 0
    assert aliases(client, name) == {"champion": 1}
    assert client.get_model_version(name, "1").tags["recsys.verdict"] == "passed"

    assert registry("register", version.run_id, "--name", name) == 0  # by the id of its run, its model logged before
    assert client.get_model_version(name, "2").source == version.source
    assert client.get_model_version(name, "2").tags["recsys.evaluation_set"]
    capsys.readouterr()
    assert registry("compare", name, "--json") == 0
    (task,) = printed(capsys)["tasks"]
    assert task["metrics"]["NDCG@10"]["difference"]["mean"] == 0
    own = next(e for e in finished_run.evaluations() if e.model == "SynerGen").means()
    assert task["metrics"]["NDCG@10"]["second"] == pytest.approx(own["NDCG@10"])  # as `recsys fit` has judged it
    assert registry("promote", name, "--gates", strict) == 1
    assert aliases(client, name) == {"champion": 1, "challenger": 2}

    assert registry("promote", name, "--gates", of_gates(tmp_path, SAME)) == 0
    assert aliases(client, name) == {"champion": 2, "previous": 1}
    assert registry("rollback", name, "--reason", "too many soaps") == 0
    assert aliases(client, name) == {"champion": 1}
    assert registry("rollback", name, "--reason", "again") == 2
    capsys.readouterr()

    assert registry("list", name, "--json") == 0
    newest, oldest = printed(capsys)
    assert (newest["version"], newest["aliases"], newest["rolled_back_because"]) == (2, [], "too many soaps")
    assert (oldest["version"], oldest["aliases"], oldest["verdict"]) == (1, ["champion"], "passed")
    assert registry("history", name, "--json") == 0
    history = printed(capsys)
    assert {row["by"] for row in history} == {who()}
    moves = [(row["what"], row["version"], row["why"]) for row in history if "judged" not in row["what"]]
    assert sorted(moves) == sorted([
        ("registered", 1, None), ("promotion", 1, "first champion"), ("registered", 2, None),
        ("promotion", 2, "replaces 1"), ("rollback", 1, "too many soaps"),
    ])  # fmt: skip
    for words in (["list"], ["history"], ["compare"]):
        assert registry(*words, name) == (2 if words == ["compare"] else 0)  # there is no challenger any more


def test_exit_codes(
    client: MlflowClient, finished_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    name = "codes"

    def said(*words: object) -> tuple[int, str]:
        code = registry(*words)
        return code, capsys.readouterr().err

    code, text = said("promote", "unheard")
    assert code == 2 and "no registered model `unheard`; `recsys registry register" in text
    code, text = said("register", tmp_path)
    assert code == 2 and "neither the folder of a run nor a run" in text
    elsewhere = RunFolder(tmp_path / "elsewhere")
    shutil.copytree(finished_run.path, elsewhere.path)
    elsewhere.record.mlflow = {"uri": "http://elsewhere", "experiment": "toy", "run": "0" * 32}
    elsewhere.record.write(elsewhere.path)
    code, text = said("register", elsewhere.path)
    assert code == 2 and f"its MLflow run {'0' * 32} is not a run of the store" in text
    for _ in range(2):
        assert registry("register", finished_run.path, "--name", name) == 0
    code, text = said("promote", name, "--gates", of_gates(tmp_path, {"class_path": "nowhere.Gate"}))
    assert code == 2 and "gate gate: " in text
    code, text = said("promote", name, "--evaluation-set", tmp_path)
    assert code == 2 and "no complete evaluation set" in text
    code, text = said("promote", name, "--bandit-log", tmp_path / "gates.yaml")
    assert code == 2 and "no gate reads --bandit-log" in text
    for words in (["promote"], ["rollback", name], ["nothing"]):
        with pytest.raises(SystemExit) as ended:
            registry(*words)
        assert ended.value.code == 2

    meddling = of_gates(tmp_path, {"class_path": f"{HERE}.Meddling", "init_args": {"name": name}})
    code, text = said("promote", name, "--gates", meddling)
    assert code == 3 and "another challenger than the gates have judged: version 1, not 2" in text
    assert aliases(client, name) == {"challenger": 1}
    assert said("promote", name, "--gates", of_gates(tmp_path, {"class_path": f"{HERE}.Interrupted"}))[0] == 130
    assert aliases(client, name) == {"challenger": 1}
    assert "recsys.verdict" not in client.get_model_version(name, "1").tags

    foreign = EvaluationSet.load(finished_run.evaluation_set)
    facts = tuple(task | {"split_hash": "another"} for task in foreign.facts)
    replace(foreign, facts=facts).save(tmp_path / "foreign")
    code, text = said("promote", name, "--gates", of_gates(tmp_path, SAME), "--evaluation-set", tmp_path / "foreign")
    assert code == 1 and "refused by same_evaluation_set" in text

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # which wait for seconds
    for words in (["list", name], ["promote", name], ["rollback", name, "--reason", "x"], ["register", "0" * 32]):
        code, text = said(*words)
        assert code == 4 and "http://127.0.0.1:9 cannot be used" in text


def test_files_that_were_exchanged_since_they_were_registered(
    client: MlflowClient, finished_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By somebody who may write files of runs, and not move aliases."""
    name, gates = "exchanged", of_gates(tmp_path, {"class_path": f"{HERE}.Passing"})
    for number in (1, 2):
        assert registry("register", finished_run.path, "--name", name) == 0
        assert registry("promote", name, "--gates", gates) == 0
        assert client.get_model_version(name, str(number)).tags["recsys.files_sha256"]
    assert registry("register", finished_run.path, "--name", name) == 0
    model_id = client.get_model_version(name, "3").source.removeprefix("models:/")
    folder = Path(url2pathname(urlsplit(client.get_logged_model(model_id).artifact_location).path))
    bundle = folder / "artifacts" / "bundle"
    before, moved = aliases(client, name), (["promote", name, "--gates", gates], ["rollback", name, "--reason", "bad"])

    def refused(*words: object) -> None:
        capsys.readouterr()
        assert registry(*words) == 2
        assert "its files are not those that were registered" in capsys.readouterr().err
        assert aliases(client, name) == before

    for path in (bundle / "manifest.json", folder / "model_from_code.py", folder / "MLmodel"):
        kept = path.read_bytes()
        path.write_bytes(kept + b"\n")
        for words in moved:
            refused(*words)
        path.write_bytes(kept)
    (bundle / "added.py").write_text("")
    refused(*moved[1])
    refused("compare", name)
    assert registry("promote", name, "--gates", of_gates(tmp_path, SAME)) == 1  # already when it is loaded
    (bundle / "added.py").unlink()
    assert registry(*moved[1]) == 0


def test_the_default_gates_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert registry("promote", "--print-gates") == 0
    assert len(yaml.safe_load(capsys.readouterr().out)["gates"]) == 9
