"""Queries whose relevance is known, shown by a production ranker of known strength: what estimators are tried on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CUTS = (-0.6, 0.3, 1.0, 1.7)
"""Of the latent relevance; grades 0 to 4 lie between them."""


class JudgedLists(NamedTuple):
    """Q lists of D documents with their true grades.

    Attributes:
        features: `[Q, D, F]` float32.
        label: `[Q, D]` int64 grades from 0.
        mask: `[Q, D]` bool, false where a list is shorter.
    """

    features: Tensor
    label: Tensor
    mask: Tensor

    def in_order(self, scores: Tensor, top: int) -> JudgedLists:
        """The `top` documents of each list by scores `[Q, D]`, best first."""
        best = scores.masked_fill(~self.mask, -torch.inf).topk(min(top, scores.shape[1]), dim=1).indices
        features = self.features.gather(1, best.unsqueeze(-1).expand(-1, -1, self.features.shape[2]))
        return JudgedLists(features, self.label.gather(1, best), self.mask.gather(1, best))


class SyntheticQueries:
    """Documents with Gaussian features x and latent relevance `x.w + tanh(2 x.a) + noise`.

    Args:
        n_features: F.
        noise: standard deviation of what features do not tell.
        seed: of the directions w and a and of all draws.

    Example:
        >>> queries = SyntheticQueries(seed=0).draw(3, documents=5)
        >>> queries.features.shape, queries.label.shape
        (torch.Size([3, 5, 20]), torch.Size([3, 5]))
    """

    def __init__(self, n_features: int = 20, noise: float = 0.3, seed: int = 0):
        self.noise = noise
        self.generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(2, n_features, generator=self.generator)
        self.linear, self.curved = directions / directions.norm(dim=1, keepdim=True)

    def draw(self, n: int, documents: int = 30) -> JudgedLists:
        """New queries.

        Args:
            n: queries Q.
            documents: of each.
        """
        features = torch.randn(n, documents, len(self.linear), generator=self.generator)
        latent = features @ self.linear + torch.tanh(2 * features @ self.curved)
        latent += self.noise * torch.randn(latent.shape, generator=self.generator)
        label = torch.bucketize(latent, torch.tensor(CUTS))
        return JudgedLists(features, label, torch.ones_like(label, dtype=torch.bool))

    def production_scores(
        self, queries: JudgedLists, linear: float = 0.7, curved: float = 0.0, noise: float = 1.0
    ) -> Tensor:
        """`[Q, D]` scores of a ranker that knows features in part: `linear x.w + curved tanh(2 x.a) + noise`.

        Args:
            queries: to be ranked.
            linear: weight of the linear part of relevance.
            curved: weight of the other part.
            noise: standard deviation of what it adds that is in no feature.
        """
        known = linear * (queries.features @ self.linear) + curved * torch.tanh(2 * queries.features @ self.curved)
        return known + noise * torch.randn(known.shape, generator=self.generator)
