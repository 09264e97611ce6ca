"""Ranking learned from the slates that users saw, beside a task that is learned from events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from recsys.features.catalogue import Catalogue
from recsys.features.slate_batches import BatchWithSlates
from recsys.features.slates import SlateBatch
from recsys.losses.base import LossOutput
from recsys.models.network import SequenceNetwork
from recsys.models.ranking_head import candidate_score
from recsys.models.synergen import SynerGen
from recsys.training.objective import Apart, Objective, ObjectiveError, checked
from recsys.training.table_optimizers import OptimizerFactory
from recsys.unbiased.click_loss import ClickLoss
from recsys.unbiased.dual_learning import DualLearning
from recsys.unbiased.identifiability import scores_r2
from recsys.unbiased.shown_lists import ShownLists


def propensity_adam(params: Iterable[Any], lr: float = 0.01) -> Optimizer:
    """The default of propensities: Adam, which goes on following them where they change."""
    return torch.optim.Adam(params, lr=lr)


class WithSlates(Objective):
    """The loss of a task, plus a weighted loss over the clicks on slates, in one backward pass.

        loss = main + weight * loss of clicks(score of the ranking head for each shown item)

    The ranking head scores each shown item from what was known of the user when he asked, in a slot that sees no other
    slot. An item's score is the one that serving ranks by (`candidate_score`). Where the loss models examination,
    its weights have an optimizer of their own, and `trainer.gradient_clip_val` bounds their norm by itself.

    With weight 0 nothing is computed, and a run is that of `main` alone, bit for bit. Slates have no generator: their
    order is the data's. `slates_position_r2` in the log is how much of the shown position the scores tell, as
    `recsys.unbiased.identifiability` measures it; near 1, ranker and examination cannot be told apart.

    Args:
        main: of the task, learned from events: `JointObjective` for instance.
        loss: over clicks. None: `DualLearning` of ten positions.
        weight: of that loss.
        propensity_optimizer: makes the optimizer of the loss's weights, if it has any; at a rate comparable to that of
            the network.

    Raises:
        ValueError: the weight is negative.
    """

    def __init__(
        self,
        main: Objective,
        loss: ClickLoss | None = None,
        weight: float = 1.0,
        propensity_optimizer: OptimizerFactory = propensity_adam,
    ):
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"WithSlates: weight must be at least 0, not {weight}")
        self.main = main
        self.loss = loss if loss is not None else DualLearning()
        self.weight = weight
        self.make_propensity_optimizer = propensity_optimizer

    @property
    def lookups(self) -> int:
        return self.main.lookups + (self.weight > 0)

    def apart(self) -> dict[str, Apart]:
        """Those of `main`, and the propensities."""
        own = Apart(list(self.loss.parameters()), self.make_propensity_optimizer)
        return self.main.apart() | ({"propensity": own} if own.weights else {})

    def build(self, catalogue: Catalogue) -> None:
        self.main.build(catalogue)

    def setup(self, catalogue: Catalogue, seed: int, device: torch.device) -> None:
        self.main.setup(catalogue, seed, device)

    def forward(self, network: SequenceNetwork, batch: Any) -> LossOutput:
        loss, parts = self.main(network, batch)
        if not self.weight:
            return LossOutput(loss, parts)
        batch = checked(batch, BatchWithSlates, "set `data.slates`")
        if not isinstance(network, SynerGen) or not network.ranks:
            raise ObjectiveError(
                f"WithSlates trains the ranking head of a SynerGen, and this {type(network).__name__} has none: set "
                "`ranking: true`"
            )
        assert batch.slates is not None
        scores, lists = shown_scores(network, batch.slates)
        value, of_clicks = self.loss(scores, lists)
        told = {"position_r2": scores_r2(scores, lists.mask)}
        loss = loss + self.weight * value
        found = {f"slates_{name}": part for name, part in (of_clicks | told).items()}
        return LossOutput(loss, parts | found | {"loss": loss.detach()})

    def random_state(self) -> dict[str, Any]:
        return {"main": self.main.random_state()}

    def load_random_state(self, state: dict[str, Any]) -> None:
        self.main.load_random_state(state["main"])


def shown_scores(network: SynerGen, slates: SlateBatch) -> tuple[Tensor, ShownLists]:
    """Scores of the shown items, and the slates as lists whose one feature they are.

    Args:
        network: with a ranking head.
        slates: S of at most L positions.

    Returns:
        `[S, L]` scores, of no meaning where a slate has no item, and the lists. A slate of which the network reads
        neither history nor query is an empty list: nobody asks ranking for it.
    """
    distinct, place = torch.unique(slates.item, return_inverse=True)
    context, vectors = network.encode(slates.histories, distinct)
    slots = network.requests(slates.histories, context)
    logits = network.rank(context, slots, network.ask(context, slots), vectors[place])
    scores = candidate_score(logits, network.action_values)
    mask = (slates.item > 0) & ((slots.cutoff > 0) | (slots.query > 0)).unsqueeze(1)
    return scores, ShownLists(scores.detach().unsqueeze(-1), slates.click * mask, mask, slates.context)
