"""Which features of which items a lookup shows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from recsys.features.masking import View


class FeatureMask:
    """What is shown of F features of n items, in each of V views of them; rows are those of one view after another.

    Args:
        names: of the features.
        shown: `[V, n, F]` bool.
        visible: names of the features that some view shows; nothing else is looked up.
        value_dropout: `[V]`, the share of the values of `lists` that each view leaves out.
        dim_dropout: `[V]`, the share of the dimensions of the vector of each feature that each view sets to 0.
        lists: names of the features that have several values.
        generator: of values and dimensions; None: torch's own.
    """

    def __init__(
        self,
        names: Sequence[str],
        shown: Tensor,
        visible: Collection[str],
        value_dropout: Sequence[float] = (0.0,),
        dim_dropout: Sequence[float] = (0.0,),
        lists: Collection[str] = (),
        generator: torch.Generator | None = None,
    ):
        self.views, self.n = shown.shape[:2]
        self.visible = frozenset(visible)
        self.stretch: dict[str, Tensor] = {}
        """Name of a list -> `[V * n, 1]` its values over those that are kept."""
        self._place = {name: at for at, name in enumerate(names)}
        self._shown = shown.flatten(0, 1)
        self._value_dropout, self._dim_dropout = tuple(value_dropout), tuple(dim_dropout)
        self._lists = frozenset(lists)
        self._generator = generator

    @classmethod
    def of_views(
        cls,
        names: Sequence[str],
        views: Sequence[View],
        ids: Tensor,
        lists: Collection[str],
        generator: torch.Generator | None,
    ) -> FeatureMask:
        """Every item as each of the views shows it.

        Args:
            names: of the features.
            views: of the items.
            ids: `[n]` int64.
            lists: names of the features that have several values.
            generator: of values and dimensions.
        """
        shown = torch.tensor([[name not in view.hidden for name in names] for view in views], device=ids.device)
        return cls(
            names,
            shown.unsqueeze(1).repeat(1, len(ids), 1),
            [name for name in names if any(name not in view.hidden for view in views)],
            [view.value_dropout for view in views],
            [view.dim_dropout for view in views],
            lists,
            generator,
        )

    @classmethod
    def at_random(cls, names: Sequence[str], ids: Tensor, share: float) -> FeatureMask:
        """One view that hides each feature of each item with probability `share`, by torch's own generator."""
        return cls(names, torch.rand(1, len(ids), len(names), device=ids.device) >= share, names)

    def hide(self, name: str, rows: Tensor) -> None:
        """Hides a feature in the rows `[V * n]` bool too."""
        self._shown[:, self._place[name]] &= ~rows

    def hidden(self) -> Tensor:
        """`[V * n, F]` bool, once everything was looked up: a list of which nothing is kept is hidden, too."""
        return ~self._shown

    def values(self, name: str, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The values of a feature that are shown.

        Args:
            name: of the feature.
            values: `[sum of lengths]` those of all items.
            lengths: `[n]` int64.

        Returns:
            The values of V * n rows, and their lengths.
        """
        of_rows = lengths.repeat(self.views)
        row = torch.repeat_interleave(of_rows)
        keep = self._shown[row, self._place[name]]
        if name in self._lists and any(self._value_dropout):
            keep &= self._kept(row.shape, self._value_dropout, row)
        kept = torch.bincount(row[keep], minlength=len(of_rows))
        self.hide(name, (kept == 0) & (of_rows > 0))
        self.stretch[name] = (of_rows / kept.clamp(min=1)).unsqueeze(-1)
        return values.repeat(self.views)[keep], kept

    def see(self, vectors: Tensor, *names: str) -> Tensor:
        """Vectors with zeros where they are not shown.

        Args:
            vectors: `[n, d]`, the same for all views, or `[V * n, d]`.
            names: the feature whose vectors they are; or d features, one a dimension.

        Returns:
            `[V * n, d]`.
        """
        rows = len(self._shown)
        vectors = vectors.repeat(rows // max(len(vectors), 1), 1)
        keep = self._shown[:, [self._place[name] for name in names]]
        if any(self._dim_dropout):
            row = torch.arange(rows, device=vectors.device).unsqueeze(-1)
            keep = keep & self._kept(vectors.shape, self._dim_dropout, row)
        return vectors * keep

    def _kept(self, shape: Sequence[int], dropout: Sequence[float], row: Tensor) -> Tensor:
        """Bool of a shape, true with the probability that the view of each row keeps something."""
        drawn = torch.rand(shape, generator=self._generator, device=row.device)
        return drawn >= torch.tensor(dropout, device=row.device)[row // max(self.n, 1)]
