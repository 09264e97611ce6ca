"""Memory and traffic of tables against cases computed by hand, FBGEMM's own state, and TorchRec's estimates."""

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen
from torchrec.distributed.planner.shard_estimators import calculate_shard_storages
from torchrec.distributed.planner.types import SharderData
from torchrec.distributed.types import StorageUsageType

from recsys.training.table_costs import STATE, Memory, Shard, Table, Traffic, shard_memory, state_bytes, traffic
from recsys.training.topology import PlanError, Topology

ITEMS = Table("item_id", "ids", 1000, 64, 4, False, EmbOptimType.EXACT_ROWWISE_ADAGRAD, features=1, batch_size=10)
WORDS = Table("words", "bags", 1000, 64, 4, True, EmbOptimType.ADAM, features=2, batch_size=10, pooling_factor=5)


def test_state_of_each_optimizer():
    rows, dim = 100, 8
    assert {kind.value: sum(state_bytes(kind, rows, dim)) for kind in STATE} == {
        "none": 0,
        "sgd": 0,
        "exact_sgd": 0,
        "exact_row_wise_adagrad": 4 * rows,
        "exact_adagrad": 4 * rows * dim,
        "lars_sgd": 4 * rows * dim,
        "partial_row_wise_adam": 4 * rows * dim + 4 * rows,
        "partial_row_wise_lamb": 4 * rows * dim + 4 * rows,
        "adam": 8 * rows * dim,
        "lamb": 8 * rows * dim,
    }
    assert state_bytes(None, rows, dim) == (0, 0)
    with pytest.raises(PlanError, match="shampoo is not known; take one of none, sgd"):
        state_bytes(EmbOptimType.SHAMPOO, rows, dim)


@pytest.mark.parametrize("kind", ["EXACT_SGD", "EXACT_ADAGRAD", "EXACT_ROWWISE_ADAGRAD"])
def test_state_is_what_fbgemm_allocates(kind):
    optimizer = EmbOptimType[kind]
    made = SplitTableBatchedEmbeddingBagsCodegen(
        [(100, 8, EmbeddingLocation.HOST, ComputeDevice.CPU)], optimizer=optimizer
    )
    held = sum(state.nbytes for states in made.split_optimizer_states() for state in states)
    assert held == sum(state_bytes(optimizer, 100, 8))


def test_memory_of_a_row_wise_shard():
    # 250 of 1000 rows; 4 ranks ask for 10 ids each, a quarter of which lie here.
    memory = shard_memory(ITEMS, "row_wise", "fused", (250, 64), Topology(ranks=4))
    assert memory == Memory(weights=250 * 64 * 4, state=250 * 4, buffers=10 * 8 + 10 * 64 * 4)
    assert memory.on_rank == 64_000 + 1_000 + 80 + 2_560


def test_memory_of_a_table_wise_bag():
    # 4 ranks x 10 samples x 2 features: 5 ids come in and one vector goes out for each.
    memory = shard_memory(WORDS, "table_wise", "fused", (1000, 64), Topology(ranks=4))
    assert memory == Memory(weights=256_000, state=512_000, buffers=400 * 8 + 80 * 64 * 4)


def test_memory_of_row_wise_bags_holds_partial_sums_of_all_samples():
    memory = shard_memory(WORDS, "row_wise", "fused", (250, 64), Topology(ranks=4))
    assert memory.buffers == 100 * 8 + 80 * 64 * 4
    assert shard_memory(WORDS, "row_wise", "fused", (0, 64), Topology(ranks=4)) == Memory()


def test_memory_of_a_data_parallel_table_has_a_dense_gradient():
    memory = shard_memory(ITEMS, "data_parallel", "dense", (1000, 64), Topology(ranks=4))
    assert (memory.weights, memory.state, memory.gradient) == (256_000, 4_000, 256_000)
    assert memory.buffers == 10 * 8 + 10 * 64 * 4


def test_a_column_wise_shard_has_row_wise_state_of_its_own():
    assert shard_memory(ITEMS, "column_wise", "fused", (1000, 32), Topology(ranks=2)).state == 4_000


@pytest.mark.parametrize(("optimizer", "on_host", "state"), [("EXACT_ROWWISE_ADAGRAD", 256_000, 4_000),
                                                            ("EXACT_ADAGRAD", 512_000, 256_000)])  # fmt: skip
