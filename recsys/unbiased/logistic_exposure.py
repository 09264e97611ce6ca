"""The chance of exposure of each pair of a user and an item, by logistic matrix factorization of who was shown what."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from recsys.features.catalogue import Catalogue, Jagged
from recsys.unbiased.propensity import Propensity, PropensityError

BLOCK = 1 << 22
"""Pairs whose scores are held at a time."""


class LogisticExposure(Propensity):
    """`theta = sigmoid(b + a_u + c_i + p_u . q_i)`, fitted to the exposures of the training part, taken or not.

    It minimises the cross-entropy of all pairs of users that trained and of items, plus `l2 / 2` times the squares of
    everything but b, by L-BFGS: a hundred passes over all pairs, some of which are held at a time. The result is a
    chance and not a chance up to a factor: b has no penalty, so that the mean over all pairs is the share of exposed
    ones. A user who did not train has the chances of an average one.

    Batches must know exposures, as `ExposedPairs` do; from positives alone nobody can tell an item that was not shown
    from one that was not liked.

    Args:
        width: of the factors p and q; 0: exposure depends on how active the user and how popular the item is.
        l2: weight of the squares; the larger, the nearer to the mean. A fit that is too close says of what was exposed
            that it had to be: then `train/mean_weight` of `DoublyRobustObjective` lies far below 1.
        iterations: of L-BFGS at most.
        seed: of the initial factors.

    Raises:
        ValueError: an argument is negative, or there is no iteration.

    Source:
        Liang, Charlin, McInerney, Blei, "Modeling User Exposure in Recommendation", WWW 2016, for exposure by
        factorization; Johnson, "Logistic Matrix Factorization for Implicit Feedback Data", NeurIPS workshop 2014.

    Example:
        >>> exposure = LogisticExposure(width=0, l2=1e-3)
        >>> exposure.fit((torch.tensor([1, 2, 1]), torch.tensor([0, 0, 2, 3])), n_items=2)
        >>> of = exposure(torch.tensor([1, 1, 2]), torch.tensor([1, 2, 2]), None)
        >>> bool(of[0] > of[1] > of[2])
        True
    """

    intercept: Tensor
    users: Tensor
    items: Tensor

    def __init__(self, width: int = 2, l2: float = 3.0, iterations: int = 100, seed: int = 0) -> None:
        super().__init__()
        if width < 0 or not l2 >= 0 or iterations < 1:
            raise ValueError(
                "LogisticExposure: width and l2 must be at least 0 and iterations positive, not "
                f"{width}, {l2} and {iterations}"
            )
        self.width, self.l2, self.iterations, self.seed = width, l2, iterations, seed
        for name in ("intercept", "users", "items"):
            self.register_buffer(name, torch.empty(0), persistent=False)

    @override
    def setup(self, catalogue: Catalogue) -> None:
        if catalogue.exposures is None:
            raise PropensityError(
                "LogisticExposure learns from what was exposed and not taken, which the batches do not know: set "
                "`data.batches` to `ExposedPairs`, or estimate propensities with ItemPower"
            )
        self.fit(catalogue.exposures, catalogue.n_items)

    @torch.enable_grad()
    def fit(self, exposures: Jagged, n_items: int) -> None:
        """Estimates it.

        Args:
            exposures: the distinct items that each user was exposed to, offsets `[n_users + 2]`.
            n_items: items are 1..n_items.
        """
        items, lengths = exposures[0] - 1, exposures[1].diff()
        active = lengths.nonzero().squeeze(1)
        offsets = F.pad(lengths[active].cumsum(0), (1, 0))
        random = torch.Generator().manual_seed(self.seed)
        # A column of biases, and those of the factors.
        user, item = (
            F.pad(0.1 * torch.randn(n, self.width, generator=random, dtype=torch.float64), (1, 0)).requires_grad_()
            for n in (len(active), n_items)
        )
        share = torch.tensor(len(items) / (len(active) * n_items), dtype=torch.float64)
        intercept = share.logit(eps=1e-9).requires_grad_()
        weights = [intercept, user, item]
        step = max(1, BLOCK // n_items)
        optimizer = torch.optim.LBFGS(
            weights, max_iter=self.iterations, tolerance_grad=1e-6, tolerance_change=0, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            total = 0.5 * self.l2 * (user.square().sum() + item.square().sum())
            total.backward()
            for first in range(0, len(active), step):
                block = user[first : first + step]
                scores = intercept + block[:, :1] + item[:, 0] + block[:, 1:] @ item[:, 1:].T
                low, high = offsets[first], offsets[min(first + step, len(active))]
                row = torch.repeat_interleave(lengths[active[first : first + step]])
                part = F.softplus(scores).sum() - scores[row, items[low:high]].sum()
                part.backward()
                total = total.detach() + part.detach()
            return total

        optimizer.step(loss)
        device = self.users.device
        users = torch.zeros(len(lengths), 1 + self.width, dtype=torch.float64)
        users[active] = user.detach()
        self.intercept = intercept.detach().float().to(device)
        self.users = users.float().to(device)
        self.items = F.pad(item.detach(), (0, 0, 1, 0)).float().to(device)

    @override
    def forward(self, users: Tensor, items: Tensor, logged: Tensor | None) -> Tensor:
        user, item = self.users[users], self.items[items]
        return torch.sigmoid(self.intercept + user[:, 0] + item[:, 0] + (user[:, 1:] * item[:, 1:]).sum(-1))

    @override
    def of_unlabeled(self, users: Tensor, items: Tensor) -> Tensor:
        """The chance that a pair was not exposed."""
        return 1 - self(users, items, None)
