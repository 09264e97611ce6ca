"""What surrounds the gates: whose probabilities are looked at, what verdicts are written, who is let through."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from recsys.evaluation.result import EvaluationError
from recsys.tracking import promotion
from recsys.tracking.gates.calibration import Calibration
from recsys.tracking.gates.case import Contestant, PromotionCase
from recsys.tracking.gates.gate import GateError, Verdict
from recsys.tracking.known_items import KnownItems
from recsys.tracking.mlflow_store import open_client
from recsys.tracking.model_files import files_digest
from recsys.tracking.most_popular import MostPopular
from recsys.tracking.promotion import case_of, markdown, promote, record_verdicts
from recsys.tracking.registration import load_evaluation_set, register
from recsys.tracking.registry import Registry
from recsys.tracking.registry_calls import LostRaceError, RegistryError, called, default_store
from tests.tracking.gates.cases import frozen
from tests.tracking.stores import empty_store

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return empty_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return open_client(uri)


def run_of(client: MlflowClient, folder: Path) -> str:
    experiment = client.create_experiment(folder.name + str(id(folder)), artifact_location=f"file://{folder}/files")
    return client.create_run(experiment).info.run_id


def ranking(client: MlflowClient, uri: str, folder: Path, platt: Any, error: dict[str, float] | None) -> PromotionCase:
    """A challenger of which only what calibration looks at is there."""
    served = folder / "model" / "artifacts" / "bundle"
    served.mkdir(parents=True)
    (served / "serving.json").write_text(json.dumps({"platt": platt}))
    run_id = run_of(client, folder)
    if error is not None:
        client.log_text(run_id, json.dumps({"expected_calibration_error": error}), "calibration.json")
    challenger = Contestant("challenger", lambda: None, uri=str(folder / "model"), run_id=run_id)
    return PromotionCase(challenger, challenger, frozen(), judge=None, tracking_uri=uri)  # type: ignore[arg-type]


PLATT = {"scale": 1.0, "offset": -3.0}


def test_probabilities_are_judged_where_there_are_any(client: MlflowClient, uri: str, tmp_path: Path) -> None:
    def judged(name: str, platt: Any, error: dict[str, float] | None) -> PromotionCase:
        return ranking(client, uri, tmp_path / name, platt, error)

    error = {"before": 0.1, "after": 0.004, "base_rate": 0.01}
    good = judged("good", PLATT, error)
    assert Calibration(0.5).check(good).passed
    assert Calibration(0.4).check(good).passed and not Calibration(0.39).check(good).passed
    assert not Calibration().check(judged("bad", PLATT, error | {"after": 0.006})).passed
    assert not Calibration().check(judged("none", PLATT, error | {"after": float("nan")})).passed
    silent = Calibration().check(judged("silent", None, None))
    assert silent.outcome == "not run" and "no probabilities" in silent.sentence
    with pytest.raises(GateError, match=r"no calibration.json"):
        Calibration().check(judged("unlogged", PLATT, None))
    with pytest.raises(GateError, match="belongs to no run"):
        Calibration().check(replace(good, challenger=replace(good.challenger, run_id=None)))
    (tmp_path / "foreign").mkdir()
    foreign = replace(good, challenger=replace(good.challenger, uri=str(tmp_path / "foreign")))
    assert Calibration().check(foreign).outcome == "not run"


def model_of(client: MlflowClient, uri: str, folder: Path, name: str) -> tuple[Registry, str]:
    """A registered model with one version, whose run has an evaluation set and no model."""
    run_id = run_of(client, folder)
    frozen().save(folder / "evaluation_set")
    client.log_artifacts(run_id, str(folder / "evaluation_set"), "evaluation_set")
    client.create_registered_model(name)
    tags = {"recsys.evaluation_set": frozen().fingerprint}
    client.create_model_version(name, f"file://{folder}", run_id, tags)
    return Registry.open(name, uri), run_id


def test_a_champion_of_an_older_set_answers_with_known_items_alone(
    client: MlflowClient, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, run_id = model_of(client, uri, tmp_path, "older")
    monkeypatch.setattr(promotion, "_loaded", lambda registry, version: version)
    own = frozen().fingerprint
    for version, registered_with in (("2", own), ("3", "an older one")):
        client.create_model_version("older", f"file://{tmp_path}", run_id, {"recsys.evaluation_set": registered_with})
        registry.challenge("1")
        client.set_registered_model_alias("older", "champion", version)
        case = case_of(registry)
        champion = case.champion.load()
        assert isinstance(champion, KnownItems) is (registered_with != own) and case.challenger.load() == "1"
        assert (champion.model if isinstance(champion, KnownItems) else champion) == version


def test_a_case_and_its_verdicts(client: MlflowClient, uri: str, tmp_path: Path) -> None:
    registry, run_id = model_of(client, uri, tmp_path, "case")
    with pytest.raises(RegistryError, match=r"`case` has no challenger; `recsys registry register RUN --name case`"):
        case_of(registry)
    registry.challenge("1")
    registry.describe("1", "# Mine")
    case = case_of(registry)
    assert case.evaluation_set.fingerprint == frozen().fingerprint == case.challenger.registered_with
    assert case.champion.version is None and isinstance(case.champion.load(), MostPopular)
    popular = case.evaluation(case.champion, None)
    assert popular.ranked[0, 0] > 0 and popular.facts["evaluation_set"] == frozen().fingerprint
    assert case.evaluation(case.champion, None) is popular  # judged once

    passed, refused = Verdict("a", True, {"n": 1.5}), Verdict("b", False, {"m": float("nan")}, "x | y", "<b> | `c`")
    with pytest.raises(RegistryError, match="the gates say refused; nothing was moved"):
        promote(registry, case, [passed, refused])
    with pytest.raises(RegistryError, match="refused"):
        promote(registry, case, [])
    folder = record_verdicts(registry, case, [passed, refused, Verdict("c", False, sentence="s" * 5000)])
    tags = registry.version("1").tags
    assert (tags["recsys.verdict"], tags["recsys.gate.b"]) == ("refused", "refused: <b> | `c` (demanded: x | y)")
    assert len(tags["recsys.gate.c"]) == 1000
    written = json.loads(Path(client.download_artifacts(run_id, f"{folder}/verdicts.json")).read_text())
    assert written["gates"][1]["numbers"] == {"m": None} and written["champion"].startswith("popularity")
    page = Path(client.download_artifacts(run_id, f"{folder}/verdicts.md")).read_text()
    assert page == markdown(written)
    (row,) = (line for line in page.splitlines() if line.startswith("| b |"))
    assert row == r"| b | refused | x \| y | &lt;b> \| 'c' |"

    card = registry.version("1").description
    assert card.startswith("# Mine\n\n## Gates") and "| b" in card and "Gates that were not run" not in card
    record_verdicts(registry, case, [passed])
    tags = registry.version("1").tags  # what an earlier judgement has found is no finding of this one
    assert tags["recsys.verdict"] == "passed" and {t for t in tags if t.startswith("recsys.gate.")} == {"recsys.gate.a"}
    assert "| b" not in registry.version("1").description

    promote(registry, case, [passed])
    with pytest.raises(LostRaceError):  # the same case once more: champion and challenger are others by now
        promote(registry, case, [passed])
    registry.challenge("1")
    with pytest.raises(RegistryError, match="has version 1 as champion and as challenger"):
        case_of(registry)


def test_without_an_evaluation_set_there_is_no_case(client: MlflowClient, uri: str, tmp_path: Path) -> None:
    client.create_registered_model("bare")
    client.create_model_version("bare", f"file://{tmp_path}", run_of(client, tmp_path))
    registry = Registry.open("bare", uri)
    registry.challenge("1")
    with pytest.raises(RegistryError, match="no evaluation set; name a folder"):
        case_of(registry)
    assert case_of(registry, frozen()).challenger.registered_with is None


def test_a_run_without_a_model_cannot_be_registered(client: MlflowClient, uri: str, tmp_path: Path) -> None:
    run_id = run_of(client, tmp_path)
    with pytest.raises(RegistryError, match=f"run {run_id} has no model in MLflow; name the folder"):
        register(run_id, "nothing", uri)
    with pytest.raises(RegistryError, match=r"neither the folder of a run nor a run of the store"):
        register("0" * 32, "nothing", uri)
    client.delete_run(run_id)
    with pytest.raises(RegistryError, match=f"run {run_id} is deleted in MLflow"):
        register(run_id, "nothing", uri)


def test_a_model_without_files_has_no_hash(uri: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="the model has no files in the store"):
        files_digest(str(tmp_path), uri)
    (tmp_path / "MLmodel").write_text("one")
    one = files_digest(str(tmp_path), uri)
    (tmp_path / "registered_model_meta").write_text("what MLflow leaves when it loads a model")
    assert files_digest(str(tmp_path), uri) == one
    bundle = tmp_path / "artifacts" / "bundle"
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").write_text("no manifest")
    two = files_digest(str(tmp_path), uri)
    (bundle / "weights.safetensors").write_text("w")
    assert len({one, two, files_digest(str(tmp_path), uri)}) == 3


def test_a_damaged_evaluation_set_is_named_by_its_run(client: MlflowClient, uri: str, tmp_path: Path) -> None:
    run_id = run_of(client, tmp_path)
    client.log_text(run_id, "{}", "evaluation_set/manifest.json")
    with pytest.raises(EvaluationError, match=f"artefact evaluation_set of run {run_id}: .*no complete evaluation set"):
        load_evaluation_set(client, uri, run_id)


def test_the_default_store_is_put_back(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError), default_store(uri):
        assert mlflow.get_tracking_uri() == uri == os.environ["MLFLOW_TRACKING_URI"]
        raise ZeroDivisionError
    assert "MLFLOW_TRACKING_URI" not in os.environ and not mlflow.is_tracking_uri_set()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    with default_store(uri):
        assert mlflow.get_tracking_uri() == uri
    assert mlflow.get_tracking_uri() == "http://elsewhere"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert not mlflow.is_tracking_uri_set(), "the variable is no store that was set"


def test_a_busy_database_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

    from recsys.tracking import registry_calls
    from recsys.tracking.mlflow_store import TrackingError

    monkeypatch.setattr(registry_calls, "_WAITS", (0.0, 0.0))
    calls: list[int] = []

    def busy(until: int) -> str:
        calls.append(1)
        if len(calls) < until:
            raise MlflowException("locked", error_code=TEMPORARILY_UNAVAILABLE)
        return "done"

    assert called("sqlite:///x", busy, 3) == "done" and len(calls) == 3
    calls.clear()
    with pytest.raises(TrackingError, match="locked"):
        called("sqlite:///x", busy, 4)