def test_host_placement_leaves_row_wise_state_on_the_gpu(optimizer, on_host, state):
    table = ITEMS._replace(optimizer=EmbOptimType[optimizer])
    memory = shard_memory(table, "table_wise", "fused_uvm", (1000, 64), Topology(device="cuda"))
    assert (memory.on_host, memory.state, memory.cache) == (on_host, state, 0)
    assert memory.on_rank == 256_000 + state + memory.buffers - on_host


def test_cached_placement_has_rows_and_books_on_the_gpu():
    gpu = Topology(device="cuda")
    memory = shard_memory(ITEMS, "table_wise", "fused_uvm_caching", (1000, 64), gpu, load_factor=0.1)
    # A tenth of the weights; 4 bytes a row and 16 a slot.
    assert memory.cache == 25_600 + 1000 * 4 + 100 * 16
    assert memory.on_rank == memory.cache + 4_000 + memory.buffers
    default = shard_memory(ITEMS, "table_wise", "fused_uvm_caching", (1000, 64), gpu)
    assert default.cache == 51_200 + 4_000 + 3_200


FUSED = [
    ("row_wise", (250, 64)),
    ("table_wise", (1000, 64)),
    ("column_wise", (1000, 32)),
    ("table_row_wise", (500, 64)),
]
CASES = [(device, sharding, "fused", size) for device in ("cpu", "cuda") for sharding, size in FUSED]
CASES += [("cuda", *FUSED[0][:1], "fused_uvm", FUSED[0][1]), ("cuda", "table_wise", "fused_uvm_caching", (1000, 64))]


@pytest.mark.parametrize("table", [ITEMS, WORDS], ids=["sequence", "pooled"])
@pytest.mark.parametrize(("device", "sharding", "kernel", "size"), CASES)
def test_memory_without_optimizer_is_torchrec_s_estimate(device, table, sharding, kernel, size):
    topology = Topology(ranks=4, ranks_per_host=2, device=device)
    (theirs,) = calculate_shard_storages(
        SharderData(fused_params={}, qcomm_dtype_sizes={}, storage_usage_type=StorageUsageType.BASE),
        sharding_type=sharding,
        tensor=torch.empty(1000, 64, device="meta"),
        compute_device=device,
        compute_kernel=kernel,
        shard_sizes=[list(size)],
        batch_sizes=[table.batch_size] * table.features,
        world_size=4,
        local_world_size=2,
        input_lengths=[table.pooling_factor] * table.features,
        num_poolings=[1.0] * table.features,
        caching_ratio=0.2,
        is_pooled=table.pooled,
        input_data_type_size=8,
        output_data_type_size=4,
    )
    ours = shard_memory(table._replace(optimizer=None), sharding, kernel, size, topology)
    assert (ours.on_rank, ours.on_host) == ((theirs.hbm, theirs.ddr) if device == "cuda" else (theirs.ddr, 0))


def test_traffic_of_a_table_on_one_rank():
    sent = traffic(ITEMS, "table_wise", [Shard(1, 1000, 64, 0)], Topology(ranks=3))
    other = Traffic(ids=10 * 8, vectors=0, gradients=10 * 256)
    assert sent == [other, Traffic(ids=0, vectors=2 * 10 * 256, gradients=0), other]


def test_traffic_of_uneven_rows():
    shards = [Shard(0, 400, 64, 0), Shard(1, 400, 64, 0), Shard(2, 200, 64, 0)]
    sent = traffic(ITEMS, "row_wise", shards, Topology(ranks=3))
    # Rank 0 asks others for 6 of its 10 ids, and has 4 ids of each of two others.
    assert sent[0].ids == pytest.approx(6 * 8)
    assert sent[0].vectors == pytest.approx(2 * 4 * 256)
    assert sent[0].gradients == pytest.approx(6 * 256)
    assert sent[2].ids == pytest.approx(8 * 8)
    assert sent[2].vectors == pytest.approx(2 * 2 * 256)
    # What is sent is what is received.
    assert sum(s.vectors for s in sent) == pytest.approx(sum(s.gradients for s in sent))


def test_traffic_of_a_data_parallel_table_is_a_ring():
    assert traffic(ITEMS, "data_parallel", [], Topology(ranks=4)) == [Traffic(gradients=1.5 * 256_000)] * 4


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "data_parallel"])
def test_one_rank_sends_nothing(sharding):
    for table in (ITEMS, WORDS):
        assert traffic(table, sharding, [Shard(0, 1000, 64, 0)], Topology()) == [Traffic()]
