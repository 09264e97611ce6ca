"""`recsys candidates`: from a run and a log to lists, and what it says of wrong input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recsys.candidates import part as part_module
from recsys.candidates.data_contract import DataContract
from recsys.candidates.files import JobError
from recsys.candidates.publishing import RefusedError
from recsys.cli.candidates import config_of, main, parser
from recsys.cli.main import run as run_command
from recsys.features.tables import DataError
from recsys.tracking.run_folder import RunFolder
from tests.tracking.stores import empty_store


def arguments(run: RunFolder, out: Path, *words: str) -> list[str]:
    return [str(run.path), "--log", run.record.data["folder"], "--out", str(out), "--name", "night", "--k", "5", *words]


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def lists(out: Path) -> pd.DataFrame:
    return pd.read_parquet(sorted((out / "night").glob("part-*.parquet")))


def test_lists_of_all_users(finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = arguments(finished, tmp_path, "--users_per_part", "20")
    found = ask(capsys, *words)
    assert (found["users"], found["rows"], found["parts"], found["parts_made"]) == (30, 150, 2, 2)
    assert lists(tmp_path).groupby("user_id").size().eq(5).all()
    assert main(words) == 0  # again: nothing is made twice
    shown = capsys.readouterr().out
    assert "0 of 2" in shown and "night" in shown and "150" in shown


def test_sources_order_and_lists_from_a_file(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deny").write_text("100\n101\nnothing\n")
    (tmp_path / "job.yaml").write_text(
        f"""
        log: {finished.record.data["folder"]}
        out: {tmp_path / "out"}
        name: night
        k: 6
        deny: ["@{tmp_path / "deny"}"]
        sources:
          - class_path: recsys.candidates.sources.ItemItemSource
            init_args: {{quota: 2, neighbours: 10}}
          - class_path: recsys.candidates.sources.ModelSource
            init_args: {{quota: 3}}
          - class_path: recsys.candidates.sources.PopularitySource
        order:
          class_path: recsys.retrieval.merging.BySource
        """
    )
    found = ask(capsys, str(finished.path), "--config", str(tmp_path / "job.yaml"))
    rows = lists(tmp_path / "out")
    counts = rows.groupby(["user_id", "source"]).size().unstack(fill_value=0)
    assert found["counts"] == {"catalogue": 25, "deny_items": 2, "deny_unknown": 1}
    assert not {100, 101} & set(rows["item_id"])
    assert counts["item_item"].max() == 2 and counts["model"].eq(3).all() and counts.sum(axis=1).eq(6).all()
    places = rows.groupby("source")["rank"].agg(["min", "max"])
    assert places.loc["item_item"].tolist() == [1, 2] and places.loc["popularity", "max"] == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--k", "0"], "k must be at least 1"),
        (["--name", "a/b"], "name `a/b`: is the name of a folder"),
        (["--retrieve", "3"], "retrieve 3: fewer than k"),
        (["--cap", "2"], "a cap needs the feature"),
        (["--cap", "2", "--cap_by", "brand"], "cap_by: neither model nor log know a categorical feature `brand`"),
        (["--rank"], "rank: SynerGen has no ranking head"),
        (["--memory_gib", "0.01"], "memory_gib 0.01: model and log take .* give at least"),
        (["--users", "gone.parquet"], "--users: gone.parquet: no such file"),
        (["--user_deny", "gone.parquet"], "--user_deny: gone.parquet: no such file"),
        (["--deny", "@gone"], "--deny: gone cannot be read"),
        (["--allow", "nothing"], "--allow: the model knows none of the 1 items"),
        (["--previous", "yesterday"], "yesterday: not complete"),
        (["--device", "gpu"], "device `gpu`: cannot be used here .*: give `cpu`"),
        (["--users", __file__], r"--users: .* cannot be read: [^\n]*$"),
    ],
)
def test_wrong_settings_are_one_sentence(finished: RunFolder, tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(JobError, match=message):
        main(arguments(finished, tmp_path, *words))


def test_wrong_models_and_logs_are_one_sentence(finished: RunFolder, tmp_path: Path) -> None:
    words = arguments(finished, tmp_path)
    with pytest.raises(JobError, match="no run and no saved model here"):
        main([str(tmp_path), *words[1:]])
    with pytest.raises(JobError, match="a registered model is named models:/NAME@ALIAS"):
        main(["models:/shop", *words[1:]])
    with pytest.raises(DataError, match="no such file, folder or pattern"):
        main([words[0], "--log", "gone", *words[3:]])
    with pytest.raises(SystemExit):
        main(words[1:])


def test_an_unreadable_partition_of_the_log_is_named(finished: RunFolder, tmp_path: Path) -> None:
    log = finished.log().to_frame()
    (tmp_path / "log").mkdir()
    for part in range(3):
        log[part::3].to_parquet(tmp_path / "log" / f"part-{part}.parquet", row_group_size=10)
    bad = tmp_path / "log" / "part-1.parquet"
    content = bytearray(bad.read_bytes())
    content[60:400] = bytes(340)
    bad.write_bytes(content)
    words = arguments(finished, tmp_path / "out")
    with pytest.raises(DataError, match=r"part-1\.parquet: this file of the log cannot be read .*bring it back"):
        main([words[0], "--log", str(tmp_path / "log"), *words[3:]])
    bad.write_bytes(b"PAR1")  # another log by now: nothing was made of the one before
    with pytest.raises(DataError, match=r"part-1\.parquet: this file"):
        main([words[0], "--log", str(tmp_path / "log"), *words[3:]])


def test_ctrl_c_says_how_to_go_on(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import EntryPoint

    words = arguments(finished, tmp_path, "--users_per_part", "10")
    real = part_module.PartWorker.make

    def interrupted(worker: part_module.PartWorker, part: int) -> Any:
        if part == 2:
            raise KeyboardInterrupt
        return real(worker, part)

    monkeypatch.setattr(part_module.PartWorker, "make", interrupted)
    command = EntryPoint("candidates", "recsys.cli.candidates:main", "recsys.commands")
    assert run_command("candidates", command, words) == 130
    said = capsys.readouterr().err
    assert "finished parts are kept in" in said and "--name night" in said
    monkeypatch.undo()
    assert ask(capsys, *words)["parts_made"] == 1


def test_nights_are_published_followed_and_gone_back_from(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*arguments(finished, tmp_path, "--publish"), "--name"]
    with pytest.raises(JobError, match="incremental: nothing is published in"):
        main([*words, "monday", "--incremental"])
    (tmp_path / "limits.yaml").write_text("short_users: {refuse: null}\ncoverage: {refuse: 1.5}\n")
    limits = ["--contract", str(tmp_path / "limits.yaml")]
    with pytest.raises(RefusedError, match=r"complete, but not published: coverage: .*nothing is published"):
        main([*words, "monday", *limits])
    assert ask(capsys, "--out", str(tmp_path), "--status")["current"] is None
    assert ask(capsys, *words, "monday")["parts_made"] == 0  # the lists are there, and held by the usual limits
    tuesday = ask(capsys, *words, "tuesday", "--incremental")
    assert tuesday["counts"]["kept"] == 30 and {found["level"] for found in tuesday["findings"]} == {"ok"}
    assert ask(capsys, *words, "tuesday", "--incremental")["findings"] == []  # again, though it is published by now
    assert main([*words, "tuesday", "--incremental"]) == 0
    assert "tuesday is published already" in capsys.readouterr().out
    status = ask(capsys, "--out", str(tmp_path), "--status")
    assert (status["current"], status["before"]) == ("tuesday", ["monday"])
    assert [(job["name"], job["state"]) for job in status["jobs"]] == [
        ("monday", "published before"),
        ("tuesday", "published"),
    ]
    assert main(["--out", str(tmp_path), "--rollback"]) == 0
    assert "monday is published again" in capsys.readouterr().out
    assert main(["--out", str(tmp_path), "--status"]) == 0
    shown = capsys.readouterr().out
    assert "rolled back monday, instead of tuesday" in shown and "complete" in shown
    with pytest.raises(JobError, match="nothing was published before"):
        main(["--out", str(tmp_path), "--rollback"])


@pytest.mark.parametrize("given", [["--publish", "--keep", "0"], ["--keep", "3"], ["--contract", "limits.yaml"]])
def test_how_to_publish_is_checked_before_anything_is_made(
    finished: RunFolder, tmp_path: Path, given: list[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments(finished, tmp_path / "out", *given))
    assert not (tmp_path / "out").exists()


def test_the_contract_is_printed_as_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print_contract"]) == 0
    (tmp_path / "contract.yaml").write_text(capsys.readouterr().out)
    assert DataContract.read(tmp_path / "contract.yaml") == DataContract()


def test_the_name_is_the_date_where_none_is_given(finished: RunFolder, tmp_path: Path) -> None:
    given = parser().parse_args([str(finished.path), "--log", "log", "--out", str(tmp_path)]).as_dict()
    config = config_of(given)
    assert len(config.name) == 10 and config.name[4] == "-" and config.filter_seen


def test_mlflow_is_told(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    uri = empty_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    ask(capsys, *arguments(finished, tmp_path, "--track"))
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("candidates").experiment_id])
    assert run.info.status == "FINISHED" and run.data.metrics["users"] == 30 and run.data.params["k"] == "5"
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["manifest.json"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    capsys.readouterr()
    assert main(arguments(finished, tmp_path, "--track")) == 0
    assert capsys.readouterr().err.startswith("recsys candidates: MLflow was not told of night: ")
