from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from _row import REFIT, STRICT, Row
from _runs import Run, best_epochs, drive, environment, is_finished, with_first

PROGRAM = """
import json, pathlib, sys, time
folder, resume, behaviour = pathlib.Path(sys.argv[1]), sys.argv[2] == "True", sys.argv[3]
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
with open(folder.parent / "starts", "a") as starts:
    starts.write(("resumed" if resume else "started") + "\\n")
if behaviour == "fails":
    sys.exit("no luck")
if behaviour == "waits" and not resume:
    try:
        (folder / "ready").touch()
        time.sleep(60)
    except KeyboardInterrupt:
        (folder / "checkpoints" / "last.ckpt").touch()
        sys.exit(130)
(folder / "run.json").write_text(json.dumps({"status": "finished"}))
"""


@dataclass(frozen=True)
class Fake(Run):
    behaviour: str = "works"
    asked: str = "settings"

    def settings(self):
        return {"of": self.asked}

    def fingerprint(self):
        return self.asked

    def command(self, resume):
        behaviour = "works" if self.row.protocol == REFIT else self.behaviour
        return [sys.executable, "-c", PROGRAM, str(self.folder), str(resume), behaviour]


def fake(tmp_path, protocol=STRICT, seed=0, **more) -> Fake:
    return Fake(Row("toy", protocol, "net"), seed, tmp_path, **more)


def starts(run: Run) -> list[str]:
    return (run.folder.parent / "starts").read_text().split()


def test_runs_are_worked_through_once(tmp_path):
    runs = [fake(tmp_path, seed=seed) for seed in range(3)]
    assert drive(runs, workers=2) == []
    assert [run.state() for run in runs] == ["done"] * 3
    assert drive(runs, workers=2) == []
    assert starts(runs[0]) == ["started"] * 3


def test_a_refit_comes_after_its_strict_run_and_not_without_it(tmp_path, capsys):
    refit = fake(tmp_path, REFIT)
    runs = with_first([refit, refit])
    assert [run.row.protocol for run in runs] == [STRICT, REFIT]
    assert drive(runs, workers=2) == []

    broken = with_first([fake(tmp_path / "other", REFIT, behaviour="fails")])
    assert drive(broken, workers=2) == broken
    assert broken[1].state() == "new"
    said = capsys.readouterr().out
    assert "no luck" in said
    assert "left out" in said


def test_a_run_of_other_settings_is_left_alone_until_it_is_to_be_repeated(tmp_path):
    drive([fake(tmp_path)], workers=1)
    changed = fake(tmp_path, asked="others")
    assert changed.state() == "changed"
    assert drive([changed], workers=1) == [changed]
    assert starts(changed) == ["started"]
    assert drive([changed], workers=1, again=True) == []
    assert starts(changed) == ["started"] * 2


