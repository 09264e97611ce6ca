"""Self-supervised learning of items: two views of an item that show different features of it are to look alike."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from recsys.features.catalogue import Catalogue
from recsys.features.catalogue_sampler import CatalogueSampler
from recsys.features.feature_correlation import FeatureCorrelation
from recsys.features.feature_overlap import FeatureOverlap
from recsys.features.masking import CorrelatedMasking, FeatureMasking
from recsys.losses.base import LossOutput
from recsys.losses.view_contrast import ViewContrast
from recsys.models.maskable import maskable_items
from recsys.models.network import SequenceNetwork
from recsys.training.auxiliary import Auxiliary


class FeatureMaskingSSL(Auxiliary):
    """Contrast of two views of items that are drawn uniformly from the catalogue, whatever the batch.

    Items of the long tail are drawn as often as popular ones, so that they learn from their features what events do not
    teach. The items' tables and projections are those of the task; nothing else gets a gradient.

    Compare weights and losses at the same `n` only: the loss grows like `log n`.

    Args:
        masking: draws a pair of views for each step; None: `CorrelatedMasking`.
        weight: of the loss beside that of the task.
        temperature: of the contrast.
        n: items of a step; a smaller catalogue gives all of its own.
        eliminate_overlap: two items whose values overlap by more than this (`FeatureOverlap`) are no negatives of each
            other. None: all are.

    Raises:
        ValueError: `eliminate_overlap` is not between 0 and 1.

    Source:
        Yao et al., "Self-supervised Learning for Large-scale Item Recommendations", CIKM 2021. Elimination of false
        negatives: Ouyang et al., "Contrastive Learning for Conversion Rate Prediction", SIGIR 2023.
    """

    name: ClassVar[str] = "feature_masking"

    def __init__(
        self,
        masking: FeatureMasking | None = None,
        weight: float = 0.3,
        temperature: float = 0.1,
        n: int = 1024,
        eliminate_overlap: float | None = None,
    ):
        super().__init__(weight)
        if eliminate_overlap is not None and not 0 <= eliminate_overlap <= 1:
            raise ValueError(f"eliminate_overlap must lie between 0 and 1, not at {eliminate_overlap}")
        self.masking = masking if masking is not None else CorrelatedMasking()
        self.contrast = ViewContrast(temperature)
        self.items = CatalogueSampler(n)
        self.eliminate_overlap = eliminate_overlap
        self.overlap: FeatureOverlap | None = None

    def setup(self, catalogue: Catalogue, seed: int, device: torch.device) -> None:
        self.items.setup(catalogue.n_items, seed, device)
        self.masking.setup(catalogue, seed + 1, device)
        self.overlap = FeatureOverlap(catalogue, device) if self.eliminate_overlap is not None else None

    def forward(self, network: SequenceNetwork) -> LossOutput:
        encoder, ids = maskable_items(network), self.items.draw()
        first, second = encoder.views(ids, self.masking.draw(), self.masking.generator)
        similar = None
        if self.overlap is not None and self.eliminate_overlap is not None:
            similar = self.overlap(ids) > self.eliminate_overlap
        output: LossOutput = self.contrast(first, second, similar)
        return output

    def random_state(self) -> dict[str, Any]:
        return {"items": self.items.state_dict(), "masking": self.masking.state_dict()}

    def load_random_state(self, state: dict[str, Any]) -> None:
        self.items.load_state_dict(state["items"])
        self.masking.load_state_dict(state["masking"])


def correlation_of(objective: nn.Module) -> FeatureCorrelation | None:
    """The correlation of item features that an objective masks by, once it was set up; None: it does not."""
    terms = (term for term in objective.modules() if isinstance(term, FeatureMaskingSSL))
    return next((term.masking.correlation for term in terms if term.masking.correlation is not None), None)
