"""The server of a team for real: accounts, a kill under load, a backup brought back, and what is removed for good."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import psycopg
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from recsys.cli.doctor import answer_to_account, tracking_problem
from recsys.cli.sync import main as sync
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import GlobalTime
from recsys.tracking.mlflow_run import MLflowRun
from recsys.tracking.record import RunRecord
from recsys.tracking.run_folder import RunFolder
from recsys.tracking.unsent import UNSENT
from tests.system.servers import ADMIN, PASSWORD, SERVER, TeamServer, postgres, s3, wait_until

HERE = Path(__file__).parent
WRITERS, EPOCHS = 3, 5
PASSWORDS = {name: f"a password for the {name}" for name in ("reader", "trainer", "promoter", "changing")}
FORBIDDEN = r"403|Permission denied"

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@contextmanager
def account(name: str) -> Iterator[None]:
    """Calls of MLflow clients in this process are those of an account."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", name)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", {ADMIN: PASSWORD, **PASSWORDS}[name])
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        yield


@pytest.fixture(scope="module")
def services() -> Iterator[dict[str, str]]:
    with postgres() as database, s3() as files:
        yield database | files


@pytest.fixture(scope="module")
def scripts(services: dict[str, str]) -> Iterator[None]:
    """The scripts of `mlflow_server` can be imported, and the services are said by the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SERVER))
        for name, value in services.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def server(services: dict[str, str], scripts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServer]:
    """A server with an account of each role."""
    from mlflow.server.auth.client import AuthServiceClient
    from roles import set_role

    server = TeamServer("team", services, tmp_path_factory.mktemp("server"))
    server.start()
    try:
        with account(ADMIN), pytest.MonkeyPatch.context() as patch:
            for name, role in {
                **{role: role for role in ("reader", "trainer", "promoter")},
                "changing": "trainer",
            }.items():
                patch.setenv("NEW_USER_PASSWORD", PASSWORDS[name])
                set_role(AuthServiceClient(server.url), name, role)
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def client(server: TeamServer) -> MlflowClient:
    return MlflowClient(server.url)


@pytest.fixture(scope="module")
def champion(client: MlflowClient) -> dict[str, str]:
    """A registered version with alias, tags, description and a file, by the promoter."""
    with account("promoter"):
        client.create_registered_model("shop", tags={"owner": "search"}, description="what the shop recommends with")
        run = client.create_run(client.create_experiment("champions")).info
        client.log_text(run.run_id, "weights", "model/weights.txt")
        client.log_metric(run.run_id, "test/ndcg_at_10", 0.25)
        version = client.create_model_version(
            "shop", f"{run.artifact_uri}/model", run.run_id, tags={"recsys.verdict": "passed"}, description="a card"
        ).version
        client.set_registered_model_alias("shop", "champion", version)
    return {"run": run.run_id, "version": version, "source": f"{run.artifact_uri}/model"}


def status(url: str, user: str | None = None, password: str = "") -> int:
    request = urllib.request.Request(url)
    if user is not None:
        request.add_header("Authorization", "Basic " + b64encode(f"{user}:{password}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_anonymous_gets_nothing_but_whether_it_is_up(server, champion):
    assert status(f"{server.url}/health") == 200
    asked = [
        "/",
        "/api/2.0/mlflow/experiments/search?max_results=1",
        "/api/2.0/mlflow/registered-models/alias?name=shop&alias=champion",
        f"/api/2.0/mlflow-artifacts/artifacts?path={champion['source'].partition(':/')[2].lstrip('/')}",
        f"/get-artifact?run_uuid={champion['run']}&path=model/weights.txt",
        f"/ajax-api/2.0/mlflow/runs/get?run_id={champion['run']}",
    ]
    assert {path: status(server.url + path) for path in asked} == dict.fromkeys(asked, 401)
    assert status(server.url + asked[1], "reader", "a wrong password") == 401
    assert status(server.url + asked[1], "reader", PASSWORDS["reader"]) == 200


def test_the_doctor_sees_whether_the_account_is_right(server):
    with account("reader"), pytest.MonkeyPatch.context() as patch:
        assert tracking_problem(server.url) is None
        assert answer_to_account(server.url) == (200, "reader")
        patch.setenv("MLFLOW_TRACKING_PASSWORD", "a wrong password")
        assert answer_to_account(server.url) == (401, "reader")


def test_a_reader_reads_and_changes_nothing(client, champion, tmp_path):
    with account("reader"):
        assert client.get_model_version_by_alias("shop", "champion").version == champion["version"]
        found = client.download_artifacts(champion["run"], "model/weights.txt", str(tmp_path))
        assert Path(found).read_text() == "weights"
        experiment = client.get_run(champion["run"]).info.experiment_id
        for change in (
            lambda: client.set_registered_model_alias("shop", "champion", champion["version"]),
            lambda: client.delete_registered_model_alias("shop", "champion"),
            lambda: client.set_model_version_tag("shop", champion["version"], "recsys.verdict", "passed"),
            lambda: client.create_model_version("shop", champion["source"], champion["run"]),
            lambda: client.rename_registered_model("shop", "mine"),
            lambda: client.create_registered_model("a reader's"),
            lambda: client.create_experiment("a reader's"),
            lambda: client.create_run(experiment),
            lambda: client.log_metric(champion["run"], "test/ndcg_at_10", 1.0),
            lambda: client.log_text(champion["run"], "others", "model/weights.txt"),
        ):
            with pytest.raises(Exception, match=FORBIDDEN):
                change()


def test_a_trainer_trains_and_does_not_promote(client, champion):
    with account("trainer"):
        run = client.create_run(client.create_experiment("a trainer's")).info.run_id
        client.log_metric(run, "loss", 1.0)
        client.log_text(run, "weights", "model/weights.txt")
        for change in (
            lambda: client.create_model_version("shop", champion["source"], champion["run"]),
            lambda: client.set_registered_model_alias("shop", "champion", champion["version"]),
            lambda: client.delete_registered_model_alias("shop", "champion"),
            lambda: client.set_model_version_tag("shop", champion["version"], "recsys.verdict", "passed"),
            lambda: client.delete_run(champion["run"]),
        ):
            with pytest.raises(MlflowException, match=FORBIDDEN):
                change()
    with account("promoter"):
        client.set_registered_model_alias("shop", "previous", champion["version"])
        client.delete_registered_model_alias("shop", "previous")


def test_who_gets_another_role_loses_what_the_last_one_brought(server, client):
    from mlflow.server.auth.client import AuthServiceClient
    from roles import set_role

    with account("changing"):
        experiment = client.create_experiment("of one who changes")  # whose manager MLflow makes them
        client.create_run(experiment)
    with account(ADMIN):
        set_role(AuthServiceClient(server.url), "changing", "reader")
    with account("changing"):
        assert client.get_experiment(experiment).name == "of one who changes"
        with pytest.raises(MlflowException, match=FORBIDDEN):
            client.create_run(experiment)


def toy_arguments(folder: Path) -> list[str]:
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(60), random.integers(4, 10, 60))
    events = pd.DataFrame({"user_id": user, "item_id": random.integers(0, 30, len(user))})
    events["timestamp"] = 1_500_000_000 + random.permutation(len(events)) * 3600
    events.drop_duplicates(["user_id", "item_id"]).to_parquet(folder / "events.parquet")
    (folder / "schema.yaml").write_text("name: toy\n")
    return [
        f"--data.schema={folder / 'schema.yaml'}",
        f"--data.events={folder / 'events.parquet'}",
        f"--data.cache={folder / 'cache'}",
        "--data.split=recsys.features.splits.LeaveLastOut",
        "--data.batch_size=16",
        "--model.network=recsys.models.synergen.SynerGen",
        "--model.network.width=16",
        "--model.objective=recsys.training.objective.RetrievalObjective",
        "--model.objective.negatives=recsys.features.negatives.Uniform",
        "--model.objective.negatives.n=8",
        f"--trainer.max_epochs={EPOCHS}",
        "--trainer.accelerator=cpu",
        "--job.baselines=[]",
        f"--job.folder={folder / 'run'}",
    ]


def as_trainer(server: TeamServer, **more: str) -> dict[str, str]:
    return os.environ | {
        "MLFLOW_TRACKING_URI": server.url,
        "MLFLOW_TRACKING_USERNAME": "trainer",
        "MLFLOW_TRACKING_PASSWORD": PASSWORDS["trainer"],
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "OMP_NUM_THREADS": "1",
        **more,
    }


def record_of_a_short_job() -> RunRecord:
    random = np.random.default_rng(0)
    frame = {"user_id": random.integers(0, 30, 200), "item_id": random.integers(0, 25, 200), "timestamp": range(200)}
    rule = GlobalTime(0.3, 0.1)
    split = rule(EventLog.from_frame(pd.DataFrame(frame), Schema(name="toy")))
    return RunRecord.of("short", "Popularity", {"width": 8}, split, rule, "cache/x", {"all": 3})


def test_a_kill_under_load_loses_nothing_that_was_acknowledged(server, client, tmp_path, capsys):
    """Several writers, a training, and a short job that ends while the server is down."""
    with account("trainer"):
        runs = [client.create_run(client.create_experiment(f"writer {n}")).info.run_id for n in range(WRITERS)]
        short, folder = record_of_a_short_job(), RunFolder(tmp_path / "short")
        job = MLflowRun.start(short, uri=server.url, folder=folder)
        job.log_metrics({"loss": 3.0}, 1)
    stop, printed = tmp_path / "stop", [tmp_path / f"writer{n}" for n in range(WRITERS)]
    training = subprocess.Popen(
        [sys.executable, str(HERE / "train_and_wait.py"), *toy_arguments(tmp_path)],
        env=as_trainer(server, WAIT_AT="2,4", FOLDER=str(tmp_path)),
        cwd=HERE.parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    writers = []
    for run, path in zip(runs, printed, strict=True):
        with path.open("w") as file:
            words = [sys.executable, str(HERE / "write_metrics.py"), server.url, run, "value", str(stop)]
            writers.append(subprocess.Popen(words, env=as_trainer(server), stdout=file))

    def lines(path: Path) -> list[str]:
        return path.read_text().splitlines()

    def all_lines(enough) -> bool:
        assert not [writer for writer in writers if writer.poll() is not None]
        return all(enough(lines(path)) for path in printed)

    try:
        wait_until(lambda: all_lines(lambda found: len(found) > 10), "the writers write")
        wait_until(lambda: (tmp_path / "at2").exists() or training.poll() is not None, "the training is under way")
        assert training.poll() is None, training.communicate()[0]
        server.kill()
        (tmp_path / "go2").touch()
        with account("trainer"):
            job.log_metrics({"loss": 2.0}, 2)
            short.status = "finished"
            short.write(folder.path)
            job.finish(short, folder)
        wait_until(lambda: (tmp_path / "at4").exists() or training.poll() is not None, "the training goes on")
        assert training.poll() is None, training.communicate()[0]
        wait_until(lambda: all_lines(lambda found: "refused" in found), "the writers are refused")
        assert (tmp_path / "run" / UNSENT).exists()

        server.start()
        (tmp_path / "go4").touch()
        wait_until(lambda: all_lines(lambda found: len(found) - 1 - found[::-1].index("refused") < len(found) - 10
                                     if "refused" in found else False), "the writers write again")  # fmt: skip
        stop.touch()
        output = training.communicate(timeout=120)[0]
        assert training.returncode == 0, output
        assert [writer.wait(timeout=60) for writer in writers] == [0] * WRITERS
    finally:
        for process in (*writers, training):
            process.kill()

    with account("reader"):
        for run, path in zip(runs, printed, strict=True):
            acknowledged = {int(step) for line in lines(path) if line != "refused" for step in line.split()}
            found = client.get_metric_history(run, "value")
            assert acknowledged <= {point.step for point in found}
            assert all(point.value == point.step for point in found)
            assert len(found) == len({point.step for point in found})

        record, history = RunRecord.read(tmp_path / "run"), RunFolder(tmp_path / "run").history("validation")
        assert record.status == "finished" and record.mlflow is not None and len(history) == EPOCHS
        run = client.get_run(record.mlflow["run"])
        assert run.info.status == "FINISHED"
        seen = client.get_metric_history(run.info.run_id, "val/ndcg_at_10")
        assert len(seen) == EPOCHS == len(client.get_metric_history(run.info.run_id, "train/loss"))
        assert not (tmp_path / "run" / UNSENT).exists()
        assert "run.json" in {file.path for file in client.list_artifacts(run.info.run_id)}

    with account("trainer"):  # the short job had ended: only a command can send what it left
        assert [point.value for point in client.get_metric_history(job.run_id, "loss")] == [3.0]
        assert sync([str(folder.path)]) == 0
        assert [point.value for point in client.get_metric_history(job.run_id, "loss")] == [3.0, 2.0]
        assert client.get_run(job.run_id).info.status == "FINISHED"


def everything(client: MlflowClient) -> dict[str, object]:
    """What a server knows, as far as clients see it."""
    models = {
        model.name: {
            "tags": model.tags,
            "description": model.description,
            "aliases": {alias: str(version) for alias, version in model.aliases.items()},
            "versions": {
                str(version.version): (version.source, version.run_id, version.tags, version.description)
                for version in client.search_model_versions(f"name = '{model.name}'")
            },
        }
        for model in client.search_registered_models()
    }
    runs: dict[str, object] = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id], max_results=1000):
            histories = {
                key: [
                    (point.step, point.value, point.timestamp)
                    for point in client.get_metric_history(run.info.run_id, key)
                ]
                for key in run.data.metrics
            }
            runs[run.info.run_id] = (experiment.name, run.info.status, run.data.params, run.data.tags, histories)
    return {"models": models, "runs": runs}


def test_a_backup_brought_into_an_empty_server_is_the_same_server(server, client, champion, services, tmp_path, capsys):
    from alembic import command
    from backup import save
    from mlflow.db import commands
    from mlflow.store.db.utils import _get_alembic_config, _get_schema_version, create_sqlalchemy_engine
    from restore import restore

    with account("reader"):
        before = everything(client)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        place = save(tmp_path / "backups", keep=1)
        with pytest.raises(SystemExit, match="has tables; a backup is brought into an empty one only"):
            restore(place)
    assert [path.name for path in (tmp_path / "backups").iterdir()] == [place.name]
    assert place.stat().st_mode & 0o077 == 0

    other = TeamServer("restored", services, tmp_path / "restored")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in other.environment.items():
            patch.setenv(name, value)
        saved = next(path for path in (place / "artifacts").rglob("weights.txt"))
        saved.write_text("altered")
        with pytest.raises(SystemExit, match=r"not as it was saved: .*weights\.txt"):
            restore(place)
        saved.write_text("weights")
        patch.setenv("MLFLOW_ARTIFACTS_DESTINATION", server.environment["MLFLOW_ARTIFACTS_DESTINATION"])
        with pytest.raises(SystemExit, match=r"s3://team .* holds files; a backup is brought into an empty one only"):
            restore(place)
        patch.setenv("MLFLOW_ARTIFACTS_DESTINATION", other.environment["MLFLOW_ARTIFACTS_DESTINATION"])
        manifest = json.loads((place / "manifest.json").read_text())
        (place / "manifest.json").write_text(json.dumps(manifest | {"mlflow": "3.0.0"}))
        restore(place)
        assert "run `mlflow db upgrade" in capsys.readouterr().out

        # As if it had been saved by an older MLflow: its newest change of the tables is taken back.
        uri = other.environment["MLFLOW_BACKEND_STORE_URI"]
        engine = create_sqlalchemy_engine(uri)
        with engine.begin() as connection:
            config = _get_alembic_config(str(engine.url))
            config.attributes["connection"] = connection
            newest = _get_schema_version(engine)
            command.downgrade(config, "-1")
        assert _get_schema_version(engine) != newest
        commands.main(["upgrade", uri], standalone_mode=False)
        assert _get_schema_version(engine) == newest
        engine.dispose()

    other.start()
    try:
        restored = MlflowClient(other.url)
        with account("reader"):  # accounts and roles are in the backup
            assert everything(restored) == before
            assert restored.get_model_version_by_alias("shop", "champion").version == champion["version"]
            found = restored.download_artifacts(champion["run"], "model/weights.txt", str(tmp_path))
            assert Path(found).read_text() == "weights"
            with pytest.raises(MlflowException, match=FORBIDDEN):
                restored.set_registered_model_alias("shop", "champion", champion["version"])
    finally:
        other.kill()


def test_old_backups_are_removed_and_nothing_else(scripts, tmp_path):
    from backup import prune

    for name in ("20260101T000000Z", "20260102T000000Z", "20260103T000000Z"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
    for name in (".20260102T120000Z.part", "20260101T120000Z", "notes"):  # one did not end, two are no backups
        (tmp_path / name).mkdir()
    prune(tmp_path, 2)
    kept = {"20260102T000000Z", "20260103T000000Z", "20260101T120000Z", "notes"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_what_a_version_needs_is_kept_and_the_rest_removed(server, client, champion, services):
    import retention

    with account("promoter"):
        other = client.create_run(client.get_run(champion["run"]).info.experiment_id).info
        client.log_text(other.run_id, "old", "old.txt")
        client.delete_run(other.run_id)
        client.delete_run(champion["run"])
    with account(ADMIN), pytest.MonkeyPatch.context() as patch:
        for name, value in {**server.environment, "MLFLOW_TRACKING_URI": server.url}.items():
            patch.setenv(name, value)
        for days, removed in (("1", False), ("0", True)):
            patch.setattr(sys, "argv", ["retention.py", "--days", days])
            try:
                retention.main()
            finally:  # `mlflow gc` leaves its store to the process, which ends with the script but not here
                mlflow.set_tracking_uri(None)
                patch.setenv("MLFLOW_TRACKING_URI", server.url)
            with psycopg.connect(server.database()) as connection:
                rows = connection.execute(
                    "SELECT lifecycle_stage FROM runs WHERE run_uuid = %s", [other.run_id]
                ).fetchall()
            assert rows == ([] if removed else [("deleted",)])
    with account("reader"):
        assert client.get_run(champion["run"]).info.lifecycle_stage == "active"
        assert client.list_artifacts(champion["run"], "model")[0].path == "model/weights.txt"
    import boto3

    listed = boto3.client("s3", endpoint_url=services["MLFLOW_S3_ENDPOINT_URL"]).list_objects_v2(Bucket=server.name)
    keys = [item["Key"] for item in listed["Contents"]]
    assert not [key for key in keys if other.run_id in key] and [key for key in keys if champion["run"] in key]


def test_who_has_which_role_is_listed(server, monkeypatch, capsys):
    import roles

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setattr(sys, "argv", ["roles.py", "list"])
    with account(ADMIN):
        roles.main()
    listed = {"admin administrator", "reader reader", "trainer trainer", "promoter promoter"}
    assert {line for line in capsys.readouterr().out.splitlines() if not line.startswith("changing")} == listed


def test_one_script_at_a_time(server, monkeypatch):
    from maintenance import alone

    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    with alone(), pytest.raises(SystemExit, match="is running on this database"), alone():
        pass
