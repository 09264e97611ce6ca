"""The job of the page on feedback that is missing not at random, on coats of a toy size."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.cli.fit_job import FitCLI, run
from recsys.cli.main import main
from recsys.models.artefact import load_model
from recsys.models.matrix_factorization import MatrixFactorization
from recsys.tracking.run_folder import RunFolder

PAGE = Path(__file__).parents[2] / "docs" / "missing-not-at-random.md"
OTHER_PART = {"class_path": "recsys.features.exposed_pairs.ExposedPairs", "init_args": {"train": "another"}}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of the job, in a folder whose data are the toy's."""
    random = np.random.default_rng(0)
    user, item = (values.ravel() for values in np.mgrid[:12, :20])
    frame = pd.DataFrame({"user_id": user, "item_id": item, "rating": random.integers(1, 6, len(user))})
    frame["propensity"] = 0.5
    chosen, shown = random.random((2, len(user))) < 0.5
    parts = [frame[chosen].assign(split="train_mnar"), frame[shown].assign(split="test_random")]
    (tmp_path / "coat").mkdir()
    pd.concat(parts).to_parquet(tmp_path / "coat" / "interactions.parquet")
    monkeypatch.setenv("RECSYS_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shown_jobs = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (content,) = (block for block in shown_jobs if "DoublyRobustObjective" in block)
    (tmp_path / "job.yaml").write_text(content)
    words = ["--config", "job.yaml", "--job.folder=run", "--job.track=false", "--job.baselines=[]"]
    return [*words, "--trainer.max_epochs=2", "--trainer.accelerator=cpu"]


def test_the_job_of_the_page_trains_validates_and_is_saved(job: list[str]) -> None:
    run(FitCLI(job))
    folder = RunFolder(Path("run"))
    assert folder.record.status == "finished"
    model = load_model(Path("run/model"))
    assert isinstance(model, MatrixFactorization) and model.hyperparameters["width"] == 128
    assert not any("exposures" in name or "imputing" in name for name in model.state())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--data.batches=recsys.features.pair_batches.AllPairs"], "set `data.batches` to `ExposedPairs`"),
        ([f"--data.batches={json.dumps(OTHER_PART)}"], r"`data.batches`: ExposedPairs: column `split` names no part"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(
    job: list[str], changed: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *job, *changed]) == 1
    assert re.search(message, capsys.readouterr().err)
