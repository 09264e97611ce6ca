"""Evaluation of sharded tables on two and three ranks against the same weights in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.models.synergen import SynerGen
from recsys.retrieval.topk import Ranker
from recsys.training.data import EventLogData
from tests.distributed import evaluation_worker as worker

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


class Job:
    """What the ranks of one launch have written, and the data and model that belong to it."""

    def __init__(self, folder: Path, ranks: int):
        self.ranks = ranks
        worker.write_log(folder)
        self.data: EventLogData = worker.data_of(folder)
        _ = self.data.split  # prepared once, for the ranks to find
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        ended = subprocess.run(
            [*command, worker.__file__, str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert not ended.returncode, ended.stderr[-6000:]
        self.facts: list[dict[str, Any]] = [json.loads((folder / f"facts{r}.json").read_text()) for r in range(ranks)]
        self.ranked = [dict(np.load(folder / f"ranked{rank}.npz")) for rank in range(ranks)]
        self.lists = [torch.load(folder / f"lists{rank}.pt", weights_only=False) for rank in range(ranks)]
        saved = torch.load(folder / "model.pt", weights_only=True)
        self.vectors = saved["vectors"]
        self.model: SynerGen = worker.network(self.data.catalogue).eval()
        self.model.load_state_dict(saved["weights"])


@pytest.fixture(scope="module", params=[2, 3])
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp(f"ranks{request.param}"), request.param)


def test_every_rank_has_the_lists_and_metrics_of_one_process(job: Job) -> None:
    expected = worker.evaluations(job.model, job.data)
    assert {len(evaluation.ranked) for evaluation in expected.values()} == {57, 4, 102}
    for rank in range(job.ranks):
        for name, evaluation in expected.items():
            assert np.array_equal(job.ranked[rank][name], evaluation.ranked), (rank, name)
            assert job.facts[rank]["means"][name] == pytest.approx(evaluation.means(), abs=1e-12), (rank, name)
    assert not np.array_equal(expected["search"].ranked, expected["reranked"].ranked), "the second stage did something"
    assert (expected["long"].ranked[:, -1] == 0).all(), "more was asked for than there is"


def test_the_ranker_gives_each_rank_the_lists_of_its_own_users(job: Job) -> None:
    ranker = Ranker(job.model, deny=torch.tensor([4]))
    assert sum(len(lists["rows"]) for lists in job.lists) == 15 - 4 * (job.ranks == 2)
    for lists in job.lists:
        for (items, scores), expected in zip(
            lists["lists"], worker.answers(ranker, job.data, lists["rows"]), strict=True
        ):
            assert torch.equal(items, expected.items)
            torch.testing.assert_close(scores, expected.scores, rtol=1e-5, atol=1e-6)


def test_validation_logs_the_same_on_every_rank_and_stops_all_of_them(job: Job) -> None:
    first = job.facts[0]
    names = ("history", "diagnostics", "logged", "epochs")
    assert all(facts[name] == first[name] for facts in job.facts for name in names)
    assert 1 < first["epochs"] == len(first["history"]) < 30, "early stopping ended the training"
    measured = first["history"][-1] | first["diagnostics"][-1]
    last = {f"val/{name}": value for name, value in measured.items() if name != "epoch"}
    assert first["logged"] == pytest.approx(last, rel=1e-6)
    assert any(last.values())


def test_item_vectors_come_together_where_they_fit(job: Job) -> None:
    torch.testing.assert_close(job.vectors, job.model.item_vectors(), rtol=1e-5, atol=1e-6)
    for facts in job.facts:
        assert "91 item vectors of 25 dimensions take" in facts["refused"] and "memory_gib is 1e-06" in facts["refused"]
