"""Given vectors of the items, which no training changes."""

from __future__ import annotations

from torch import Tensor, nn


class FrozenVectors(nn.Module):
    """Given vectors of the items, projected to the model width. They are no parameters: only the projection learns.

    A saved model has the vectors in its catalogue, and so they are in no checkpoint.

    Args:
        values: `[n_items + 1, dim]` float; kept as they are, without a copy.
        width: the model width.
    """

    values: Tensor

    def __init__(self, values: Tensor, width: int):
        super().__init__()
        self.register_buffer("values", values, persistent=False)
        self.project = nn.Linear(values.shape[1], width, bias=False)

    def rows(self, ids: Tensor) -> Tensor:
        """The given vectors of the items `ids` `[n]` int64, `[n, dim]`."""
        return self.values[ids].to(self.project.weight.dtype)
