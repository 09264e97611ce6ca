"""What vectors look like, whatever they recommend: how many directions they use, and how they lie on the sphere."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-7
"""Added to each share of the singular values, as in the source of `effective_rank`."""

_BLOCK = 256
"""Rows whose distances to all others are held at a time."""


@torch.no_grad()
def effective_rank(vectors: Tensor) -> float:
    """How many directions vectors use: RankMe, the exponential of the entropy of their singular values.

        p_k = sigma_k / sum_j sigma_j + epsilon,    rank = exp(-sum_k p_k log p_k)

    It lies between 1, all vectors on one line, and min(n, d), all directions used alike. Vectors are taken as they are:
    neither centred nor brought to length one. Vectors that are all zero use no direction.

    Args:
        vectors: `[n, d]`, at least one row, of finite numbers; computed in float64, in O(n d min(n, d)).

    Raises:
        ValueError: there are no rows.

    Source:
        Garrido et al., "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by
        Their Rank", ICML 2023.

    Example:
        >>> round(effective_rank(torch.eye(5)), 3), round(effective_rank(torch.ones(5, 3)), 3)
        (5.0, 1.0)
    """
    _some_rows(vectors)
    values = torch.linalg.svdvals(vectors.double())
    total = values.sum()
    if not total:
        return 0.0
    shares = values / total + EPSILON
    return math.exp(-float((shares * shares.log()).sum()))


@torch.no_grad()
def alignment(first: Tensor, second: Tensor, power: float = 2.0) -> float:
    """How far vectors lie from those they belong with: the mean distance of pairs on the unit sphere, to a power.

    Args:
        first: `[n, d]`, at least one row; brought to length one.
        second: `[n, d]`, the partner of each row, likewise.
        power: of the distances.

    Returns:
        Between 0, partners coincide, and `2 ** power`, they are opposite.

    Raises:
        ValueError: the shapes differ, or there are no rows.

    Source:
        Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
        Hypersphere", ICML 2020.

    Example:
        >>> alignment(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        2.0
    """
    _some_rows(first)
    if first.shape != second.shape:
        raise ValueError(f"pairs of vectors have one shape, not {tuple(first.shape)} and {tuple(second.shape)}")
    squares = (_unit(first) - _unit(second)).square().sum(1)
    return float(squares.pow(power / 2).mean())


@torch.no_grad()
def uniformity(vectors: Tensor, t: float = 2.0) -> float:
    """How evenly vectors fill the unit sphere: the logarithm of the mean of `exp(-t |x - y|^2)` over pairs of rows.

    Args:
        vectors: `[n, d]`, at least two rows; brought to length one. Computed in float64, 2 KiB a row.
        t: how far a vector is felt.

    Returns:
        Between `-4 t`, which only two opposite vectors reach, and 0, where all vectors are one: the lower, the more
        evenly.

    Raises:
        ValueError: there are fewer than two rows.

    Source:
        As `alignment`.

    Example:
        >>> uniformity(torch.tensor([[1.0], [2.0]])), uniformity(torch.tensor([[1.0], [-1.0]]))
        (0.0, -8.0)
    """
    _some_rows(vectors, 2)
    unit, total = _unit(vectors), 0.0
    for first, block in enumerate(unit.split(_BLOCK)):
        near = (block @ unit.T).mul_(2 * t).sub_(2 * t).exp_()
        near.diagonal(first * _BLOCK).zero_()  # of a vector with itself
        total += float(near.sum())
    n = len(unit)
    return math.log(total / (n * (n - 1)))


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors.double(), dim=-1)


def _some_rows(vectors: Tensor, least: int = 1) -> None:
    if vectors.dim() != 2 or len(vectors) < least:
        raise ValueError(f"vectors are [n, d] with n at least {least}, not {list(vectors.shape)}")
