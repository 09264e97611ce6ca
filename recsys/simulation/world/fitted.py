"""Preferences fitted to a log of liked and disliked items, with probabilities that keep their word."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from recsys.evaluation.calibration import WeightedLogits, expected_calibration_error, fit_platt
from recsys.features.event_log import EventLog
from recsys.simulation.world.preferences import Preferences, partners
from recsys.simulation.world.seeds import generator

_BLOCK = 2**14
"""Pairs that are multiplied at a time, so that their factors stay in the cache."""


class Fit(NamedTuple):
    """Preferences, and how good they are on events that neither factors nor calibration saw.

    Attributes:
        preferences: the truth of a world.
        log_loss: mean negative log-likelihood of the tested events, nats.
        base_log_loss: the same of the share of liked events alone.
        calibration_error: expected calibration error of the probabilities.
        uncalibrated_error: the same before calibration.
    """

    preferences: Preferences
    log_loss: float
    base_log_loss: float
    calibration_error: float
    uncalibrated_error: float


class Pairs(NamedTuple):
    """Users and items with labels.

    Attributes:
        user: `[n]` int64.
        item: `[n]` int64.
        label: `[n]` float32, 1 for what is liked and 0 for what is not.
    """

    user: Tensor
    item: Tensor
    label: Tensor


def fit_preferences(log: EventLog, liked: NDArray[np.bool_], **settings: Any) -> Fit:
    """`fit_pairs` of the events of a log, where users say what they like of what they have consumed.

    The chance that an item is liked is learned where users chose to look; elsewhere it is what the factors make of it.

    Args:
        log: events; ids of the world are those of the log.
        liked: `[n_events]` in the order of the log.
        settings: of `fit_pairs`.

    Raises:
        ValueError: there is no label for each event, all of them are the same, or nothing is left to train on.
    """
    if len(liked) != log.n_events or liked.all() or not liked.any():
        raise ValueError(
            f"liked: {int(liked.sum())} of {len(liked)} labels are true for {log.n_events} events; give one label for "
            "each event, some of them true and some false"
        )
    label = torch.from_numpy(liked.astype(np.float32))
    return fit_pairs(Pairs(*events_of(log), label), popularity_of(log), log.n_users, **settings)


def events_of(log: EventLog) -> tuple[Tensor, Tensor]:
    """`[n_events]` int64 users and items of the events."""
    return torch.from_numpy(log.user_ids()), torch.from_numpy(log.item_id.astype(np.int64))


def popularity_of(log: EventLog) -> Tensor:
    """`[n_items + 1]` float32, events of each item."""
    return torch.bincount(events_of(log)[1], minlength=log.n_items + 1).float()


def fit_pairs(
    pairs: Pairs,
    popularity: Tensor,
    n_users: int,
    *,
    width: int = 16,
    penalty: float = 8.0,
    steps: int = 200,
    held_out: float = 0.1,
    drift: float = 0.0,
    seed: int = 0,
) -> Fit:
    """A logistic factorisation of which pairs of user and item are liked, scaled to be calibrated.

    Args:
        pairs: some of them liked and some not.
        popularity: `[n_items + 1]` float32, as `Preferences` has it.
        n_users: number of users.
        width: number of factors.
        penalty: of the squared norms of factors and biases, in pairs: the larger, the less is learned from few.
        steps: of Adam over all pairs.
        held_out: share of the pairs that calibrates, and of those that test.
        drift: as in `Preferences`.
        seed: of parts and initial factors.

    Raises:
        ValueError: nothing is left to train on.

    Source:
        Johnson, "Logistic Matrix Factorization for Implicit Feedback Data", 2014; Platt, "Probabilistic outputs for
        support vector machines", 1999.
    """
    if not 0 < held_out < 0.5:
        raise ValueError(f"held_out is a share above 0 and below 0.5, not {held_out}")
    random = generator(seed, "fit")
    user, item, label = pairs
    part = torch.rand(len(label), generator=random)
    train, test = part >= 2 * held_out, part < held_out
    calibrate = ~train & ~test
    sizes = (n_users + 1, len(popularity))
    factors = [0.1 * torch.randn(size, width, generator=random) for size in sizes]
    parameters = [*factors, *(torch.zeros(size) for size in sizes), torch.zeros(())]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    learned = Pairs(user[train], item[train], label[train])
    for _ in range(steps):
        for parameter, gradient in zip(parameters, _gradients(parameters, learned, penalty), strict=True):
            parameter.grad = gradient
        optimizer.step()
    with torch.no_grad():
        logits = _logits(parameters, user, item)
        sample = WeightedLogits(
            logits[calibrate].double().numpy(), label[calibrate].bool().numpy(), np.ones(int(calibrate.sum()))
        )
        platt = fit_platt(sample)
        users, items, user_bias, item_bias, level = parameters
        users[0], items[0] = 0, 0
        preferences = Preferences(
            platt.scale * users,
            items,
            platt.scale * (user_bias + level) + platt.offset,
            platt.scale * item_bias,
            popularity,
            partners(n_users, seed),
            drift,
        )
        chance = preferences.relevance(user[test], item[test][:, None])[:, 0].double()
        before = logits[test].double().sigmoid()
    truth, rate = label[test].double(), label[~test].mean().double().expand(int(test.sum()))
    ones = np.ones(len(truth))
    return Fit(
        preferences,
        float(F.binary_cross_entropy(chance, truth)),
        float(F.binary_cross_entropy(rate, truth)),
        expected_calibration_error(chance.numpy(), truth.numpy(), ones),
        expected_calibration_error(before.numpy(), truth.numpy(), ones),
    )


def _logits(parameters: list[Tensor], user: Tensor, item: Tensor) -> Tensor:
    users, items, user_bias, item_bias, level = parameters
    found = torch.empty(len(user))
    for out, u, i in zip(found.split(_BLOCK), user.split(_BLOCK), item.split(_BLOCK), strict=True):
        product = np.einsum("nd,nd->n", users.numpy()[u.numpy()], items.numpy()[i.numpy()])
        out.copy_(torch.from_numpy(product) + user_bias[u] + item_bias[i] + level)
    return found


def _gradients(parameters: list[Tensor], pairs: Pairs, penalty: float) -> list[Tensor]:
    """Of the penalised mean negative log-likelihood, by sparse products."""
    user, item, label = pairs
    off = (torch.sigmoid(_logits(parameters, user, item)) - label).numpy()
    users, items, user_bias, item_bias, _ = parameters
    matrix = csr_matrix((off, (user.numpy(), item.numpy())), shape=(len(users), len(items)))
    sums = (
        torch.from_numpy(matrix @ items.numpy()) + penalty * users,
        torch.from_numpy(matrix.T @ users.numpy()) + penalty * items,
        torch.from_numpy(np.asarray(matrix.sum(1)).squeeze(1)) + penalty * user_bias,
        torch.from_numpy(np.asarray(matrix.sum(0)).squeeze(0)) + penalty * item_bias,
        torch.tensor(float(off.sum())),
    )
    return [each / len(label) for each in sums]
