"""Tables are made where they are asked to be, and everything else where it always was."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection

from recsys.models.tables import table_device, tables_on


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        item = EmbeddingConfig(name="item", embedding_dim=4, num_embeddings=9, feature_names=["item"])
        self.items = EmbeddingCollection(tables=[item], device=table_device())
        self.line = nn.Linear(4, 1)


def test_tables_are_shapes_and_draw_nothing() -> None:
    torch.manual_seed(0)
    with tables_on("meta"):
        model = Model()
    torch.manual_seed(0)
    line = nn.Linear(4, 1)
    table = model.get_parameter("items.embeddings.item.weight")
    assert table.is_meta and table.shape == (9, 4)
    assert torch.equal(model.line.weight, line.weight)
    assert not Model().get_parameter("items.embeddings.item.weight").is_meta


def test_the_device_before_comes_back() -> None:
    assert table_device() is None
    with tables_on("meta"):
        with tables_on("cpu"):
            assert table_device() == torch.device("cpu")
        assert table_device() == torch.device("meta")
    with pytest.raises(KeyError), tables_on("meta"):
        raise KeyError
    assert table_device() is None
