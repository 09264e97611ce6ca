"""Jobs on a log with injected noise: trained, judged, and split again as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from recsys.cli.fit_job import FitCLI, run
from recsys.features.noise import INJECTED
from recsys.tracking.run_folder import RunFolder

pytestmark = pytest.mark.filterwarnings("ignore")

SPLIT = {
    "class_path": "recsys.features.noise.InjectedNoise",
    "init_args": {"rule": {"class_path": "recsys.features.user_shares.UserShares"}, "ratio": 0.3, "seed": 1},
}
POOLS = {
    "model": {
        "network": {"class_path": "recsys.models.matrix_factorization.MatrixFactorization", "init_args": {"width": 8}},
        "objective": {
            "class_path": "recsys.training.pool_objective.PoolObjective",
            "init_args": {
                "weighting": {
                    "class_path": "recsys.denoising.personal_loss.PersonalLossResampling",
                    "init_args": {
                        "temperature": {"class_path": "recsys.denoising.temperature.StandardizedTemperature"},
                        "start": 1,
                    },
                }
            },
        },
    },
    "data": {"batches": {"class_path": "recsys.denoising.user_pools.UserPools", "init_args": {"size": 3}}},
}
WINDOWS = {
    "model": {
        "network": {
            "class_path": "recsys.models.synergen.SynerGen",
            "init_args": {"width": 8, "layers": 1, "heads": 2},
        },
        "objective": {
            "class_path": "recsys.training.objective.RetrievalObjective",
            "init_args": {
                "negatives": {"class_path": "recsys.features.negatives.Uniform", "init_args": {"n": 8}},
                "target_weights": {
                    "class_path": "recsys.denoising.target_weights.PersonalTargetResampling",
                    "init_args": {"temperature": 1.0, "floor": 0.1},
                },
            },
        },
    },
    "data": {},
}


@pytest.mark.parametrize("job", [POOLS, WINDOWS], ids=["pools", "windows"])
def test_a_job_on_noise_runs_and_its_split_can_be_made_again(job: dict[str, dict[str, object]], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(30), 12)
    events = pd.DataFrame({"user_id": user, "item_id": random.integers(0, 40, len(user))})
    events.assign(timestamp=1_000_000 + 60 * np.arange(len(events))).to_parquet(tmp_path / "events.parquet")
    (tmp_path / "schema.yaml").write_text("name: toy\n")
    data = {"schema": str(tmp_path / "schema.yaml"), "events": str(tmp_path / "events.parquet"), "split": SPLIT}
    config = {
        "job": {"folder": str(tmp_path / "run"), "track": False, "baselines": [], "ks": [5, 10]},
        "model": job["model"],
        "data": data | job["data"] | {"cache": str(tmp_path / "cache"), "batch_size": 32},
        "trainer": {"max_epochs": 2, "accelerator": "cpu"},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config))
    cli = FitCLI(["--config", str(tmp_path / "job.yaml")])
    run(cli)
    made = RunFolder(tmp_path / "run")
    split = made.split(made.log())
    assert split.hash == cli.datamodule.split.hash == made.record.split["hash"]
    assert split.log.columns[INJECTED].sum() == split.facts["injected_events"] > 30
    assert made.evaluations()[0].facts["split_hash"] == split.hash
