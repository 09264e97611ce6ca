from __future__ import annotations

import json
from pathlib import Path

import large
import pytest
from _large_steps import Line, read, summary, write
from report import report

# ---- steps


def test_lines_are_read_back_but_for_the_one_that_is_being_written(tmp_path: Path) -> None:
    lines = [Line(7, "start", 0, 1.5, 10.0), Line(7, "step", 10, 2.5, 11.0)]
    assert read(tmp_path, 1) == []
    for line in lines:
        write(tmp_path, 1, line)
    with (tmp_path / "steps.1.jsonl").open("a") as file:
        file.write('[7, "st')
    assert read(tmp_path, 1) == lines and read(tmp_path, 0) == []


RANK = [
    Line(1, "start", 0, 0.0, 5.0),
    Line(1, "step", 10, 9.0, 6.0),
    Line(1, "step", 20, 10.0, 6.0),
    Line(1, "step", 30, 11.0, 9.0),
    Line(2, "start", 20, 50.0, 7.0),
    Line(2, "step", 30, 60.0, 7.0),
    Line(2, "step", 40, 62.0, 8.0),
    Line(2, "end", 44, 90.0, 12.0),
]


def test_a_summary_counts_steps_of_one_process_alone() -> None:
    other = [line._replace(peak_rss_mib=line.peak_rss_mib + 1) for line in RANK]
    assert summary([RANK, other]) == {
        "steps": 44,
        "killed_after_step": 30,
        "resumed_from_step": 20,
        "steps_per_s": 10.0,  # of 10, 10 and 5
        "seconds": [2.0, 2.0],
        "peak_rss_mib": {"training": [9.0, 10.0], "judging": [12.0, 13.0]},
    }


@pytest.mark.parametrize("lines", [RANK[:4], RANK[:-1]])
def test_a_run_that_did_not_come_to_its_end_is_refused(lines: list[Line]) -> None:
    with pytest.raises(ValueError, match="starts, the last of which ends with `step`"):
        summary([lines])


# ---- the command


def test_a_run_that_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    assert large.main(["--folder", str(tmp_path / "run"), "--data", str(tmp_path / "data")]) == 1
    assert "holds a run already" in capsys.readouterr().err and not (tmp_path / "data").exists()


@pytest.mark.slow
@pytest.mark.distributed
def test_it_is_killed_goes_on_and_is_judged(tmp_path: Path) -> None:
    folders = [f"--{name}={tmp_path / name}" for name in ("data", "cache", "folder", "results")]
    sizes = ["--users=700", "--items=1500", "--test-users=60", "--kill-after=30"]
    job = ["--job.checkpoint_every=20", "--data.batch_size=8", "--trainer.limit_train_batches=40"]
    assert large.main([*folders, *sizes, *job]) == 0

    table = tmp_path / "results" / "large_synthetic" / "global_time"
    ours, theirs = (json.loads((table / f"{name}.json").read_text()) for name in ("synergen", "popularity"))
    run = ours["run"]
    assert run["steps"] == 2 * 40  # no batch is lost or taken twice
    assert run["killed_after_step"] >= 30 and run["resumed_from_step"] % 20 == 0
    assert 20 <= run["resumed_from_step"] <= run["killed_after_step"] + 10
    for rank in (0, 1):
        steps = [line.step for line in read(tmp_path / "folder", rank) if line.process == run_of(tmp_path, rank)]
        assert steps == [run["resumed_from_step"], *range(run["resumed_from_step"] + 10, 90, 10), 80]
    shapes = {tensor["name"]: tensor["shape"] for tensor in run["tables"] if tensor["kind"] == "table"}
    assert shapes["network.items.ids.embeddings.item_id.weight"] == [1501, 32]
    assert all(run[key]["peak_rss_mib"] > 0 for key in ("making_the_log", "preparing"))
    assert ours["settings"]["note"] == "2 processes; 60 of the test users, drawn by seed 0"
    found = ours["comparison"]["metrics"]["NDCG@10"]
    means = [row["metrics"]["NDCG@10"]["mean"] for row in (theirs, ours)]
    assert [found["first"], found["second"]] == pytest.approx(means)
    assert "synergen less popularity" in report(tmp_path / "results")


def run_of(folder: Path, rank: int) -> int:
    """The process that came to the end."""
    return read(folder / "folder", rank)[-1].process
