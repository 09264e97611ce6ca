"""The tables of a model as TorchRec's sharders see them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.mc_embedding import ManagedCollisionEmbeddingCollectionSharder
from torchrec.distributed.mc_embeddingbag import ManagedCollisionEmbeddingBagCollectionSharder
from torchrec.distributed.types import ModuleSharder
from torchrec.distributed.utils import optimizer_type_to_emb_opt_type
from torchrec.modules.embedding_configs import PoolingType
from torchrec.modules.mc_embedding_modules import BaseManagedCollisionEmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.training.table_costs import Table
from recsys.training.topology import PlanError, TableRule

DENSE_COPIES = 6
"""Copies of a dense weight on a rank: weight, gradient, Adam's two moments, DDP's buckets (TorchRec's heuristic)."""
BY_ROWS = ("row_wise", "table_row_wise", "grid_shard")

Sharder: TypeAlias = ModuleSharder


class SequenceSharder(EmbeddingCollectionSharder):
    """TorchRec's, which on a CPU looks data-parallel tables up as bags: more than one id a sample is refused.

    FBGEMM's dense kernel for a CPU adds the vectors of a sample up, whatever it was asked for (fbgemm_gpu 1.8.0).
    """

    def shard(self, module: nn.Module, params: Any, env: Any, device: Any = None, module_fqn: Any = None) -> nn.Module:
        sharded: nn.Module = super().shard(module, params, env, device, module_fqn)
        replicated = {name for name, planned in params.items() if planned.sharding_type == "data_parallel"}
        if replicated and device is not None and torch.device(device).type == "cpu":
            features = [f for c in module.embedding_configs() if c.name in replicated for f in c.feature_names]  # type: ignore[operator]
            sharded.register_forward_pre_hook(partial(_one_id_a_sample, features))
        return sharded


def _one_id_a_sample(features: Sequence[str], module: nn.Module, inputs: tuple[KeyedJaggedTensor]) -> None:
    for name in features:
        if bool((inputs[0][name].lengths() != 1).any()):
            raise PlanError(
                f"feature `{name}` reads a data-parallel table, for which TorchRec on a CPU takes one id a sample; "
                "shard the table by rows, or give each id a sample of its own"
            )


class BagSharder(EmbeddingBagCollectionSharder):
    """TorchRec's, which offers pooled tables no sharding by rows on a CPU though it can do it, over gloo too."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        offered = super().sharding_types(compute_device_type)
        return offered + [kind for kind in BY_ROWS if kind not in offered]


def table_sharders(fused_params: dict[str, Any] | None = None) -> list[Sharder]:
    """Sharders of the four TorchRec collections: bags or not, with managed collisions or not.

    Args:
        fused_params: settings of FBGEMM's kernels, the optimizer among them; None where the optimizer was applied to
            the parameters.
    """
    sequences, bags = SequenceSharder(fused_params), BagSharder(fused_params)
    return [
        sequences,
        bags,
        ManagedCollisionEmbeddingCollectionSharder(sequences),
        ManagedCollisionEmbeddingBagCollectionSharder(bags),
    ]


def altered(
    sharders: Sequence[Sharder],
    shapes: Mapping[str, tuple[int, int]],
    optimizer: type[torch.optim.Optimizer] | None = None,
) -> list[Sharder]:
    """Sharders that see other tables than there are, for plans of models that do not exist.

    Args:
        sharders: that see the tables as they are.
        shapes: table -> other rows and dimensions.
        optimizer: another for all tables; None: their own.
    """

    def seen(sharder: Sharder) -> Sharder:
        def parameters(module: nn.Module) -> dict[str, nn.Parameter]:
            weights: dict[str, nn.Parameter] = sharder.shardable_parameters(module)
            return {name: _like(weight, shapes.get(name), optimizer) for name, weight in weights.items()}

        other = copy.copy(sharder)
        other.shardable_parameters = parameters
        return other

    return [seen(sharder) for sharder in sharders]


def _like(
    weight: nn.Parameter, shape: tuple[int, int] | None, optimizer: type[torch.optim.Optimizer] | None
) -> nn.Parameter:
    """A weight on the meta device that differs from another one in what is given."""
    other = nn.Parameter(torch.empty(shape or weight.shape, dtype=weight.dtype, device="meta"))
    classes = [optimizer] if optimizer is not None else getattr(weight, "_optimizer_classes", [])
    if classes:
        other._optimizer_classes = classes  # type: ignore[attr-defined]
    return other


def collections(module: nn.Module, sharders: Sequence[Sharder]) -> Iterator[tuple[str, nn.Module, Sharder]]:
    """The collections that the sharders know, by their names within a model; nothing within them is looked at."""
    known = {sharder.module_type: sharder for sharder in sharders}
    waiting = [("", module)]
    while waiting:
        path, part = waiting.pop()
        if type(part) in known:
            yield path, part, known[type(part)]
        else:
            waiting += [(f"{path}.{name}" if path else name, child) for name, child in part.named_children()]


def find_tables(
    module: nn.Module, sharders: Sequence[Sharder], rules: Mapping[str, TableRule], batch_size: int
) -> list[Table]:
    """The tables of a model, by name.

    Raises:
        PlanError: a table's optimizer has no kernel, or its dimensions are no multiple of 4.
    """
    tables = []
    for path, part, sharder in collections(module, sharders):
        inner = part._embedding_module if isinstance(part, BaseManagedCollisionEmbeddingCollection) else part
        pooled = hasattr(inner, "embedding_bag_configs")
        listed: Any = inner.embedding_bag_configs if pooled else inner.embedding_configs
        configs = {config.name: config for config in listed()}
        for name, weight in sharder.shardable_parameters(part).items():
            rows, dim = weight.shape
            if dim % 4:
                raise PlanError(f"table `{name}` has {dim} dimensions; TorchRec's kernels take multiples of 4")
            config = configs[name]
            found = Table(
                name=name,
                module=path,
                rows=rows,
                dim=dim,
                value_bytes=weight.element_size(),
                pooled=pooled,
                optimizer=_optimizer(name, weight, sharder),
                features=len(config.feature_names),
                batch_size=batch_size,
                pooling_factor=rules.get(name, TableRule()).pooling_factor,
                mean=pooled and config.pooling is PoolingType.MEAN,
            )
            tables.append(found)
    return sorted(tables, key=lambda table: (table.name, table.module))


def _optimizer(name: str, weight: nn.Parameter, sharder: Sharder) -> EmbOptimType | None:
    """What steps a table: applied to the parameter, or set for the kernels; None: FBGEMM's default."""
    classes = getattr(weight, "_optimizer_classes", [])
    if not classes:
        set_for_kernels: EmbOptimType | None = (getattr(sharder, "fused_params", None) or {}).get("optimizer")
        return set_for_kernels
    try:
        return optimizer_type_to_emb_opt_type(classes[0])
    except ValueError:
        raise PlanError(f"table `{name}`: {classes[0].__name__} has no fused kernel in FBGEMM") from None


def dense_parts(module: nn.Module, sharders: Sequence[Sharder]) -> dict[str, int]:
    """Bytes on each rank of everything that is no table: weights with their gradients and moments, and buffers."""
    inside = {id(tensor) for _, part, _ in collections(module, sharders) for tensor in part.parameters()}
    weights = {name: DENSE_COPIES * w.nbytes for name, w in module.named_parameters() if id(w) not in inside}
    return weights | {name: buffer.nbytes for name, buffer in module.named_buffers()}


def dense_bytes(module: nn.Module, sharders: Sequence[Sharder]) -> int:
    """The sum of `dense_parts`."""
    return sum(dense_parts(module, sharders).values())
