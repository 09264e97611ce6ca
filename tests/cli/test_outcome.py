"""How often a trained network is judged."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from recsys.cli.outcome import judge
from recsys.tracking.bundle import Bundle
from recsys.tracking.run_folder import RunFolder
from recsys.training.job import Job
from tests.cli.conftest import LENGTH


@pytest.mark.parametrize("rerank", [200, 120, None])
def test_a_network_that_ranks_is_judged_twice_unless_the_job_wants_it_once(
    search_run: RunFolder, rerank: int | None
) -> None:
    model = Bundle.load(search_run.model).model
    data = SimpleNamespace(split=search_run.split(search_run.log()), max_length=LENGTH)
    judged = judge(model, {}, data, Job(ks=(5,), rerank=rerank), "Net")
    ways = ["Net"] if rerank is None else ["Net", "Net-ranked"]
    assert [e.model for e in judged] == ways * 2, "of search, and of recommendation"
    assert [e.facts["rerank"] for e in judged] == ([None] if rerank is None else [None, rerank]) * 2
