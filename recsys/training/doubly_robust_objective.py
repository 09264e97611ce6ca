"""Doubly robust learning from user-item pairs: what is scored, and what imputes the errors of the scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recsys.features.catalogue import Catalogue
from recsys.features.pair_batch import PairBatch
from recsys.losses.base import LossOutput, weighted_mean
from recsys.models.interaction import InteractionNetwork
from recsys.training.objective import Objective, ObjectiveError
from recsys.training.pair_objective import check_l2, checked_pairs, squared_embeddings
from recsys.unbiased.doubly_robust import ImputationWeight, JointLearning, doubly_robust, imputation_loss
from recsys.unbiased.local_losses import LocalLoss, SquaredError
from recsys.unbiased.nonnegative import NonNegativity, Unchanged
from recsys.unbiased.pair_loss import check_clip, effective_share, least
from recsys.unbiased.propensity import Propensity, propensity_of


class DoublyRobustObjective(Objective):
    """Trains a network on the errors of all pairs, and a second one that imputes those of pairs that were not seen.

    The error of a pair is its loss given the outcome. The imputing network says how relevant a pair is, and the imputed
    error is the loss that is expected then: the loss of a step is the mean of
    `e_hat + (O / theta) * (e - e_hat)`, right in the mean where the propensities or the imputed errors are. The
    imputing network learns from observed pairs, by `weight`, what the errors of the network are.

    In a step both networks move, each on a loss of its own, and each is a constant to the loss of the other. A pair
    with an observed outcome of propensity theta has in effect the relevance `g + (y - g) / theta`, which may lie beyond
    0 and 1: with an unbounded local loss `nonnegative` must bound what is gained from that.

    The values that it logs beside `loss`, `doubly_robust` and `imputation`:

    | value | what it is |
    | --- | --- |
    | least_local | the least loss of a pair |
    | mean_weight | mean of `O / theta` over all pairs, near 1 where propensities are right |
    | effective_share | effective sample size of the weights of observed pairs, as a share of these |
    | clipped_share | share of observed pairs whose propensity was clipped |

    Args:
        imputation: makes the second network from a catalogue; in YAML the `class_path` of an `InteractionNetwork`.
        propensity: of exposure, on the scale of chances; of observed pairs alone, so that logged ones are enough.
        weight: what the imputed errors are learned by: `JointLearning` (DR-JL) or `MoreRobust` (MRDR). None: the first.
        clip: least propensity, above 0.
        local: the loss of one pair under either answer; None: `SquaredError`.
        nonnegative: what becomes of negative losses; None: nothing.
        l2: weight of the squared embeddings of the network, as in `PairObjective`.
        imputation_l2: the same of the imputing network.

    Raises:
        ValueError: a weight is negative, the clip is no propensity above 0, or the loss would be unbounded below.

    Source:
        Wang et al., "Doubly Robust Joint Learning for Recommendation on Data Missing Not at Random", ICML 2019; Guo et
        al., "Enhanced Doubly Robust Learning for Debiasing Post-Click Conversion Rate Estimation", SIGIR 2021.
    """

    imputing: InteractionNetwork

    def __init__(
        self,
        imputation: Callable[[Catalogue], InteractionNetwork],
        propensity: Propensity,
        weight: ImputationWeight | None = None,
        clip: float = 0.1,
        local: LocalLoss | None = None,
        nonnegative: NonNegativity | None = None,
        l2: float = 0.0,
        imputation_l2: float = 0.0,
    ):
        super().__init__()
        self.make_imputation = imputation
        self.propensity = propensity
        self.weight = weight if weight is not None else JointLearning()
        if clip == 0:
            raise ValueError("DoublyRobustObjective: clip must be above 0, as errors are divided by propensities")
        self.clip = check_clip(clip)
        self.local = local if local is not None else SquaredError()
        self.nonnegative = nonnegative if nonnegative is not None else Unchanged()
        self.l2, self.imputation_l2 = check_l2(l2), check_l2(imputation_l2)
        if not (self.local.bounded or self.nonnegative.bounds):
            raise ValueError(
                f"DoublyRobustObjective with {type(self.local).__name__} has no lower bound: choose "
                "`local: SquaredError`, or `nonnegative: PerPair` or `PerBatch`"
            )

    def build(self, catalogue: Catalogue) -> None:
        self.imputing = self.make_imputation(catalogue)

    def setup(self, catalogue: Catalogue, seed: int, device: torch.device) -> None:
        self.propensity.setup(catalogue)
        self.to(device)

    def forward(self, network: InteractionNetwork, batch: PairBatch) -> LossOutput:
        batch = checked_pairs(network, batch, PairBatch, "ExposedPairs")
        if batch.observed is None:
            raise ObjectiveError(
                "doubly robust learning reads which pairs were exposed and not taken, and the batches know positives "
                "alone: set `data.batches` to `ExposedPairs`"
            )
        vectors, imputing = network(batch.users, batch.items), self.imputing(batch.users, batch.items)
        errors = self.local((vectors.users * vectors.items).sum(-1))
        relevance = torch.sigmoid((imputing.users * imputing.items).sum(-1))
        observed, chance = batch.observed, propensity_of(self.propensity, batch).detach()
        propensity = chance.clamp(min=self.clip)

        error = _expected(batch.label, errors)
        local = doubly_robust(error, _expected(relevance.detach(), errors), observed, propensity)
        loss = self.nonnegative(local, batch.weight)
        known = (errors[0].detach(), errors[1].detach())
        of_imputation = imputation_loss(
            error, _expected(relevance, known), observed, propensity, self.weight, batch.weight
        )
        total = loss + of_imputation
        if self.l2:
            total = total + 0.5 * self.l2 * squared_embeddings(vectors, batch.users, batch.items)
        if self.imputation_l2:
            total = total + 0.5 * self.imputation_l2 * squared_embeddings(imputing, batch.users, batch.items)
        weight, clipped = observed / propensity, observed * (chance < self.clip)
        parts = {
            "loss": total,
            "doubly_robust": loss,
            "imputation": of_imputation,
            "least_local": least(local),
            "mean_weight": weighted_mean(weight, batch.weight),
            "effective_share": effective_share(weight),
            "clipped_share": clipped.sum() / observed.sum().clamp(min=1),
        }
        return LossOutput(total, {name: part.detach() for name, part in parts.items()})

    def random_state(self) -> dict[str, Any]:
        """Nothing is drawn here, and both networks are among the weights of the module."""
        return {}

    def load_random_state(self, state: dict[str, Any]) -> None:
        """There is nothing to go on with."""


def _expected(relevance: Tensor, errors: tuple[Tensor, Tensor]) -> Tensor:
    """`[B]` losses that pairs of relevance `[B]` are expected to have, from those if relevant and if not."""
    return relevance * errors[0] + (1 - relevance) * errors[1]
