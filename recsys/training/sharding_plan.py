"""Which rank gets which part of which table: TorchRec's planner, for a job that runs or one that is only planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.distributed as dist
from torch import nn
from torchrec.distributed.collective_utils import invoke_on_rank_and_broadcast_result
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.types import ShardingPlan

from recsys.training.plan_advice import DoesNotFit, does_not_fit
from recsys.training.table_planner import plan_once
from recsys.training.table_sharders import Sharder, table_sharders
from recsys.training.topology import PlanError, TableRule, Topology

__all__ = ["DoesNotFit", "PlanError", "TableRule", "Topology", "sharding_plan"]


def sharding_plan(
    module: nn.Module,
    topology: Topology,
    rules: Mapping[str, TableRule] | None = None,
    batch_size: int = 512,
    sharders: Sequence[Sharder] | None = None,
) -> ShardingPlan:
    """The plan of the tables of a model, the same on every rank.

    Without a process group it is a dry run, whatever the topology. With one, rank 0 plans and every rank gets its plan,
    or its error.

    Source: `EmbeddingShardingPlanner` of TorchRec.

    Args:
        module: with TorchRec collections, on any device; `meta` will do.
        topology: of the job.
        rules: name of a table -> what its plan may be.
        batch_size: samples of a step on a rank, as the collections see them: rows of their KeyedJaggedTensor.
        sharders: of the collections; None: `table_sharders`.

    Raises:
        DoesNotFit: the tables are too large; says which needs how much, and what would make them fit.
        PlanError: a rule is for no table or allows nothing; or the process group has another
            number of ranks.

    Example:
        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig
        >>> from torchrec.modules.embedding_modules import EmbeddingBagCollection
        >>> words = EmbeddingBagConfig(name="words", embedding_dim=64, num_embeddings=10**9, feature_names=["words"])
        >>> bags = EmbeddingBagCollection(tables=[words], device="meta")
        >>> plan = sharding_plan(bags, Topology(ranks=8, device="cuda", memory_gib=80))
        >>> plan.plan[""]["words"].sharding_type
        'row_wise'
    """
    known = list(sharders) if sharders is not None else table_sharders()
    arguments = (module, topology, dict(rules or {}), batch_size, known)
    if dist.is_available() and dist.is_initialized():
        group = dist.group.WORLD
        if topology.ranks != dist.get_world_size():
            raise PlanError(f"the topology has {topology.ranks} ranks, the process group {dist.get_world_size()}")
        # An error is sent like a plan: the other ranks would wait for one for ever.
        made = invoke_on_rank_and_broadcast_result(group, 0, _plan_or_error, *arguments)
    else:
        made = _plan_or_error(*arguments)
    if isinstance(made, PlanError):
        raise made
    return made


def _plan_or_error(
    module: nn.Module,
    topology: Topology,
    rules: Mapping[str, TableRule],
    batch_size: int,
    sharders: Sequence[Sharder],
) -> ShardingPlan | PlanError:
    try:
        return plan_once(module, topology, rules, batch_size, sharders)
    except PlannerError:
        return does_not_fit(module, topology, rules, batch_size, sharders)
    except PlanError as error:
        return error
