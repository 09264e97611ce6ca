"""Weights of the targets of a sequence model, by how likely each was to be exposed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue
from recsys.unbiased.pair_loss import effective_share
from recsys.unbiased.propensity import ItemPower, Propensity


class ExposureWeights(nn.Module):
    """`1 / max(theta, clip)` of each target, with mean 1 over the targets of a batch.

    A target that was unlikely to be exposed stands for others that were not. Popular items count less: what a model
    wins on rare ones it loses on those that most users take.

    Args:
        propensity: of exposure; None: `ItemPower`.
        clip: least propensity, above 0.

    Raises:
        ValueError: the clip is not above 0 and at most 1, or the propensity is that of logged pairs, which sequences do
            not carry.

    Source:
        Saito et al., "Unbiased Recommender Learning from Missing-Not-At-Random Implicit Feedback", WSDM 2020, whose
        weights of pairs are taken over to targets.

    Example:
        >>> power = ItemPower(1.0)
        >>> power.fit(torch.tensor([0, 4, 1]))
        >>> batch = SequenceBatch.build(
        ...     user_id=torch.tensor([1]), lengths=torch.tensor([3]), item_id=torch.tensor([1, 1, 1]),
        ...     timestamp=torch.arange(3), target=torch.tensor([1, 2, 0]),
        ... )
        >>> weight, parts = ExposureWeights(power, clip=0.1)(batch)
        >>> [round(value, 4) for value in weight.tolist()]  # 1 and 4 over their mean
        [0.4, 1.6, 0.0]
    """

    def __init__(self, propensity: Propensity | None = None, clip: float = 0.1) -> None:
        super().__init__()
        self.propensity = propensity if propensity is not None else ItemPower()
        if not 0 < clip <= 1:
            raise ValueError(f"clip must be above 0 and at most 1, not {clip}")
        if not self.propensity.knows_unlabeled:
            raise ValueError("targets of sequences carry no logged propensities: estimate them with ItemPower")
        self.clip = clip

    def setup(self, catalogue: Catalogue) -> None:
        """Estimates the propensities; called once before training."""
        self.propensity.setup(catalogue)

    def forward(self, batch: SequenceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Weights of the targets, and what to watch of them.

        Args:
            batch: with targets.

        Returns:
            `[T]` weights, 0 where there is no target; their effective share of the targets, and the share of targets
            whose propensity was clipped.
        """
        assert batch.target is not None, "training batches carry targets"
        users = torch.repeat_interleave(batch.user_id, batch.lengths.long())
        theta, there = self.propensity(users, batch.target, None), batch.target > 0
        weight = torch.where(there, 1 / theta.clamp(min=self.clip), 0)
        n = there.sum().clamp(min=1)
        parts = {
            "effective_share": effective_share(weight),
            "clipped_share": (there & (theta < self.clip)).sum() / n,
        }
        return weight * (n / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)), parts
