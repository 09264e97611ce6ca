"""Learning from pools of a user's positives, of which some may be noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recsys.denoising.personal_loss import PersonalLossResampling
from recsys.denoising.pool_losses import BPRPoolLoss, PoolLoss
from recsys.denoising.user_pools import PoolBatch
from recsys.denoising.weighting import PoolWeighting
from recsys.features.catalogue import Catalogue
from recsys.losses.base import LossOutput
from recsys.models.interaction import InteractionNetwork
from recsys.training.objective import Objective, ObjectiveError


class PoolObjective(Objective):
    """Measures the losses of whole pools without gradient, and trains on the positives that these give a weight.

    Both passes see the same weights of the network, the first without dropout. Users, pools and negatives are those of
    the batch, so that objectives with other weightings are compared over the same draws. A network that reads who had
    what, as LightGCN does, keeps reading the noise: weights change the loss alone.

    The values that it logs, means of an epoch:

    | value | what it is |
    | --- | --- |
    | personal_loss | mean loss of the pools before the step, where losses decide anything |
    | effective_pool_size | among how many positives of a pool is chosen, in effect |
    | injected_share | share of the training weight that injected noise has, where the batch knows it |
    | injected_pool_share | share of noise in the pools |

    Args:
        loss: of each positive of a pool; None: `BPRPoolLoss`.
        weighting: what each positive counts; None: `PersonalLossResampling`.
        l2: weight of the mean squared embeddings of the users, of the positives trained on, and of the negatives.

    Raises:
        ValueError: `l2` is negative.
    """

    def __init__(self, loss: PoolLoss | None = None, weighting: PoolWeighting | None = None, l2: float = 1e-4):
        super().__init__()
        if not l2 >= 0:
            raise ValueError(f"l2 must be at least 0, not {l2}")
        self.loss = loss if loss is not None else BPRPoolLoss()
        self.weighting = weighting if weighting is not None else PersonalLossResampling()
        self.l2 = l2

    def setup(self, catalogue: Catalogue, seed: int, device: torch.device) -> None:
        self.weighting.setup(catalogue.n_users, seed, device)

    def forward(self, network: InteractionNetwork, batch: PoolBatch) -> LossOutput:
        if not isinstance(batch, PoolBatch) or not isinstance(network, InteractionNetwork):
            raise ObjectiveError(
                "PoolObjective trains a network that knows users by id, such as MatrixFactorization, on UserPools, "
                f"not a {type(network).__name__} on a {type(batch).__name__}: set `model.network` and `data.batches`"
            )
        epoch = int(batch.epoch)
        reads = self.weighting.reads_losses(epoch)
        losses = self.losses(network, batch) if reads else torch.zeros(batch.items.shape, device=batch.items.device)
        weights, parts = self.weighting.weights(losses, batch.users, epoch)
        row, column = weights.nonzero(as_tuple=True)

        vectors = network(batch.users, torch.cat([batch.items[row, column], batch.others.flatten()]))
        sizes = [len(row), batch.others.numel()]
        (items, others), (item_norms, other_norms) = vectors.items.split(sizes), vectors.item_norms.split(sizes)
        negative = _scores(vectors.users, others.unflatten(0, batch.others.shape))
        positive = (vectors.users[row] * items).sum(-1)
        each = self.loss.positives(positive.unsqueeze(1), negative[row]).squeeze(1)
        loss = (weights[row, column] * each).sum() / len(batch)
        of_negatives = self.loss.negatives(negative)
        if of_negatives is not None:
            of_each = self.weighting.negative_weights(of_negatives.detach(), epoch)
            loss = loss + (of_negatives if of_each is None else of_each * of_negatives).mean()

        parts = parts | {"loss": loss.detach()}
        if reads:
            parts["personal_loss"] = losses.mean()
        if batch.injected is not None:
            parts["injected_share"] = (weights * batch.injected).sum() / weights.sum()
            parts["injected_pool_share"] = batch.injected.float().mean()
        if not self.l2:
            return LossOutput(loss, parts)
        loss = loss + self.l2 * (vectors.user_norms.mean() + item_norms.mean() + other_norms.mean())
        return LossOutput(loss, parts | {"loss": loss.detach(), "data": parts["loss"]})

    @torch.no_grad()
    def losses(self, network: InteractionNetwork, batch: PoolBatch) -> Tensor:
        """`[B, k]`, the loss of each positive of each pool, without dropout."""
        training = network.training
        network.eval()
        vectors = network(batch.users, torch.cat([batch.items.flatten(), batch.others.flatten()]))
        network.train(training)
        items, others = vectors.items.split([batch.items.numel(), batch.others.numel()])
        return self.loss.positives(
            _scores(vectors.users, items.unflatten(0, batch.items.shape)),
            _scores(vectors.users, others.unflatten(0, batch.others.shape)),
        )

    def random_state(self) -> dict[str, Any]:
        return {"weighting": self.weighting.state_dict()}

    def load_random_state(self, state: dict[str, Any]) -> None:
        self.weighting.load_state_dict(state["weighting"])


def _scores(users: Tensor, items: Tensor) -> Tensor:
    """`[B, n]` inner products of users `[B, d]` with their items `[B, n, d]`."""
    return (users.unsqueeze(1) * items).sum(-1)
