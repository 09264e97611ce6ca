"""Every way of sharding on four gloo ranks of two machines: the same table as PyTorch's, and the bytes foretold."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardingEnv
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.training.plan_report import describe
from recsys.training.sharding_plan import DoesNotFit, PlanError, TableRule, Topology, sharding_plan
from recsys.training.table_sharders import table_sharders

WORLD, LOCAL, ROWS, DIM, SAMPLES, LR = 4, 2, 16, 16, 8, 0.5
BY_ROWS_OR_COLUMNS = ["row_wise", "table_wise", "column_wise", "data_parallel"]
CASES = [(False, kind) for kind in BY_ROWS_OR_COLUMNS] + [
    (True, kind) for kind in [*BY_ROWS_OR_COLUMNS, "table_column_wise", "table_row_wise", "grid_shard"]
]


def table(pooled: bool) -> nn.Module:
    torch.manual_seed(0)
    kind, config = (EmbeddingBagCollection, EmbeddingBagConfig) if pooled else (EmbeddingCollection, EmbeddingConfig)
    return nn.ModuleDict(
        {"e": kind(tables=[config(name="t", embedding_dim=DIM, num_embeddings=ROWS, feature_names=["f"])])}
    )


def batch(pooled: bool, sharding: str, rank: int) -> KeyedJaggedTensor:
    """Ids that ask every row equally often, whatever the rank; lengths are int32 to be told from ids."""
    each = 1 if not pooled and sharding == "data_parallel" else 2
    ids = (torch.arange(SAMPLES * each) * 5 + rank) % ROWS
    return KeyedJaggedTensor(keys=["f"], values=ids, lengths=torch.full((SAMPLES,), each, dtype=torch.int32))


def coefficients(rows: int, rank: int) -> Tensor:
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(rank))


def count_bytes() -> Counter[str]:
    """Counts what this rank sends to others, by type of value."""
    sent: Counter[str] = Counter()
    exchange, scatter, gather = dist.all_to_all_single, dist.reduce_scatter_tensor, dist.all_gather_into_tensor

    def all_to_all_single(output: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        group = kwargs.get("group")
        splits = kwargs.get("input_split_sizes") or [len(input) // dist.get_world_size(group)] * dist.get_world_size(
            group
        )
        kept = splits[dist.get_rank(group)]
        sent[str(input.dtype)] += (sum(splits) - kept) * (input.nbytes // len(input) if len(input) else 0)
        return exchange(output, input, *args, **kwargs)

    def reduce_scatter_tensor(output: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        sent[str(input.dtype)] += input.nbytes - output.nbytes
        return scatter(output, input, *args, **kwargs)

    def all_gather_into_tensor(output: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        sent[str(input.dtype)] += output.nbytes - input.nbytes
        return gather(output, input, *args, **kwargs)

    dist.all_to_all_single = all_to_all_single
    dist.reduce_scatter_tensor = reduce_scatter_tensor
    dist.all_gather_into_tensor = all_gather_into_tensor
    return sent


def lookup(sharded: DistributedModelParallel, features: KeyedJaggedTensor, pooled: bool) -> Tensor:
    found = sharded.module.e(features)["f"]
    return torch.clone(found if pooled else found.values())  # which waits for it


def local_shards(sharded: DistributedModelParallel) -> list[tuple[tuple[slice, slice], Tensor]]:
    """What this rank has of the table: places in the whole, and values."""
    weight = next(value for name, value in sharded.state_dict().items() if name.endswith("t.weight"))
    if not hasattr(weight, "local_shards"):
        return [((slice(0, ROWS), slice(0, DIM)), weight)]
    return [
        (
            tuple(slice(o, o + n) for o, n in zip(s.metadata.shard_offsets, s.metadata.shard_sizes, strict=True)),
            s.tensor,
        )
        for s in weight.local_shards()
    ]


def step(pooled: bool, sharding: str, rank: int, sent: Counter[str]) -> dict[str, Any]:
    """One step of a sharded table: what it gave, what is left of it on this rank, and what was sent."""
    made, topology = table(pooled), Topology(ranks=WORLD, ranks_per_host=LOCAL)
    each = batch(pooled, sharding, rank).lengths()[0].item()
    rules = {"t": TableRule(sharding=[sharding], min_partition=8, pooling_factor=each)}
    start = next(made.parameters()).detach().clone()
    sharders = table_sharders({"optimizer": EmbOptimType.EXACT_SGD, "learning_rate": LR})
    plan = sharding_plan(made, topology, rules, SAMPLES, sharders)
    (foretold,) = (row for row in describe(plan, made, topology, rules, SAMPLES, sharders) if row.rank == rank)
    sharded = DistributedModelParallel(
        made,
        env=ShardingEnv.from_process_group(dist.GroupMember.WORLD),
        device=torch.device("cpu"),
        plan=plan,
        sharders=sharders,
        init_parameters=False,
    )
    for place, shard in local_shards(sharded):  # TorchRec begins bags anew
        with torch.no_grad():
            shard.copy_(start[place])
    features = batch(pooled, sharding, rank)
    lookup(sharded, features, pooled)  # the first call asks how features are distributed
    sent.clear()
    out = lookup(sharded, features, pooled)
    forward = dict(sent)
    sent.clear()
    (out * coefficients(len(out), rank)).sum().backward()
    with torch.no_grad():
        for weight in sharded.parameters():
            if weight.grad is not None:  # a data-parallel table is no part of the fused optimizer
                weight -= LR * weight.grad
    shards = [([index.start for index in place], shard.tolist()) for place, shard in local_shards(sharded)]
    return {
        "kernel": foretold.kernel,
        "out": out.tolist(),
        "shards": shards,
        "foretold": [foretold.sent.ids, foretold.sent.vectors, foretold.sent.gradients],
        # Beside the ids, three sizes go to each rank before them.
        "sent": [forward.get("torch.int64", 0), forward.get("torch.float32", 0), sent["torch.float32"]],
    }


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(WORLD),
        "LOCAL_WORLD_SIZE": str(LOCAL),
        "LOCAL_RANK": str(rank % LOCAL),
    }
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    sent = count_bytes()
    done: dict[str, Any] = {f"{pooled} {kind}": step(pooled, kind, rank, sent) for pooled, kind in CASES}
    # Ranks that ask for different things get what the first one asked for.
    own = TableRule(sharding=["table_wise" if rank == 0 else "row_wise"])
    done["plan"] = sharding_plan(table(True), Topology(ranks=WORLD), {"t": own}).plan["e"]["t"].sharding_type
    small = Topology(ranks=WORLD, memory_gib=1e-6 if rank == 0 else None)
    for name, asked in (("large", small), ("ranks", Topology(ranks=2))):
        try:
            sharding_plan(table(True), asked)
        except PlanError as error:
            done[name] = [type(error).__name__, str(error)]
    Path(folder, f"{rank}.json").write_text(json.dumps(done))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(process, args=(str(folder),), nprocs=WORLD)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


def oracle(pooled: bool, sharding: str) -> tuple[list[Tensor], Tensor]:
    """What every rank looks up, and the table after the step, by PyTorch alone; gradients are means over ranks."""
    weight = next(table(pooled).parameters()).detach().clone().requires_grad_()
    outs = []
    for rank in range(WORLD):
        vectors = weight[batch(pooled, sharding, rank).values()]
        outs.append(vectors.view(SAMPLES, -1, DIM).sum(1) if pooled else vectors)
    sum((out * coefficients(len(out), rank)).sum() for rank, out in enumerate(outs)).backward()
    return [out.detach() for out in outs], (weight - LR * weight.grad / WORLD).detach()


pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.mark.parametrize(("pooled", "sharding"), CASES)
def test_a_sharded_step_is_pytorch_s(ranks, pooled, sharding):
    outs, weight = oracle(pooled, sharding)
    covered = torch.zeros_like(weight)
    for rank, out in enumerate(outs):
        done = ranks[rank][f"{pooled} {sharding}"]
        torch.testing.assert_close(torch.tensor(done["out"]), out)
        for (row, column), values in done["shards"]:
            shard = torch.tensor(values)
            rows, columns = slice(row, row + len(shard)), slice(column, column + shard.shape[1])
            torch.testing.assert_close(shard, weight[rows, columns], atol=1e-6, rtol=1e-5)
            covered[rows, columns] += 1
    assert (covered == (WORLD if sharding == "data_parallel" else 1)).all()


@pytest.mark.parametrize(("pooled", "sharding"), [case for case in CASES if case[1] != "data_parallel"])
def test_ranks_send_what_was_foretold(ranks, pooled, sharding):
    sizes = 3 * 8 * (WORLD - 1)
    for rank in ranks:
        done = rank[f"{pooled} {sharding}"]
        ids, vectors, gradients = done["sent"]
        assert [ids - sizes, vectors, gradients] == done["foretold"]


def test_every_rank_has_the_plan_of_the_first(ranks):
    assert [rank["plan"] for rank in ranks] == ["table_wise"] * WORLD


def test_every_rank_gets_the_error_of_the_first(ranks):
    assert ranks[0]["large"][0] == DoesNotFit.__name__
    assert all(rank["large"] == ranks[0]["large"] for rank in ranks)
    assert ranks[3]["ranks"] == ["PlanError", "the topology has 2 ranks, the process group 4"]
