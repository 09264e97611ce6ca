"""Bags of all ranks brought to the same number of rows, for backends that cannot exchange uneven ones."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor


def even_bags(module: nn.Module) -> None:
    """Lets the sharded bags of a module take different numbers of rows on different ranks, over gloo.

    TorchRec sums the parts of a table that is cut by rows with a reduce-scatter, whose gradient over gloo is right for
    equally many rows a rank only. Empty bags fill the shorter inputs up, and their outputs are cut off again, at the
    cost of one integer exchanged. NCCL needs none of it.
    """
    if dist.get_world_size() == 1 or dist.get_backend() != "gloo":
        return
    for part in module.modules():
        if isinstance(part, ShardedEmbeddingBagCollection):
            part.register_forward_pre_hook(_fill_up)
            part.register_forward_hook(_cut_off)


def _fill_up(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    (bags,) = inputs
    most = torch.tensor(bags.stride())
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    missing = int(most) - bags.stride()
    if not missing:
        return inputs
    lengths = F.pad(bags.lengths().view(len(bags.keys()), -1), (0, missing)).flatten()
    filled = KeyedJaggedTensor(keys=bags.keys(), values=bags.values(), weights=bags.weights_or_none(), lengths=lengths)
    # TorchRec's module keeps nothing of its input, and the hook after it must know what was filled up.
    filled.rows = bags.stride()
    return (filled,)


def _cut_off(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    rows = getattr(inputs[0], "rows", None)
    if rows is None:
        return output
    pooled: KeyedTensor = output.wait()
    return KeyedTensor(keys=pooled.keys(), length_per_key=pooled.length_per_key(), values=pooled.values()[:rows])
