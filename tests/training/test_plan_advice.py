"""Advice is followed here to the letter, and must help; what is just short of it must not."""

from dataclasses import replace

import pytest
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch.distributed.optim import _apply_optimizer_in_backward as apply_in_backward

from recsys.training.plan_advice import Advice
from recsys.training.sharding_plan import DoesNotFit, TableRule, Topology, sharding_plan
from recsys.training.table_sharders import table_sharders
from tests.training.test_sharding_plan import model

SHARDERS = table_sharders({"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD})


def refused(items: int, topology: Topology, rules: dict[str, TableRule] | None = None) -> DoesNotFit:
    with pytest.raises(DoesNotFit) as error:
        sharding_plan(model(items), topology, rules, sharders=SHARDERS)
    return error.value


def follow(advice: Advice, items: int):
    """Plans as the advice says, for a model that really has the shapes it names."""
    rows, dim = advice.shapes.get("item_id", (items, 64))
    made = model(rows, dim=dim) if dim == 64 else _narrow(rows, dim)
    return sharding_plan(made, advice.topology, advice.rules, sharders=SHARDERS)


def _narrow(rows: int, dim: int):
    wide, narrow = model(rows), model(rows, dim=dim)
    wide["ids"] = narrow["ids"]
    return wide


def only(error: DoesNotFit, text: str) -> Advice:
    (found,) = [advice for advice in error.advice if text in advice.text]
    return found


def test_every_advice_helps_on_a_cpu():
    # 10 million rows of 64 dimensions: 2441 MiB of weights and 38 MiB of state, beside 870 MiB.
    error = refused(10_000_000, Topology(memory_gib=1))
    assert [advice.text for advice in error.advice] == [
        "4 ranks (`ranks: 4`)",
        "3 GiB a rank instead of 1 (`memory_gib: 3`)",
        "20 dimensions of `item_id` instead of 64",
        "hash the ids of `item_id` to at most 3,500,000 rows instead of 10,000,000",
    ]
    for advice in error.advice:
        follow(advice, 10_000_000)


@pytest.mark.parametrize(
    "short",
    [
        Advice("", Topology(ranks=2, memory_gib=1), {}),
        Advice("", Topology(memory_gib=2), {}),
        Advice("", Topology(memory_gib=1), {}, {"item_id": (10_000_000, 24)}),
        Advice("", Topology(memory_gib=1), {}, {"item_id": (3_600_000, 64)}),
    ],
)
def test_less_than_advised_does_not_help(short):
    with pytest.raises(DoesNotFit):
        follow(short, 10_000_000)


def test_the_message_says_what_is_needed_and_what_there_is():
    text = str(refused(10_000_000, Topology(memory_gib=1), {"words": TableRule(sharding=["row_wise"])}))
    assert "1 x 1 GiB, of which 15% are reserved and 0.84 KiB a rank taken by the rest of the model" in text
    assert "leave 0.85 GiB a rank" in text
    assert "`item_id` (10,000,000 x 64) needs 2.42 GiB, 38.15 MiB of it for its optimizer\n" in text
    assert "its optimizer; its rule allows row_wise" in text
    assert "\nWhat would make it fit:\n  - 4 ranks (`ranks: 4`)\n" in text


def test_a_rule_that_is_too_strict_is_named():
    rules = {"item_id": TableRule(sharding=["table_wise"])}
    error = refused(10_000_000, Topology(ranks=4, memory_gib=1), rules)
    advice = only(error, "allow row_wise sharding of `item_id`")
    assert advice.rules == {"item_id": TableRule(sharding=("table_wise", "row_wise"))}
    assert follow(advice, 10_000_000).plan["ids"]["item_id"].sharding_type == "row_wise"


def test_more_ranks_come_with_the_rule_that_they_need():
    rules = {"item_id": TableRule(sharding=["table_wise"])}
    error = refused(10_000_000, Topology(ranks=2, memory_gib=1), rules)
    advice = only(error, "4 ranks, with row_wise sharding of `item_id` (`ranks: 4`)")
    follow(advice, 10_000_000)
    assert not any(advice.text.startswith("allow") for advice in error.advice)  # alone it does not help


def test_an_optimizer_with_less_state_is_advised_where_it_helps():
    # 2 million rows: 488 MiB of weights, three times that with Adam, 495 MiB with row-wise Adagrad.
    adam = table_sharders({"optimizer": EmbOptimType.ADAM})
    with pytest.raises(DoesNotFit) as error:
        sharding_plan(model(2_000_000), Topology(memory_gib=1), sharders=adam)
    advice = only(error.value, "row-wise Adagrad for the tables, whose state is 4 bytes a row")
    made = model(2_000_000)
    apply_in_backward(advice.optimizer, made["ids"].parameters(), {"lr": 0.1})
    apply_in_backward(advice.optimizer, made["bags"].parameters(), {"lr": 0.1})
    sharding_plan(made, Topology(memory_gib=1))
    assert not any("Adagrad" in advice.text for advice in refused(10_000_000, Topology(memory_gib=1)).advice)


def test_a_gpu_may_use_the_machine():
    gpu = Topology(device="cuda", memory_gib=1, host_memory_gib=8)
    rules = {"item_id": TableRule(placement=["device"])}
    error = refused(10_000_000, gpu, rules)
    advice = only(error, "allow every placement of `item_id`")
    assert follow(advice, 10_000_000).plan["ids"]["item_id"].compute_kernel.startswith("fused_uvm")
    short = refused(10_000_000, replace(gpu, host_memory_gib=1))
    advice = only(short, "3 GiB of the machine a rank instead of 1 (`host_memory_gib: 3`)")
    follow(advice, 10_000_000)


def test_gpus_are_added_as_machines():
    error = refused(2_000_000_000, Topology(ranks=4, device="cuda", memory_gib=40, host_memory_gib=1))
    advice = error.advice[0]
    assert advice.text == "16 ranks, 8 a machine (`ranks: 16`)"
    assert advice.topology.ranks_per_host == 8
    follow(advice, 2_000_000_000)


def test_what_nothing_helps_is_said_without_advice():
    # 484 GiB: too much for 512 ranks, for 4096 GiB of which 90 % are reserved, and hashed to a thousandth of the rows.
    error = refused(2_000_000_000, Topology(memory_gib=0.001, reserve=0.9))
    assert error.advice == ()
    assert "What would make it fit" not in str(error)