def test_ctrl_c_reaches_the_processes_and_the_next_call_resumes(tmp_path):
    run = fake(tmp_path, behaviour="waits")

    def press():
        while not (run.folder / "ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        drive([run], workers=1)
    assert run.state() == "interrupted"
    assert drive([run], workers=1) == []
    assert starts(run) == ["started", "resumed"]


SEARCH_PROGRAM = """
import json, pathlib, sys
folder, step, behaviour = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
folder.mkdir(parents=True, exist_ok=True)
with open(folder.parent / "starts", "a") as starts:
    starts.write(step + "\\n")
if step == "fit":
    for task in ("search", "recommendation"):
        (folder / "evaluation" / f"Net.{task}").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "finished", "model": "Net"}))
elif behaviour == "fails once" and not (folder / "candidates").exists():
    (folder / "candidates" / "Net.search.candidates_99").mkdir(parents=True)
    sys.exit("killed")
elif behaviour != "does nothing":
    for number in (99, 999):
        (folder / "candidates" / f"Net.search.candidates_{number}").mkdir(parents=True, exist_ok=True)
"""


@dataclass(frozen=True)
class FakeSearch(Fake):
    def command(self, resume):
        return [sys.executable, "-c", SEARCH_PROGRAM, str(self.folder), self.step, self.behaviour]


def fake_search(tmp_path, tasks=("search",), **more) -> FakeSearch:
    return FakeSearch(Row("search_beauty", STRICT, "net", tasks=tasks, candidates=True), 0, tmp_path, **more)


def test_on_a_search_log_candidates_are_ranked_after_the_training(tmp_path):
    run = fake_search(tmp_path)
    assert run.state() == "new"
    assert drive([run], workers=1) == []
    assert run.state() == "done"
    assert drive([run], workers=1) == []
    assert starts(run) == ["fit", "rank"]


def test_a_ranking_that_broke_off_goes_on_without_another_training(tmp_path):
    run = fake_search(tmp_path, behaviour="fails once")
    assert drive([run], workers=1) == [run]
    assert run.state() == "interrupted"
    assert drive([run], workers=1) == []
    assert starts(run) == ["fit", "rank", "rank"]


def test_a_ranking_that_leaves_something_out_is_no_success(tmp_path):
    for number, run in enumerate(
        (fake_search(tmp_path / "a", behaviour="does nothing"), fake_search(tmp_path / "b", tasks=()))
    ):
        assert drive([run], workers=1) == [run], number
        assert starts(run) == ["fit", "rank"]


def test_a_training_whose_recipe_has_changed_meanwhile_is_not_thrown_away(tmp_path, capsys):
    """Between the two steps of a run, its fingerprint becomes another."""

    @dataclass(frozen=True)
    class Edited(FakeSearch):
        def fingerprint(self):
            return "new" if is_finished(self.folder) else "old"

    run = Edited(fake_search(tmp_path).row, 0, tmp_path)
    assert drive([run], workers=1) == [run]
    assert run.state() == "changed"
    assert "has changed meanwhile" in capsys.readouterr().out
    assert starts(run) == ["fit"]
    assert is_finished(run.folder)


def test_the_second_step_names_the_tasks_of_the_row_and_baselines_have_none(tmp_path):
    run = Run(fake_search(tmp_path).row, 0, tmp_path)
    assert run.step == "fit" and "fit" in run.command(resume=False)
    (run.folder / "evaluation" / "Net.search").mkdir(parents=True)
    (run.folder / "run.json").write_text(json.dumps({"status": "finished", "model": "Net"}))
    words = run.command(resume=True)
    assert words[1:] == ["experiments/_ranking.py", "--folder", str(run.folder), "--tasks", "search"]
    assert Run(Row("amazon_beauty", STRICT, "net"), 0, tmp_path).step == "fit"
    others = Row("search_beauty", STRICT, "lexical_bm25", candidates=True), Row("search_beauty", STRICT, "other")
    for row in others:
        other = Run(row, 0, tmp_path)
        (other.folder / "evaluation" / "Net.search").mkdir(parents=True)
        (other.folder / "run.json").write_text(json.dumps({"status": "finished", "model": "Net"}))
        assert other.step is None


def test_a_run_is_another_with_another_recipe_or_on_a_search_log_another_schema(tmp_path, monkeypatch):
    for folder in ("experiments", "features"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr("_runs.ROOT", tmp_path)

    def prints(recipe: str, schema: str) -> list[str]:
        for dataset in ("search_beauty", "amazon_beauty"):
            (tmp_path / "experiments" / f"{dataset}.yaml").write_text(recipe)
            (tmp_path / "features" / f"{dataset}.yaml").write_text(schema)
        rows = (
            ("search_beauty", "net"),
            ("search_beauty", "bm25"),
            ("amazon_beauty", "net"),
            ("amazon_beauty", "bm25"),
        )
        return [Run(Row(dataset, STRICT, model), 0, tmp_path).fingerprint() for dataset, model in rows]

    first = prints("width: 64", "pooling: mean")
    assert prints("width: 64  # wide enough", "pooling: mean") == first
    assert [a == b for a, b in zip(first, prints("width: 8", "pooling: mean"), strict=True)] == [
        False,
        True,
        False,
        True,
    ]
    assert [a == b for a, b in zip(first, prints("width: 64", "pooling: sum"), strict=True)] == [
        False,
        False,
        True,
        True,
    ]


def test_classes_of_the_study_can_be_imported_in_its_processes(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    path = environment()["PYTHONPATH"].split(os.pathsep)
    assert path[-1] == "elsewhere"
    code = "import _controls, sys; print(_controls.QueryOnly.__module__)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "_controls"


def test_best_epochs_counts_from_one_and_wants_a_finished_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    torch.save({"epoch": 7}, tmp_path / "checkpoints" / "best.ckpt")
    with pytest.raises(FileNotFoundError, match="not finished"):
        best_epochs(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"status": "finished"}))
    assert is_finished(tmp_path)
    assert best_epochs(tmp_path) == 8


def test_the_command_fixes_split_seed_and_folder_and_leaves_the_rest_to_the_recipe(tmp_path):
    run = Run(Row("movielens_100k", STRICT, "net", {"model.network.init_args.side_features": False}), 3, tmp_path)
    words = run.command(resume=True)
    given = dict(pairwise(words))
    assert given["--config"] == "experiments/movielens_100k.yaml"
    assert given["--seed_everything"] == "3"
    assert json.loads(given["--data.split"])["class_path"] == "recsys.features.splits.LeaveLastOut"
    assert given["--model.network.init_args.side_features"] == "false"
    assert given["--job.resume"] == "true"
    assert given["--job.track"] == "false"
