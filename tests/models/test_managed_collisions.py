"""What TorchRec's managed collision modules do on CPUs; the page on large vocabularies says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torchrec.distributed.mc_embedding import ManagedCollisionEmbeddingCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import ShardingType
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.modules.hash_mc_modules import HashZchManagedCollisionModule
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingCollection
from torchrec.modules.mc_modules import (
    DistanceLFU_EvictionPolicy,
    LFU_EvictionPolicy,
    LRU_EvictionPolicy,
    ManagedCollisionCollection,
    MCHManagedCollisionModule,
)
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

pytestmark = pytest.mark.filterwarnings("ignore")
CPU = torch.device("cpu")
POLICIES = (LFU_EvictionPolicy, LRU_EvictionPolicy, DistanceLFU_EvictionPolicy)
HIGH = 2**39  # ids from here on live on the second of two ranks


def jagged(ids: list[int]) -> dict[str, JaggedTensor]:
    return {"t": JaggedTensor(values=torch.tensor(ids), lengths=torch.ones(len(ids), dtype=torch.int32))}


def keyed(ids: list[int]) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(["f"], torch.tensor(ids), lengths=torch.ones(len(ids), dtype=torch.int32))


def collection(policy: type, device: str) -> ManagedCollisionEmbeddingCollection:
    configs = [EmbeddingConfig(name="t", embedding_dim=4, num_embeddings=8, feature_names=["f"])]
    module = MCHManagedCollisionModule(8, CPU, policy(), eviction_interval=1, input_hash_size=2**40, buckets=2)
    return ManagedCollisionEmbeddingCollection(
        EmbeddingCollection(tables=configs, device=torch.device(device)),
        ManagedCollisionCollection({"t": module}, configs),
        return_remapped_features=True,
    )


def test_hash_based_modules_are_read_but_not_trained_on_a_cpu() -> None:
    module = HashZchManagedCollisionModule(zch_size=8, device=CPU, total_num_buckets=1, max_probe=8)
    with pytest.raises(RuntimeError, match="Expected readonly to be true"):
        module(jagged([10, 20]))
    rows = module.eval()(jagged([10, 20, 10]))["t"].values()
    assert rows[0] == rows[2] and int(rows.max()) < 8


def test_torchrec_leaves_the_vector_of_an_evicted_id_to_the_next_one() -> None:
    embeddings = collection(LRU_EvictionPolicy, "cpu")
    before, rows = embeddings(keyed(list(range(7))))
    after, again = embeddings(keyed(list(range(10, 17))))
    assert sorted(rows.values().tolist()) == sorted(again.values().tolist()) == list(range(7))
    order = [again.values().tolist().index(row) for row in rows.values().tolist()]
    assert torch.equal(before["f"].values(), after["f"].values()[order])


def planner(sharding: ShardingType) -> EmbeddingShardingPlanner:
    rule = ParameterConstraints(sharding_types=[sharding.value], compute_kernels=["fused"])
    return EmbeddingShardingPlanner(topology=Topology(world_size=2, compute_device="cpu"), constraints={"t": rule})


def _sharded(rank: int, folder: str) -> None:
    """Two steps of a sharded collection under each policy; writes the rows."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    sharder = ManagedCollisionEmbeddingCollectionSharder()
    rows = []
    for policy in POLICIES:
        model = collection(policy, "meta")
        plan = planner(ShardingType.ROW_WISE).plan(model, [sharder])
        parallel = DistributedModelParallel(model, device=CPU, plan=plan, sharders=[sharder])
        for ids in ([10, 10, 20, HIGH, HIGH], [10, 20, HIGH, HIGH + 5, 30]):
            vectors, remapped = parallel(keyed(ids))
            vectors["f"].values().sum().backward()
            rows.append((remapped.wait() if hasattr(remapped, "wait") else remapped).values())
    torch.save(torch.stack(rows), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.distributed
def test_sharded_by_rows_over_gloo(tmp_path: Path) -> None:
    """Each rank owns a range of ids: rows 0 to 3 are those of the lower half, and all ranks see the same rows."""
    mp.spawn(_sharded, args=(str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert torch.equal(*ranks)
    for (ten, _, twenty, high, _), (ten_again, twenty_again, high_again, _, _) in ranks[0].view(3, 2, 5).tolist():
        assert [ten, twenty, high] == [ten_again, twenty_again, high_again]
        assert ten < 3 and twenty < 3 and 4 <= high < 7 and ten != twenty


@pytest.mark.parametrize("sharding", [ShardingType.TABLE_WISE, ShardingType.COLUMN_WISE, ShardingType.DATA_PARALLEL])
def test_no_other_sharding(sharding: ShardingType) -> None:
    with pytest.raises(RuntimeError, match="No available sharding type"):
        planner(sharding).plan(collection(LFU_EvictionPolicy, "meta"), [ManagedCollisionEmbeddingCollectionSharder()])
