"""Networks whose items can be encoded with some of their features hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from recsys.models.network import SequenceNetwork

if TYPE_CHECKING:
    from recsys.features.masking import View


@runtime_checkable
class MaskableItems(Protocol):
    """The `items` of such a network.

    Attributes:
        maskable: whether there is a default vector for each feature, to stand where it is hidden.
        feature_names: of the features of an item, `item_id` first where the network knows ids.
    """

    @property
    def maskable(self) -> bool: ...

    @property
    def feature_names(self) -> tuple[str, ...]: ...

    def views(self, ids: Tensor, views: Sequence[View], generator: torch.Generator | None = None) -> list[Tensor]:
        """Vectors of the same items with other features hidden, from one lookup per table.

        Args:
            ids: `[n]` int64 items, at least one.
            views: what is not seen of them.
            generator: of the values and dimensions that a view leaves to chance; None: torch's own.

        Returns:
            `[n, width]` for each view.

        Raises:
            ValueError: a view hides a feature that the items do not have, or needs default vectors that were not made.
        """


def maskable_items(network: SequenceNetwork, hiding: bool = True) -> MaskableItems:
    """The items of a network as what can be masked.

    Args:
        network: any.
        hiding: whether features are to be hidden, and not only left out in part.

    Raises:
        TypeError: it has no such items; the message says what to do.
    """
    items, name = network.items, type(network).__name__
    if not isinstance(items, MaskableItems):
        raise TypeError(
            f"the items of {name} cannot be masked, as `{type(items).__name__}` has no `views`: train a network whose "
            "items have them, such as TwoTower or SynerGen with `maskable: true`"
        )
    if hiding and not items.maskable:
        raise TypeError(
            f"{name} has nothing to show in place of a hidden feature: set `maskable: true` in the arguments of the "
            "network"
        )
    return items
