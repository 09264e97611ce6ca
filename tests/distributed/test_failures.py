"""Ranks that fail, are killed or interrupted: nobody waits for ever, and the last complete checkpoint is there."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from recsys.training.sharded_checkpoint import consolidate, load_replicated, part_of
from tests.distributed.conftest import Ranks

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(900)]

EVERY, AT, STEPS = 3, 8, 16


def test_a_restarted_job_ends_as_an_undisturbed_one(two: Ranks, restarted: dict[str, Any]) -> None:
    undisturbed = two["undisturbed"]
    again = len(restarted["losses"])
    assert STEPS - AT < again < STEPS  # it has begun from a checkpoint, and not at the beginning
    assert restarted["losses"] == undisturbed["losses"][-again:]
    assert restarted["logged"] == undisturbed["logged"]
    assert restarted["weights"].keys() == undisturbed["weights"].keys()
    for name, weight in undisturbed["weights"].items():
        assert torch.equal(restarted["weights"][name], weight), name


def test_nothing_is_left_of_a_write_that_was_killed(two: Ranks, restarted: dict[str, Any]) -> None:
    assert [path.name for path in (two.folder / "restarted").iterdir()] == ["last.ckpt"]


def test_the_error_of_a_rank_ends_the_job_and_is_said_first(three: Ranks) -> None:
    errors = re.findall(r"^\[rank(\d)\]: (\w+Error): (.*)", three.output, flags=re.MULTILINE)
    assert ("1", "ValueError", "rank 1 cannot go on") in errors
    others = {rank for rank, kind, _ in errors if kind != "ValueError"}
    assert others <= {"0", "2"}
    assert "killed after" not in three.output


def test_a_failure_in_the_middle_of_a_write_leaves_the_checkpoint_before(three: Ranks) -> None:
    last = three.folder / "failed" / "last.ckpt"
    assert load_replicated(last)["global_step"] == EVERY
    assert all(bool(weight.isfinite().all()) for weight in consolidate(last).values())


def test_so_does_an_interrupt(two: Ranks) -> None:
    assert two["interrupted"] == [{"exit": 1, "steps": EVERY}] * 2


def test_a_stop_between_steps_completes_a_checkpoint_of_the_last(two: Ranks) -> None:
    assert two["stopped_between_steps"] == [{"steps": AT}] * 2
    assert not part_of(two.folder / "by hand" / "last.ckpt").exists()
