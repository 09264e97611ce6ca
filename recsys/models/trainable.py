"""The base of every network that training knows: how it is built, saved, and what it falls back to."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.features.catalogue import Catalogue
from recsys.models.recommender import Recommender

ITEM_BLOCK = 65536


class TrainableNetwork(nn.Module, Recommender):
    """A `Recommender` with weights, made from a catalogue and saved with it.

    A subclass sets `self.hyperparameters` (JSON-able constructor arguments). What its `forward` takes and gives is an
    affair between it and the objectives that train it: `SequenceNetwork` reads histories, `InteractionNetwork` pairs.

    Args:
        catalogue: sizes, side features and training counts of the data.
    """

    popularity: Tensor
    hyperparameters: dict[str, Any]
    reads_users: ClassVar[bool] = True
    """Whether it may read features of users; False keeps them out of saved models."""

    def __init__(self, catalogue: Catalogue):
        super().__init__()
        self.catalogue = catalogue if self.reads_users else catalogue.without_users()
        self.n_items = catalogue.n_items
        # Users of whom nothing is known get the popular items: user vector (0, ..., 0, 1), item vector (v, popularity).
        self.register_buffer("popularity", torch.log1p(catalogue.counts.float()), persistent=False)

    def dense_part(self) -> nn.Module:
        """The part that takes dense tensors alone, and so can be compiled; the whole network if none is named."""
        return self

    @classmethod
    @abc.abstractmethod
    def build(cls, catalogue: Catalogue, hyperparameters: dict[str, Any]) -> TrainableNetwork:
        """Makes a network with fresh weights from what `hyperparameters` held."""

    def config(self) -> dict[str, Any]:
        return {"hyperparameters": self.hyperparameters, "catalogue": self.catalogue.config()}

    def state(self) -> dict[str, Tensor]:
        weights = {f"weights.{name}": value.detach() for name, value in self.state_dict().items()}
        return weights | {f"catalogue.{name}": value for name, value in self.catalogue.tensors().items()}

    @classmethod
    def from_state(cls, config: dict[str, Any], state: dict[str, Tensor]) -> TrainableNetwork:
        tensors = {name.removeprefix("catalogue."): v for name, v in state.items() if name.startswith("catalogue.")}
        network = cls.build(Catalogue.from_parts(config["catalogue"], tensors), config["hyperparameters"])
        network.load_state_dict({n.removeprefix("weights."): v for n, v in state.items() if n.startswith("weights.")})
        return network.eval()


def with_popularity(vectors: Callable[[Tensor], Tensor], popularity: Tensor, ids: Tensor | None) -> Tensor:
    """Item vectors with their popularity as one more dimension, made block by block.

    Args:
        vectors: `[n]` int64 ids to `[n, d]`.
        popularity: `[n_items + 1]` float.
        ids: `[n]` int64; None: rows 0..n_items.

    Returns:
        `[n, d + 1]` float32.

    Example:
        >>> with_popularity(lambda ids: torch.ones(len(ids), 1), torch.tensor([0.0, 5.0, 3.0]), torch.tensor([2]))
        tensor([[1., 3.]])
    """
    if ids is None:
        ids = torch.arange(len(popularity), device=popularity.device)
    made = torch.cat([vectors(block) for block in ids.split(ITEM_BLOCK)]).float()
    return F.pad(made, (0, 1)).index_copy_(
        1, torch.tensor([made.shape[1]], device=ids.device), popularity[ids].unsqueeze(-1)
    )
