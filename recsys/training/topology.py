"""The machines that tables are planned for, and what a table may ask of its plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torchrec.distributed.planner import constants
from torchrec.distributed.planner.types import HardwareConfig, KernelConfig, TopologyFactory, TrainerConfig
from torchrec.distributed.planner.types import Topology as TorchRecTopology

GIB = 1 << 30
MOST_GPUS = 127
"""Of a machine: more have no device index in PyTorch."""
PER_MS = GIB / 1000
"""GiB/s in TorchRec's unit, bytes/ms."""

Device = Literal["cpu", "cuda"]
ShardingName = Literal[
    "data_parallel", "table_wise", "column_wise", "row_wise", "table_row_wise", "table_column_wise", "grid_shard"
]
Placement = Literal["device", "host", "cached"]

KERNELS: dict[Placement, tuple[str, ...]] = {
    "device": ("fused", "dense"),
    "host": ("fused_uvm",),
    "cached": ("fused_uvm_caching",),
}
"""TorchRec's compute kernels by where they keep a table; `dense` is the kernel of data-parallel tables."""


class PlanError(ValueError):
    """Tables that cannot be placed as they were asked to be; the message says what could be done."""


@dataclass(frozen=True)
class Topology:
    """Ranks, their memory and what connects them. All memory is of one rank, all rates are GiB/s.

    Attributes:
        ranks: processes of the job, one for each device.
        ranks_per_host: of them on one machine; None: all.
        device: where a rank computes.
        memory_gib: memory of a rank: of its GPU, or on a CPU its share of the machine's. None takes TorchRec's default,
            32 GiB of a GPU and 128 GiB on a CPU.
        host_memory_gib: share of the machine's memory that a rank with a GPU has for tables that do not fit on the GPU.
            None takes TorchRec's default, 128 GiB. Without a GPU it means nothing.
        reserve: share of `memory_gib` that tables leave alone, for activations and what allocators lose.
        intra_host_bandwidth: between two ranks of one machine.
        inter_host_bandwidth: between two machines.
        device_bandwidth: of a GPU's memory.
        host_bandwidth: of a machine's memory.
        device_to_host_bandwidth: between a GPU and its machine's memory.

    Raises:
        PlanError: a value is out of range, or ranks do not divide among machines.

    Example:
        >>> Topology(ranks=16, ranks_per_host=8, device="cuda", memory_gib=80).hosts
        2
    """

    ranks: int = 1
    ranks_per_host: int | None = None
    device: Device = "cpu"
    memory_gib: float | None = None
    host_memory_gib: float | None = None
    reserve: float = 0.15
    intra_host_bandwidth: float = constants.INTRA_NODE_BANDWIDTH / PER_MS
    inter_host_bandwidth: float = constants.CROSS_NODE_BANDWIDTH / PER_MS
    device_bandwidth: float = constants.HBM_MEM_BW / PER_MS
    host_bandwidth: float = constants.DDR_MEM_BW / PER_MS
    device_to_host_bandwidth: float = constants.HBM_TO_DDR_MEM_BW / PER_MS

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise PlanError(f"ranks: {self.ranks}; a job has at least one")
        if not 1 <= self.local_ranks <= self.ranks or self.ranks % self.local_ranks:
            raise PlanError(f"ranks_per_host: {self.ranks_per_host} does not divide the {self.ranks} ranks")
        if self.device not in ("cpu", "cuda"):
            raise PlanError(f"device: `{self.device}`; tables are planned for cpu or cuda")
        if self.device == "cuda" and self.local_ranks > MOST_GPUS:
            raise PlanError(f"ranks_per_host: no machine has {self.local_ranks} GPUs; say how many each has")
        if not 0 <= self.reserve < 1:
            raise PlanError(f"reserve: {self.reserve} is no share of the memory; 0.15 is usual")
        names = ("memory_gib", "host_memory_gib", "intra_host_bandwidth", "inter_host_bandwidth", "device_bandwidth")
        for name in (*names, "host_bandwidth", "device_to_host_bandwidth"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise PlanError(f"{name}: {value}; it must be above 0")

    @property
    def local_ranks(self) -> int:
        """Ranks on one machine."""
        return self.ranks if self.ranks_per_host is None else self.ranks_per_host

    @property
    def hosts(self) -> int:
        """Machines."""
        return self.ranks // self.local_ranks

    @property
    def memory(self) -> int:
        """Bytes of a rank: of its GPU, or on a CPU of its share of the machine."""
        default = constants.HBM_CAP if self.device == "cuda" else constants.DDR_CAP
        return default if self.memory_gib is None else int(self.memory_gib * GIB)

    @property
    def host_memory(self) -> int:
        """Bytes of the machine's memory that a rank has beside its GPU; 0 on a CPU."""
        if self.device == "cpu":
            return 0
        return constants.DDR_CAP if self.host_memory_gib is None else int(self.host_memory_gib * GIB)

    def torchrec(self, dense: int = 0) -> TorchRecTopology:
        """TorchRec's object, with the memory that is left for tables.

        Args:
            dense: bytes that the rest of the model takes on every rank.
        """
        left = self.for_tables(dense)
        rates = HardwareConfig(
            intra_host_bw=self.intra_host_bandwidth * PER_MS,
            inter_host_bw=self.inter_host_bandwidth * PER_MS,
            hbm_mem_bw=self.device_bandwidth * PER_MS,
            ddr_mem_bw=self.host_bandwidth * PER_MS,
            hbm_to_ddr_mem_bw=self.device_to_host_bandwidth * PER_MS,
        )
        trainer = TrainerConfig(
            world_size=self.ranks,
            local_world_size=self.local_ranks,
            hbm_cap_bytes=left if self.device == "cuda" else 0,
            ddr_cap_bytes=self.host_memory if self.device == "cuda" else left,
            ssd_cap_bytes=0,
        )
        kernel = KernelConfig(compute_device=self.device, use_hardware_based_bandwidth=True)
        return TopologyFactory.create_topology(trainer, rates, kernel)

    def for_tables(self, dense: int = 0) -> int:
        """Bytes of a rank's memory that tables may take."""
        return max(0, int(self.memory * (1 - self.reserve)) - dense)


@dataclass(frozen=True)
class TableRule:
    """What the plan of one table may be. What is None is the planner's choice.

    Attributes:
        sharding: allowed ways of sharding.
        placement: allowed places: `device`; `host`, the machine's memory read by the GPU; `cached`, the same with a
            cache on the GPU. Without a GPU there is `device` alone.
        cache_load_factor: rows in the cache over rows of the table, of a cached one; None: TorchRec's 0.2.
        min_partition: dimensions of the smallest column-wise shard, a multiple of 4; None: TorchRec's 128.
        pooling_factor: ids of a sample for each feature that reads the table, on average.

    Raises:
        PlanError: a value is unknown or out of range.
    """

    sharding: Sequence[ShardingName] | None = None
    placement: Sequence[Placement] | None = None
    cache_load_factor: float | None = None
    min_partition: int | None = None
    pooling_factor: float = 1.0

    def __post_init__(self) -> None:
        for name, known in (("sharding", ShardingName.__args__), ("placement", Placement.__args__)):  # type: ignore[attr-defined]
            given = getattr(self, name)
            if isinstance(given, str) or given == [] or (given and set(given) - set(known)):
                raise PlanError(f"{name}: {given!r}; give a list of {', '.join(known)}")
        if self.cache_load_factor is not None and not 0 < self.cache_load_factor < 1:
            raise PlanError(f"cache_load_factor: {self.cache_load_factor}; it lies between 0 and 1")
        if self.min_partition is not None and (self.min_partition < 4 or self.min_partition % 4):
            raise PlanError(f"min_partition: {self.min_partition}; kernels take multiples of 4")
        if not self.pooling_factor > 0:
            raise PlanError(f"pooling_factor: {self.pooling_factor}; it must be above 0")
