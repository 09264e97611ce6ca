"""A regulariser that keeps item vectors apart, without views: the baseline of feature masking."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.features.catalogue import Catalogue
from recsys.features.catalogue_sampler import CatalogueSampler
from recsys.features.masking import View
from recsys.losses.base import LossOutput, full_precision
from recsys.losses.view_contrast import ViewContrast
from recsys.models.maskable import maskable_items
from recsys.models.network import SequenceNetwork
from recsys.training.auxiliary import Auxiliary


class SpreadOut(Auxiliary):
    """Spreads the vectors of items that are drawn uniformly from the catalogue over the sphere.

    Args:
        weight: of the loss beside that of the task.
        n: items of a step; a smaller catalogue gives all of its own.
        temperature: of a softmax in which each item is to find itself among all: `ViewContrast` of one view with
            itself. None: the mean over items of the sum of the squared cosines with all others.

    Source:
        Zhang et al., "Learning Spread-out Local Feature Descriptors", ICCV 2017; as a softmax: Yao et al.,
        "Self-supervised Learning for Large-scale Item Recommendations", CIKM 2021.
    """

    name: ClassVar[str] = "spread_out"

    def __init__(self, weight: float = 0.3, n: int = 1024, temperature: float | None = None):
        super().__init__(weight)
        self.items = CatalogueSampler(n)
        self.contrast = ViewContrast(temperature) if temperature is not None else None

    def setup(self, catalogue: Catalogue, seed: int, device: torch.device) -> None:
        self.items.setup(catalogue.n_items, seed, device)

    def forward(self, network: SequenceNetwork) -> LossOutput:
        (vectors,) = maskable_items(network, hiding=False).views(self.items.draw(), [View()])
        if self.contrast is not None:
            output: LossOutput = self.contrast(vectors, vectors)
            return output
        loss = squared_cosines(vectors)
        return LossOutput(loss, {"loss": loss.detach()})

    def random_state(self) -> dict[str, Any]:
        return {"items": self.items.state_dict()}

    def load_random_state(self, state: dict[str, Any]) -> None:
        self.items.load_state_dict(state["items"])


def squared_cosines(vectors: Tensor) -> Tensor:
    """Mean over the rows of `[N, d]` of the sum of the squared cosines with all other rows.

    Example:
        >>> squared_cosines(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]]))  # two are parallel
        tensor(0.6667)
    """
    unit = F.normalize(full_precision(vectors), dim=-1)
    products = unit.T @ unit  # whose squares add up to those of all pairs of rows, at d * d numbers
    return (products.square().sum() - unit.square().sum(1).square().sum()) / len(unit)
