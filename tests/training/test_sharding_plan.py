"""Plans: rules are obeyed, every process finds the same one, nothing is allocated, and costs are what they say."""

import subprocess
import sys

import psutil
import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_in_backward
from torchrec import optim
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from recsys.training.plan_report import describe
from recsys.training.sharding_plan import DoesNotFit, PlanError, TableRule, Topology, sharding_plan
from recsys.training.table_costs import Memory
from recsys.training.table_sharders import DENSE_COPIES, dense_bytes, find_tables, table_sharders
from recsys.training.topology import GIB

ADAGRAD = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD}


def model(items: int = 10_000, words: int = 500, dim: int = 64) -> nn.Module:
    ids = EmbeddingConfig(name="item_id", embedding_dim=dim, num_embeddings=items, feature_names=["item_id"])
    bags = EmbeddingBagConfig(name="words", embedding_dim=dim, num_embeddings=words, feature_names=["title", "query"])
    return nn.ModuleDict(
        {
            "ids": EmbeddingCollection(tables=[ids], device=torch.device("meta")),
            "bags": EmbeddingBagCollection(tables=[bags], device=torch.device("meta")),
            "dense": nn.Linear(8, 4),
        }
    )


def kinds(plan) -> dict[str, tuple[str, str]]:
    return {
        name: (planned.sharding_type, planned.compute_kernel)
        for tables in plan.plan.values()
        for name, planned in tables.items()
    }


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("sharding", "shards"),
    [
        ("row_wise", [(125, 64)] * 4),
        ("table_wise", [(500, 64)]),
        ("column_wise", [(500, 32)] * 2),
        ("table_row_wise", [(250, 64)] * 2),
        ("table_column_wise", [(500, 32)] * 2),
        ("grid_shard", [(250, 32)] * 4),
    ],
)
def test_a_rule_for_bags_is_obeyed(device, sharding, shards):
    rule = TableRule(sharding=[sharding], min_partition=32)
    topology = Topology(ranks=4, ranks_per_host=2, device=device)
    planned = sharding_plan(model(), topology, {"words": rule}).plan["bags"]["words"]
    assert planned.sharding_type == sharding
    assert [tuple(shard.shard_sizes) for shard in planned.sharding_spec.shards] == shards
    hosts = {shard.placement.rank() // 2 for shard in planned.sharding_spec.shards}
    if sharding in ("table_row_wise", "table_column_wise"):
        assert len(hosts) == 1


@pytest.mark.parametrize("sharding", ["row_wise", "table_wise", "column_wise", "data_parallel"])
def test_a_rule_for_sequences_is_obeyed(sharding):
    rule = TableRule(sharding=[sharding], min_partition=32)
    plan = sharding_plan(model(), Topology(ranks=2), {"item_id": rule})
    assert kinds(plan)["item_id"] == (sharding, "dense" if sharding == "data_parallel" else "fused")


@pytest.mark.parametrize(("placement", "kernel"), [("device", "fused"), ("host", "fused_uvm"),
                                                   ("cached", "fused_uvm_caching")])  # fmt: skip
def test_a_placement_is_obeyed(placement, kernel):
    gpus = Topology(ranks=2, device="cuda")
    rule = TableRule(sharding=["row_wise"], placement=[placement], cache_load_factor=0.1)
    plan = sharding_plan(model(), gpus, {"item_id": rule})
    assert kinds(plan)["item_id"] == ("row_wise", kernel)
    assert plan.plan["ids"]["item_id"].cache_params.load_factor == 0.1


def test_a_table_that_fits_no_gpu_goes_to_the_machine():
    """Without a rule: 2.4 GiB beside 1 GiB of the GPU."""
    plan = sharding_plan(model(10_000_000), Topology(device="cuda", memory_gib=1, host_memory_gib=8))
    assert kinds(plan)["item_id"][1] in ("fused_uvm", "fused_uvm_caching")
    assert kinds(plan)["words"][1] == "fused"


@pytest.mark.parametrize(
    ("rules", "topology", "message"),
    [
        ({"item": TableRule()}, Topology(), "no table `item` for its rule; the model has item_id, words"),
        (
            {"item_id": TableRule(sharding=["grid_shard"])},
            Topology(),
            "table `item_id`: grid_shard is not offered for it on cpu; there are data_parallel, table_wise",
        ),
        (
            {"item_id": TableRule(placement=["host"])},
            Topology(),
            "table `item_id`: placements beside `device` need GPUs",
        ),
        (
            {"item_id": TableRule(sharding=["data_parallel"], placement=["host"])},
            Topology(device="cuda"),
            "a data-parallel table lies on the device",
        ),
    ],
)
def test_a_rule_that_cannot_be_obeyed_is_refused(rules, topology, message):
    with pytest.raises(PlanError) as error:
        sharding_plan(model(), topology, rules)
    assert message in str(error.value)


def test_means_over_a_grid_are_refused():
    bags = EmbeddingBagConfig(
        name="t", embedding_dim=64, num_embeddings=9, feature_names=["t"], pooling=PoolingType.MEAN
    )
    made = EmbeddingBagCollection(tables=[bags], device=torch.device("meta"))
    with pytest.raises(PlanError, match="table `t`: TorchRec takes no means over a grid of shards"):
        sharding_plan(made, Topology(ranks=2), {"t": TableRule(sharding=["grid_shard"])})
    assert kinds(sharding_plan(made, Topology(ranks=2), {"t": TableRule(sharding=["row_wise"])})) == {
        "t": ("row_wise", "fused")
    }


def test_an_optimizer_without_kernel_is_refused():
    made = model()
    apply_in_backward(torch.optim.RMSprop, made["ids"].parameters(), {"lr": 0.1})
    with pytest.raises(PlanError, match="table `item_id`: RMSprop has no fused kernel in FBGEMM"):
        sharding_plan(made, Topology())


def test_dimensions_that_kernels_do_not_take_are_refused():
    with pytest.raises(PlanError, match="table `words` has 50 dimensions; TorchRec's kernels take multiples of 4"):
        sharding_plan(model(dim=50), Topology())


def test_sequences_on_a_cpu_and_single_ranks_are_data_parallel_by_rule_alone():
    for ranks in (1, 2, 8, 64):
        assert kinds(sharding_plan(model(300), Topology(ranks=ranks)))["item_id"][0] != "data_parallel"
    for items, words in ((300, 20), (10**6, 10**6)):
        assert set(kinds(sharding_plan(model(items, words), Topology())).values()) == {("table_wise", "fused")}
    assert kinds(sharding_plan(model(300, 20), Topology(ranks=8)))["words"][0] == "data_parallel"


SCRIPT = """
from recsys.training.table_planner import SimplestFirst
found = SimplestFirst.enumerate
def told(self, module, sharders):
    options = found(self, module, sharders)
    print([(option.fqn, option.sharding_type, option.compute_kernel) for option in options])
    return options
SimplestFirst.enumerate = told
from tests.training.test_sharding_plan import model
from recsys.training.sharding_plan import Topology, sharding_plan
for topology in (Topology(ranks=4), Topology(ranks=16, ranks_per_host=8, device="cuda")):
    print(sharding_plan(model(100_000), topology))
"""


@pytest.mark.slow
def test_every_process_tries_the_same_plans_in_the_same_order_and_finds_the_same():
    def run(seed: str) -> str:
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
        environment = {"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": "."}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert run("1") == run("2") != ""


def test_two_thousand_million_rows_are_planned_without_memory():
    before = psutil.Process().memory_info().rss
    large = model(2_000_000_000)
    gpus = Topology(ranks=64, ranks_per_host=8, device="cuda", memory_gib=80)
    plan = sharding_plan(large, gpus, sharders=table_sharders(ADAGRAD))
    planned = [row for row in describe(plan, large, gpus, sharders=table_sharders(ADAGRAD)) if row.table == "item_id"]
    assert plan.plan["ids"]["item_id"].sharding_type == "row_wise"
    assert [row.memory.weights for row in planned] == [31_250_000 * 64 * 4] * 64
    assert [row.memory.state for row in planned] == [31_250_000 * 4] * 64
    assert psutil.Process().memory_info().rss - before < 200 << 20


@pytest.mark.parametrize(("applied", "state"), [(optim.SGD, 0), (optim.RowWiseAdagrad, 4), (optim.Adagrad, 256),
                                                (optim.Adam, 512)])  # fmt: skip
def test_the_optimizer_is_found_where_it_was_applied(applied, state):
    made = model()
    apply_in_backward(applied, made["ids"].parameters(), {"lr": 0.1})
    (items,) = (table for table in find_tables(made, table_sharders(), {}, 8) if table.name == "item_id")
    rules = {"item_id": TableRule(sharding=["row_wise"])}
    rows = describe(sharding_plan(made, Topology(ranks=2), rules), made, Topology(ranks=2), rules)
    assert items.rows == 10_000
    assert [row.memory.state for row in rows if row.table == "item_id"] == [5_000 * state] * 2


def test_state_decides_what_fits():
    """A million rows of 64 dimensions are 244 MiB, with Adam 732 MiB."""
    made, topology = model(1_000_000), Topology(memory_gib=0.5)
    sharding_plan(made, topology)
    with pytest.raises(DoesNotFit):
        sharding_plan(made, topology, sharders=table_sharders({"optimizer": EmbOptimType.ADAM}))


def test_the_rest_of_the_model_takes_its_share():
    made = model()
    assert dense_bytes(made, table_sharders()) == DENSE_COPIES * (8 * 4 + 4) * 4
    made.register_buffer("side", torch.empty(GIB // 4, device="meta"))
    assert dense_bytes(made, table_sharders()) == DENSE_COPIES * 144 + GIB
    with pytest.raises(DoesNotFit, match=r"1\.00 GiB a rank taken by the rest of the model, leave 0 B a rank"):
        sharding_plan(made, Topology(memory_gib=1))


def test_what_is_described_fits_where_the_planner_says_so():
    made = model(1_000_000)
    for device in ("cpu", "cuda"):
        for ranks in (1, 2, 8):
            topology = Topology(ranks=ranks, device=device, memory_gib=0.6)
            rows = describe(
                sharding_plan(made, topology, sharders=table_sharders(ADAGRAD)),
                made,
                topology,
                sharders=table_sharders(ADAGRAD),
            )
            assert {row.rank for row in rows} == set(range(ranks))
            for rank in range(ranks):
                total = sum((row.memory for row in rows if row.rank == rank), start=Memory())
                assert total.on_rank <= topology.for_tables(dense_bytes(made, table_sharders()))


def test_features_and_pooling_factors_count():
    made = model()
    rules = {"words": TableRule(sharding=["table_wise"], pooling_factor=3.0)}
    (words,) = (table for table in find_tables(made, table_sharders(), rules, 100) if table.name == "words")
    assert (words.features, words.ids, words.vectors, words.pooled) == (2, 600.0, 200, True)
    rows = describe(sharding_plan(made, Topology(ranks=2), rules, 100), made, Topology(ranks=2), rules, 100)
    asked = next(row.sent for row in rows if row.table == "words" and not row.shards)
    assert (asked.ids, asked.vectors, asked.gradients) == (600 * 8, 0, 200 * 256)


@pytest.mark.parametrize(("rows", "ranks", "cut"), [(2, 2, True), (2, 3, False), (5, 4, False), (7, 3, True)])
def test_no_rank_gets_a_shard_without_rows(rows, ranks, cut):
    small = EmbeddingConfig(name="kind", embedding_dim=8, num_embeddings=rows, feature_names=["kind"])
    module = nn.ModuleDict({"kinds": EmbeddingCollection(tables=[small], device=torch.device("meta"))})
    if cut:
        plan = sharding_plan(module, Topology(ranks=ranks), {"kind": TableRule(sharding=["row_wise"])})
        specs = plan.plan["kinds"]["kind"].sharding_spec.shards
        assert len(specs) == ranks and min(spec.shard_sizes[0] for spec in specs) > 0
    else:
        with pytest.raises(PlanError, match=f"table `kind`: cut by rows, its {rows} would leave a rank without any"):
            sharding_plan(module, Topology(ranks=ranks), {"kind": TableRule(sharding=["row_wise"])})
        rule = TableRule(sharding=["row_wise", "table_wise"])
        plan = sharding_plan(module, Topology(ranks=ranks), {"kind": rule})
        assert plan.plan["kinds"]["kind"].sharding_type == "table_wise"
    on_gpus = sharding_plan(module, Topology(ranks=ranks, device="cuda"), {"kind": TableRule(sharding=["row_wise"])})
    assert on_gpus.plan["kinds"]["kind"].sharding_type == "row_wise"
