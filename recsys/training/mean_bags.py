"""Means over bags of which some tables are cut by rows and others are not."""

from __future__ import annotations

from torch import nn
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.modules.embedding_configs import PoolingType

BY_ROWS = ("row_wise", "table_row_wise")


def mean_bags(module: nn.Module) -> None:
    """Takes the means of sharded bags once.

    A part of a table that is cut by rows knows a part of a bag, and gives its sum; TorchRec divides afterwards by the
    length of the bag, and with it the means that other tables of the collection have taken already (torchrec 1.8.0).
    Those are exempted here, like sums.
    """
    for part in module.modules():
        if isinstance(part, ShardedEmbeddingBagCollection):
            for config in part._embedding_bag_configs:
                if part.module_sharding_plan[config.name].sharding_type not in BY_ROWS:
                    part._pooling_type_to_rs_features[PoolingType.SUM.value].extend(config.feature_names)
