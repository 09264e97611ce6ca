"""What else Lightning users do with a trainer, and what the strategy refuses."""

from __future__ import annotations

import re

import pytest
import torch

from tests.distributed.conftest import Ranks

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_fitted_module_is_evaluated_and_its_checkpoint_without_fitting_too(two: Ranks) -> None:
    ranks = two["evaluated"]
    for found in ranks:
        after, fresh = found["after"], found["fresh"]
        assert after["validated"] == after["reloaded"] == fresh["validated"]
        assert torch.equal(after["predicted"], fresh["predicted"])
        assert found["sharded"] == 2
    assert not torch.equal(ranks[0]["after"]["predicted"], ranks[1]["after"]["predicted"])  # each has its own samples


def test_a_module_that_was_validated_can_be_fitted(two: Ranks) -> None:
    losses = two["evaluated"][0]["then"]
    assert len(losses) == 10 and sum(losses[5:]) < 0.95 * sum(losses[:5])


def test_ranks_without_a_seed_predict_with_the_same_weights(two: Ranks) -> None:
    first, second = (found["dense"] for found in two["evaluated"])
    assert torch.equal(first, second) and bool((first != 0).any())


def test_all_ranks_stop_early_together(two: Ranks) -> None:
    # The averages are 10, 9, 8, 9, 10: two epochs in a row are no better than the third.
    assert two["stopped"] == [{"epochs": 5, "value": 10.0}] * 2


REFUSED = {
    "accumulation": ("StrategyError", "accumulate_grad_batches.*leave it at 1 and raise `data.batch_size`"),
    "planned accumulation": ("StrategyError", "accumulate_grad_batches.*leave it at 1"),
    "loss scale": ("StrategyError", "precision: 16-mixed.*use bf16-mixed"),
    "short tables": ("StrategyError", "precision: bf16-true.*float32.*bf16-mixed"),
    "manual": ("StrategyError", "automatic_optimization.*return the loss"),
    "batch norm": ("StrategyError", "trainer.sync_batchnorm.*leave it out"),
    "hook": ("StrategyError", "ddp_comm_hook.*leave it out"),
    "misspelt": ("TypeError", "unexpected keyword argument 'async_chekpoint'"),
    "adam": ("TableOptimizerError", "no fused Adam for a CPU: set `model.table_optimizer` to.*RowWiseAdagrad"),
    "adam of a recommender": ("TableOptimizerError", "no fused Adam for a CPU"),
    "forgotten": ("TableOptimizerError", "table `items.embeddings.item.weight` has no optimizer.*step_in_backward"),
    "no kernel": ("TableOptimizerError", "Adamax has no kernel.*set `table_optimizer` to one of.*SGD"),
    "setting": ("TableOptimizerError", "Adagrad takes no initial_accumulator_value"),
    "auxiliary": (
        "StrategyError",
        "table `tags` is looked up more than once in a step.*set `model.table_optimizer` to torch.optim.SGD",
    ),
    "memory": ("DoesNotFit", "the tables do not fit.*`item`"),
    "rule": ("PlanError", "no table `itm` for its rule; the model has item, kind"),
    "twice": ("StrategyError", "fitted by this trainer already.*`ckpt_path`"),
    "two trainers": ("StrategyError", "sharded by another trainer"),
    "other rows": ("CheckpointError", r"`table.items.embeddings.item.weight` has shape \[101, 16\].*wants \[77, 16\]"),
    "table missing": ("CheckpointError", "has no `table.bags.embedding_bags.kind.weight`"),
    "table too many": ("RuntimeError", 'Unexpected key.*"bags.embedding_bags.kind.weight"'),
    "other optimizer": ("CheckpointError", "no place for `optimizer.*/momentum1`; resume with the optimizer"),
    "other cuts": ("CheckpointError", r"`optimizer.items.*/momentum1` has shape \[202\].*\[404\].*the same cuts"),
    "not sharded": ("CheckpointError", "unsharded.ckpt: no checkpoint of sharded tables.*without `trainer.strategy`"),
    "not there": ("CheckpointError", "nowhere.ckpt: no checkpoint of sharded tables"),
    "no replicated": ("CheckpointError", "damaged.ckpt: no checkpoint of sharded tables"),
    "replicated cut short": ("CheckpointError", "replicated.pt: cannot be read.*resume from another checkpoint"),
    "shard cut short": ("CheckpointError", "damaged.ckpt: cannot be read.*resume from another checkpoint"),
    "metadata cut short": ("CheckpointError", ".metadata: cannot be read.*resume from another checkpoint"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_is_refused_by_one_clear_sentence(one: Ranks, case: str) -> None:
    kind, message = one["refused"][case]
    expected, sentence = REFUSED[case]
    assert kind == expected, message
    assert re.search(sentence, message, flags=re.DOTALL), message


def test_no_attempt_is_left_out(one: Ranks) -> None:
    assert one["refused"].keys() == REFUSED.keys()
