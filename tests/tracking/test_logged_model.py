"""A model goes through MLflow and answers as before, in a process that has nothing but what was logged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient

from recsys.features.splits import LeaveLastOut
from recsys.models.artefact import ArtefactError, save_model
from recsys.tracking.bundle_server import ServingParams
from recsys.tracking.logged_model import SavedBundle, log_model, requirements, signature
from recsys.tracking.logged_model import save_model as save_logged
from recsys.tracking.mlflow_run import MLflowRun
from recsys.tracking.mlflow_store import TrackingError
from recsys.tracking.record import RunRecord
from recsys.tracking.run_folder import RunFolder
from tests.tracking.served import Served, factors, frame_of, served, synergen
from tests.tracking.stores import empty_store

pytestmark = [
    pytest.mark.filterwarnings("ignore:Operation with range:DeprecationWarning"),  # MLflow's
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]

ANSWER = """
import sys, mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
model.predict(pd.read_parquet("requests.parquet"), {"k": 4, "retrieve": 12}).to_parquet("answers.parquet")
"""


@pytest.fixture(scope="module")
def searching() -> Served:
    return served(synergen)


@pytest.fixture(scope="module")
def bundle(searching: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "model"
    searching.bundle.save(folder)
    return folder


@pytest.fixture(scope="module")
def saved(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "served"
    save_logged(bundle, path)
    return path


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return empty_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def in_store(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mlflow.pyfunc.load_model` asks the store of the test."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)


def asked(made: Served) -> pd.DataFrame:
    frame = frame_of(made, range(1, 9))
    frame["query"] = ["red soap" if row % 2 else None for row in range(8)]
    frame["candidates"] = [["101", "109", "117"] if row % 3 == 2 else None for row in range(8)]
    return frame


def refuse(*_: object) -> None:
    raise OSError("no space left")


def without_version(answers: pd.DataFrame) -> pd.DataFrame:
    return answers.drop(columns="model_version")


def test_a_saved_model_answers_as_before(searching: Served, saved: Path) -> None:
    model = mlflow.pyfunc.load_model(str(saved))
    answers = model.predict(asked(searching), {"k": 4, "retrieve": 12})
    expected = searching.server.answer(asked(searching), ServingParams(k=4, retrieve=12))
    pd.testing.assert_frame_equal(without_version(answers), without_version(expected), rtol=1e-5)
    assert len(set(answers["model_version"])) == 1 and len(answers["model_version"][0]) == 16
    defaults = model.predict(asked(searching))
    pd.testing.assert_frame_equal(
        without_version(defaults),
        without_version(searching.server.answer(asked(searching), ServingParams())),
        rtol=1e-5,
    )


def test_a_fresh_process_needs_nothing_but_what_was_saved(searching: Served, saved: Path, tmp_path: Path) -> None:
    """Another working folder, no data, and no pickle allowed."""
    asked(searching).to_parquet(tmp_path / "requests.parquet")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RECSYS", "PYTHON"))}
    environment |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, str(saved)], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = searching.server.answer(asked(searching), ServingParams(k=4, retrieve=12))
    answers = pd.read_parquet(tmp_path / "answers.parquet")
    pd.testing.assert_frame_equal(
        without_version(answers), without_version(expected), rtol=1e-5, check_dtype=False, check_column_type=False
    )
    assert not [path for path in saved.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".bin")]


def test_what_stands_in_the_folder(searching: Served, bundle: Path, saved: Path, tmp_path: Path) -> None:
    model = Model.load(str(saved))
    own = {"fingerprint": searching.log.fingerprint, "split_hash": searching.split.hash}
    own |= {"model_class": "recsys.models.synergen.SynerGen"}
    own["size_bytes"] = sum(path.stat().st_size for path in bundle.iterdir())
    assert model.metadata == {"recsys": own} == {"recsys": SavedBundle.of(bundle).facts}
    assert model.model_size_bytes == own["size_bytes"]
    assert model.signature == signature()
    lines = (saved / "requirements.txt").read_text().splitlines()
    assert lines == requirements(own["model_class"])
    assert f"torch=={version('torch')}" in lines and f"recsys=={version('recsys')}" in lines
    twin = [line for line in lines if line.startswith("fbgemm")]
    expected = "fbgemm-gpu-cpu" if "+cpu" in version("torch") else "fbgemm-gpu"
    assert twin == [f"{expected}=={version(expected)}"]
    copied = {path.relative_to(saved / "artifacts" / "bundle") for path in (saved / "artifacts" / "bundle").rglob("*")}
    assert copied == {path.relative_to(bundle) for path in bundle.rglob("*")}
    assert not any(path.is_symlink() for path in saved.rglob("*"))
    text = "".join((saved / name).read_text() for name in ("MLmodel", "conda.yaml", "python_env.yaml"))
    assert str(bundle.parent) not in text and str(Path(__file__).parents[2]) not in text
    example = json.loads((saved / "input_example.json").read_text())
    assert example["inputs"]["data"] == [["somebody", ["100", "101", "102"]]]
    with pytest.raises(ArtefactError, match="exists; remove it"):
        save_logged(bundle, saved)
    with pytest.raises(ArtefactError, match="no saved model here"):
        save_logged(tmp_path, tmp_path / "new")
    with pytest.raises(ArtefactError, match="no saved model here"):
        log_model(tmp_path, uri="sqlite:////nowhere")
    assert not list(tmp_path.iterdir())


def test_only_what_the_manifest_names_goes_along(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "model")
    (tmp_path / "model" / "notes.pkl").write_bytes(b"anything")
    save_logged(tmp_path / "model", tmp_path / "served")
    assert not list((tmp_path / "served").rglob("*.pkl"))
    assert Model.load(str(tmp_path / "served")).metadata == {"recsys": SavedBundle.of(bundle).facts}


def test_the_package_of_a_class_is_required() -> None:
    assert requirements("recsys.models.popularity.Popularity")[0] == f"recsys=={version('recsys')}"
    assert f"rich=={version('rich')}" in requirements("rich.console.Console")
    assert len(requirements("nowhere.at.All")) == len(requirements("recsys.models.popularity.Popularity"))


@pytest.mark.parametrize("file", ["weights.safetensors", "vocabulary.item_id.parquet", "serving.json", "schema.json"])
def test_an_altered_file_is_refused_by_its_name(bundle: Path, tmp_path: Path, file: str) -> None:
    save_logged(bundle, tmp_path / "served")
    path = tmp_path / "served" / "artifacts" / "bundle" / file
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match=f"{file}: altered since it was saved"):
        mlflow.pyfunc.load_model(str(tmp_path / "served"))
    with pytest.raises(ArtefactError, match=f"{file}: altered since it was saved"):
        save_logged(path.parent, tmp_path / "again")
    path.unlink()
    with pytest.raises(ArtefactError, match=f"{file}: missing"):
        mlflow.pyfunc.load_model(str(tmp_path / "served"))


def test_a_model_without_its_vocabularies_is_refused(searching: Served, tmp_path: Path) -> None:
    save_model(searching.bundle.model, tmp_path / "bare")
    with pytest.raises(ArtefactError, match=r"serving\.json: missing; this model was saved without what serving"):
        save_logged(tmp_path / "bare", tmp_path / "served")


def test_logged_registered_and_called_by_its_version(
    searching: Served, bundle: Path, uri: str, in_store: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(uri)
    experiment = client.create_experiment("shop jobs", artifact_location=Path(uri[10:]).parent.joinpath("a").as_uri())
    run = client.create_run(experiment)
    first = log_model(bundle, run_id=run.info.run_id, registered_model_name="shop", uri=uri)
    second = log_model(bundle, name="other", registered_model_name="shop", uri=uri)
    assert (first.registered_model_version, second.registered_model_version) == (1, 2)
    assert first.metadata == {"recsys": SavedBundle.of(bundle).facts} and first.signature == signature()
    logged = client.get_logged_model(first.model_id)
    assert (logged.name, logged.status, logged.source_run_id) == ("model", "READY", run.info.run_id)
    assert logged.model_type == "recsys.models.synergen.SynerGen"
    (output,) = client.get_run(run.info.run_id).outputs.model_outputs
    assert output.model_id == first.model_id
    assert client.get_experiment(client.get_logged_model(second.model_id).experiment_id).name == "shop"
    client.set_registered_model_alias("shop", "champion", "2")
    registered = client.get_model_version("shop", "1")
    assert (registered.source, registered.run_id) == (first.model_uri, run.info.run_id)

    expected = searching.server.answer(asked(searching), ServingParams(k=4))
    for name, called in (
        (first.model_uri, first.model_id),
        ("models:/shop/1", "1"),
        ("models:/shop@champion", "2"),
        (second.model_uri, second.model_id),
    ):
        answers = mlflow.pyfunc.load_model(name).predict(asked(searching), {"k": 4})
        assert set(answers["model_version"]) == {called}
        pd.testing.assert_frame_equal(without_version(answers), without_version(expected), rtol=1e-5)
    place = Path(client.get_logged_model(second.model_id).artifact_location.removeprefix("file://"))
    assert not any(path.is_symlink() for path in place.rglob("*"))
    content = yaml.safe_load((place / "MLmodel").read_text())
    assert content["model_id"] == second.model_id and "run_id" not in content


def test_a_store_that_fails_in_the_middle_leaves_no_model_that_looks_whole(
    bundle: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MlflowClient, "log_model_artifacts", refuse)
    with pytest.raises(TrackingError, match="no space left"):
        log_model(bundle, name="broken", uri=uri)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("shop").experiment_id
    found = client.search_logged_models([experiment], filter_string="name = 'broken'")
    assert [model.status for model in found] == ["FAILED"]


def test_what_a_store_does_not_take_of_a_run_waits(
    searching: Served, bundle: Path, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    rule = LeaveLastOut()
    record = RunRecord.of("shop jobs", "SynerGen", {}, searching.split, rule, "cache/x", {"everything": 3})
    shutil.copytree(bundle, folder.model)
    run = MLflowRun.start(record, uri=uri, folder=folder)
    with monkeypatch.context() as down:
        down.setattr(MlflowClient, "log_model_artifacts", refuse)
        with pytest.warns(UserWarning, match="MLflow did not take the model: no space left"):
            assert run.log_model(folder) is None
        record.status = "finished"
        record.write(folder.path)
        with pytest.warns(UserWarning, match="recsys sync"):
            run.finish(record, folder)
    assert MLflowRun.catch_up(folder, uri) and not MLflowRun.catch_up(folder, uri)
    (output,) = MlflowClient(uri).get_run(run.run_id).outputs.model_outputs
    assert MlflowClient(uri).get_logged_model(output.model_id).status == "READY"


def test_requests_that_the_signature_refuses(searching: Served, saved: Path) -> None:
    model = mlflow.pyfunc.load_model(str(saved))
    for columns in (
        {"history": [["101"]], "query": [3]},
        {"history": ["101"]},
        {"history": [[101]]},
        {"history": [["101"]], "history_times": [["x"]]},
        {"history": [["101"]], "candidates": ["102"]},
    ):
        with pytest.raises(MlflowException, match="enforce schema"):
            model.predict(pd.DataFrame(columns))
    for params in ({"k": "ten"}, {"allow": "101"}, {"filter_seen": "no"}):
        with pytest.raises(MlflowException, match="Invalid parameters"):
            model.predict(pd.DataFrame({"history": [["101"]]}), params)


def test_requests_that_the_model_refuses_are_bad_requests(searching: Served, saved: Path) -> None:
    model = mlflow.pyfunc.load_model(str(saved))
    for columns, params, message in (
        ({"user_id": ["501"]}, {}, "row 0: SynerGen cannot tell user `501` by id; give `history`"),
        (
            {"history": [[]], "candidates": [["101", "nope"]]},
            {},
            "row 0: the model does not know the candidates `nope`",
        ),
        ({"history": [[]]}, {"k": 0}, "k must be at least 1"),
        ({"history": [[]]}, {"allow": ["nope"]}, "allow: the model knows none"),
    ):
        with pytest.raises(MlflowException, match=message) as caught:
            model.predict(pd.DataFrame(columns), params)
        assert caught.value.get_http_status_code() == 400


def test_models_that_read_no_queries_and_that_know_users(tmp_path: Path) -> None:
    made = served(factors, queries=False)
    made.bundle.save(tmp_path / "model")
    save_logged(tmp_path / "model", tmp_path / "served")
    model = mlflow.pyfunc.load_model(str(tmp_path / "served"))
    frame = pd.DataFrame({"user_id": [str(user) for user in made.log.users.decode([1, 2, 3])]})
    expected = made.server.answer(frame, ServingParams())
    pd.testing.assert_frame_equal(without_version(model.predict(frame)), without_version(expected), rtol=1e-5)
    with pytest.raises(MlflowException, match="the model reads no queries"):
        model.predict(frame.assign(query="red"))
