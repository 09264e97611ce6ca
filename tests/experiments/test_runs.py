from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from _rows import REFIT, STRICT, Row
from _runs import Run, best_epochs, drive, is_finished, with_first

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
