"""Whether losses tell noise from what users chose: among all positives, and among those of one user."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.denoising.pool_losses import PoolLoss
from recsys.features.training_pairs import TrainingPairs
from recsys.models.interaction import InteractionNetwork

BLOCK = 65_536
"""Pairs that are scored at a time."""


class Separability(NamedTuple):
    """Chances that a noisy positive has a higher loss than one that is not, ties counted half.

    Attributes:
        overall: of two positives of any users.
        personal: of two positives of the same user, the mean over users who have both kinds.
        users: how many have both kinds.
    """

    overall: float
    personal: float
    users: int


def separability(losses: NDArray[np.floating], users: NDArray[np.integer], noise: NDArray[np.bool_]) -> Separability:
    """The areas under the curve of telling noise by high loss.

    Choosing by personal loss has something to gain where `personal` is above `overall`; measure it before training.

    Args:
        losses: `[P]` of positives.
        users: `[P]` of each.
        noise: `[P]` which are noise.

    Raises:
        ValueError: no user has both kinds.

    Example:
        >>> losses = np.array([0.1, 0.2, 0.5, 0.6])  # the second user's losses are all higher
        >>> separability(losses, np.array([1, 1, 2, 2]), np.array([False, True, False, True]))
        Separability(overall=0.75, personal=1.0, users=2)
    """
    personal = _areas(losses, users, noise)
    both = ~np.isnan(personal)
    if not both.any():
        raise ValueError("no user has noise and other positives: there is nothing to tell apart")
    overall = _areas(losses, np.zeros_like(users), noise)
    return Separability(float(overall[0]), float(personal[both].mean()), int(both.sum()))


@torch.no_grad()
def mean_losses(
    network: InteractionNetwork, pairs: TrainingPairs, loss: PoolLoss, n: int = 20, seed: int = 0
) -> NDArray[np.float32]:
    """The loss of each positive pair, the mean over `n` negatives that are drawn for it.

    Args:
        network: in training or not; it is left as it is.
        pairs: the positives.
        loss: of a positive and its negatives.
        n: negatives, uniform over what the user did not have.
        seed: draws them.

    Returns:
        `[P]`, in the order of `pairs`.
    """
    training = network.training
    network.eval()
    device = network.popularity.device
    users, items = network.encode(
        torch.arange(pairs.n_users + 1, device=device), torch.arange(pairs.n_items + 1, device=device)
    )
    network.train(training)
    assert users is not None and items is not None
    random, found = np.random.default_rng(seed), []
    for first in range(0, len(pairs), BLOCK):
        rows = slice(first, first + BLOCK)
        of_users = pairs.users[rows]
        others = pairs.draw_unlabeled(np.repeat(of_users[:, None], n, 1), random)
        vectors = users[_ids(of_users, device)].unsqueeze(1)
        positive = (vectors * items[_ids(pairs.items[rows, None], device)]).sum(-1)
        negative = torch.cat([(vectors * items[part]).sum(-1) for part in _ids(others, device).split(1, 1)], 1)
        found.append(loss.positives(positive, negative).squeeze(1).cpu())
    return torch.cat(found).numpy()


def _ids(ids: NDArray[np.int64], device: torch.device) -> Tensor:
    return torch.from_numpy(ids).to(device)


def _areas(losses: NDArray[np.floating], groups: NDArray[np.integer], noise: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The area of each group 0..max by the sum of ranks, NaN where a kind is missing."""
    order = np.lexsort((losses, groups))
    group, loss, flag = groups[order], losses[order], noise[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (group[1:] != group[:-1]) | (loss[1:] != loss[:-1])
    starts = np.flatnonzero(new)
    lengths = np.diff(np.append(starts, len(order)))
    rank = np.repeat(starts + (lengths + 1) / 2, lengths)  # of equal losses the mean; from 1 over all groups
    counts = np.bincount(group)
    rank -= (np.cumsum(counts) - counts)[group]
    n = np.bincount(group, flag, minlength=len(counts))
    above = np.bincount(group, flag * rank, minlength=len(counts)) - n * (n + 1) / 2
    with np.errstate(invalid="ignore"):
        return above / (n * (counts - n))
