"""Doubly robust losses where exposures are logged: a second model imputes the errors of pairs that were not seen."""

from __future__ import annotations

import abc

import torch
from torch import Tensor
from typing_extensions import override

from recsys.losses.base import weighted_mean


def doubly_robust(error: Tensor, imputed: Tensor, observed: Tensor, propensity: Tensor) -> Tensor:
    """`e_hat + (O / theta) * (e - e_hat)`: right in the mean where the propensities or the imputed errors are.

    Args:
        error: `[B]` losses of the pairs; read where they were observed.
        imputed: `[B]` what they are thought to be.
        observed: `[B]` 1 where a pair was exposed and its outcome is known, else 0.
        propensity: `[B]` chance of that; above 0 where it was.

    Returns:
        `[B]`; its mean over all pairs estimates that of `error`.

    Source:
        Wang et al., "Doubly Robust Joint Learning for Recommendation on Data Missing Not at Random", ICML 2019.

    Example:
        >>> half, one = torch.tensor([0.5]), torch.tensor([1.0])
        >>> doubly_robust(one, half, one, half).item()  # 0.5 + (1 - 0.5) / 0.5
        1.5
    """
    correction = torch.where(observed > 0, error - imputed, 0) / torch.where(observed > 0, propensity, 1)
    return imputed + correction


class ImputationWeight(abc.ABC):
    """How much the error of an observed pair counts when errors are learned."""

    @abc.abstractmethod
    def __call__(self, propensity: Tensor) -> Tensor:
        """`[B]` weights of observed pairs from their propensities `[B]`."""


class JointLearning(ImputationWeight):
    """`1 / theta` (DR-JL): the mean over all pairs of the squared error of imputation, estimated from observed ones.

    Source: Wang et al., ICML 2019.
    """

    @override
    def __call__(self, propensity: Tensor) -> Tensor:
        return 1 / propensity


class MoreRobust(ImputationWeight):
    """`(1 - theta) / theta^2` (MRDR): the variance of the doubly robust loss, estimated from observed pairs.

    Source: Guo et al., "Enhanced Doubly Robust Learning for Debiasing Post-Click Conversion Rate Estimation", SIGIR
    2021.
    """

    @override
    def __call__(self, propensity: Tensor) -> Tensor:
        return (1 - propensity) / propensity.square()


def imputation_loss(
    error: Tensor,
    imputed: Tensor,
    observed: Tensor,
    propensity: Tensor,
    weight: ImputationWeight,
    pairs: Tensor | None = None,
) -> Tensor:
    """What the model of errors minimises: the mean over all pairs of `O * weight(theta) * (e - e_hat)^2`.

    Args:
        error: `[B]`, a constant here.
        imputed: `[B]`.
        observed: `[B]` 1 or 0.
        propensity: `[B]`.
        weight: of observed pairs.
        pairs: `[B]`, how many each stands for. None: one.

    Example:
        >>> half, one = torch.tensor([0.5]), torch.tensor([1.0])
        >>> imputation_loss(one, half, one, half, JointLearning()).item()
        0.5
    """
    safe = torch.where(observed > 0, propensity, 1)
    return weighted_mean(observed * weight(safe) * (error.detach() - imputed).square(), pairs)
