"""How likely each pair of a user and an item was to be exposed, estimated from training positives or logged."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from recsys.features.catalogue import Catalogue
from recsys.features.pair_batch import InteractionBatch


class PropensityError(ValueError):
    """Propensities that nobody knows; the message says what to take instead."""


class Propensity(nn.Module, abc.ABC):
    """The chance that a pair was exposed. It is estimated from the training part alone."""

    knows_unlabeled: ClassVar[bool] = True
    """Whether it has values for pairs that were not observed."""

    @abc.abstractmethod
    def setup(self, catalogue: Catalogue) -> None:
        """Estimates what there is to estimate; called once before training."""

    @abc.abstractmethod
    def forward(self, users: Tensor, items: Tensor, logged: Tensor | None) -> Tensor:
        """`[B]` propensities of the pairs `users` and `items` `[B]` int64, not clipped.

        Args:
            users: ids.
            items: ids.
            logged: `[B]` what the log says of positive pairs, 1 elsewhere; None: it says nothing.
        """

    @abc.abstractmethod
    def of_unlabeled(self, users: Tensor, items: Tensor) -> Tensor:
        """`[B]` what `DualUnbiased` divides unlabeled pairs by, not clipped."""


class ItemPower(Propensity):
    """Relative popularity to a power, `(n_i / max_j n_j)^eta`, whoever the user is; n_i users had item i in training.

    An item that nobody had has propensity 0 and no positive pairs. That of unlabeled pairs is
    `(1 - n_i / max_j n_j)^eta`. Only ratios of propensities are known: a common factor is as good, and is for an
    unbiased validation to choose.

    Args:
        eta: the power; 0 says that all items were exposed alike.

    Raises:
        ValueError: `eta` is negative.

    Source:
        Saito et al., WSDM 2020; of unlabeled pairs, Lee et al., SIGIR 2021.

    Example:
        >>> power = ItemPower(0.5)
        >>> power.fit(torch.tensor([0, 4, 1, 0]))
        >>> power.exposed.tolist(), power.unlabeled.tolist()[1]
        ([0.0, 1.0, 0.5, 0.0], 0.0)
    """

    exposed: Tensor
    unlabeled: Tensor

    def __init__(self, eta: float = 0.5) -> None:
        super().__init__()
        if not eta >= 0:
            raise ValueError(f"eta must be at least 0, not {eta}")
        self.eta = eta
        for name in ("exposed", "unlabeled"):
            self.register_buffer(name, torch.empty(0), persistent=False)

    @override
    def setup(self, catalogue: Catalogue) -> None:
        if catalogue.interactions is None:
            self.fit(catalogue.counts)
        else:
            self.fit(torch.bincount(catalogue.interactions[0], minlength=catalogue.n_items + 1))

    def fit(self, positives: Tensor) -> None:
        """Takes `[n_items + 1]` positive pairs of each item."""
        share = positives.double() / positives.max().clamp(min=1)
        self.exposed = torch.where(share > 0, share**self.eta, 0).float().to(self.exposed.device)
        self.unlabeled = ((1 - share) ** self.eta).float().to(self.exposed.device)

    @override
    def forward(self, users: Tensor, items: Tensor, logged: Tensor | None) -> Tensor:
        return self.exposed[items]

    @override
    def of_unlabeled(self, users: Tensor, items: Tensor) -> Tensor:
        return self.unlabeled[items]


class Logged(Propensity):
    """What the log says: the column `propensity` of events, as the system that exposed the items has written it."""

    knows_unlabeled = False

    @override
    def setup(self, catalogue: Catalogue) -> None:
        """There is nothing to estimate."""

    @override
    def forward(self, users: Tensor, items: Tensor, logged: Tensor | None) -> Tensor:
        """The logged propensities.

        Raises:
            PropensityError: there are none.
        """
        if logged is None:
            raise PropensityError(
                "propensities are to be those of the log, which has none: name their column as `events.propensity` in "
                "the schema, or estimate them with ItemPower"
            )
        return logged

    @override
    def of_unlabeled(self, users: Tensor, items: Tensor) -> Tensor:
        """They do not exist.

        Raises:
            PropensityError: always.
        """
        raise PropensityError(
            "a log has propensities of its events alone: estimate those of unlabeled pairs with ItemPower"
        )


def propensity_of(propensity: Propensity, batch: InteractionBatch) -> Tensor:
    """`[B]` propensities of the items in question of a batch."""
    return propensity(batch.users, batch.items, getattr(batch, "propensity", None))
