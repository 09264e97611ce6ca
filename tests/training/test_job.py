"""Which folder a job writes to, and which checkpoint it goes on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.training.job import Job, JobError
from recsys.training.sharded_checkpoint import METADATA


def leave(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


CHECKPOINT, CONFIG = "checkpoints/last.ckpt", "config.yaml"


def test_a_folder_that_is_not_there_begins_a_run(tmp_path: Path) -> None:
    for resume in (False, "auto"):
        assert Job(folder=str(tmp_path / "new"), resume=resume).start(tmp_path / "new") is None
    assert not (tmp_path / "new").exists()
    tmp_path.joinpath("empty").mkdir()
    assert Job().start(tmp_path / "empty") is None


def test_a_run_is_continued_when_it_is_asked_to(tmp_path: Path) -> None:
    run = leave(tmp_path / "run", CONFIG, CHECKPOINT)
    for resume in (True, "auto"):
        assert Job(resume=resume).start(run) == run / CHECKPOINT
    with pytest.raises(JobError, match=r"holds a run already; add `--job.resume true`"):
        Job().start(run)


def test_a_run_that_ended_before_its_first_checkpoint(tmp_path: Path) -> None:
    run = leave(tmp_path / "run", CONFIG, "run.json")
    assert Job(resume="auto").start(run) is None
    with pytest.raises(JobError, match=r"no last.ckpt to resume from"):
        Job(resume=True).start(run)
    with pytest.raises(JobError, match="holds a run already"):
        Job().start(run)


def test_auto_starts_nothing_in_a_folder_of_something_else(tmp_path: Path) -> None:
    other = leave(tmp_path / "home", "thesis.tex")
    with pytest.raises(JobError, match="name another folder"):
        Job(resume="auto").start(other)


def test_other_ranks_do_not_mind_what_the_first_has_written(tmp_path: Path) -> None:
    run = leave(tmp_path / "run", CONFIG)
    assert Job().start(run, first=False) is None
    leave(run, CHECKPOINT)
    assert Job().start(run, first=False) is None
    assert Job(resume="auto").start(run, first=False) == run / CHECKPOINT


@pytest.mark.parametrize("of", [Job.checkpoint, Job.best])
def test_a_checkpoint_that_was_being_replaced_is_put_back(tmp_path: Path, of) -> None:
    """A job died between two renames: every rank of the next one finds the former checkpoint."""
    path = of(tmp_path)
    leave(path.with_name(path.name + ".old"), METADATA)
    assert of(tmp_path).is_dir() and of(tmp_path) == path
    assert not path.with_name(path.name + ".old").exists()


def test_a_run_without_a_name_is_called_by_the_time() -> None:
    assert Job(name="shop").run_folder().match("runs/shop-????????-??????")
    assert Job(folder="here").run_folder() == Path("here")
    with pytest.raises(JobError, match=r"`job.resume` needs `job.folder`"):
        Job(resume="auto").run_folder()


def test_what_validation_weighs_is_judged_without_weights() -> None:
    job = Job(monitor="val/snips_MAP@3")
    assert job.monitor == "val/snips_MAP@3" and (job.metric, job.k) == ("MAP@3", 3) and 3 in job.ks
    with pytest.raises(JobError, match="no metric of the validation"):
        Job(monitor="val/snips_")
