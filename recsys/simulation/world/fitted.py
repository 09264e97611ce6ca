"""Preferences fitted to a log of liked and disliked items, with probabilities that keep their word."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from recsys.evaluation.calibration import WeightedLogits, expected_calibration_error, fit_platt
from recsys.features.event_log import EventLog
from recsys.simulation.world.preferences import Preferences, partners
from recsys.simulation.world.seeds import generator


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


def fit_preferences(
    log: EventLog,
    liked: NDArray[np.bool_],
    *,
    width: int = 16,
    penalty: float = 8.0,
    steps: int = 200,
    held_out: float = 0.1,
    drift: float = 0.0,
    seed: int = 0,
) -> Fit:
    """A logistic factorisation of which events were liked, scaled to be calibrated.

    The chance that an item is liked is learned where users chose to look; elsewhere it is what the factors make of it.

    Args:
        log: events; ids of the world are those of the log.
        liked: `[n_events]` in the order of the log.
        width: number of factors.
        penalty: of the squared norms of factors and biases, in events: the larger, the less is learned from few.
        steps: of Adam over all events.
        held_out: share of the events that calibrates, and of those that test.
        drift: as in `Preferences`.
        seed: of parts and initial factors.

    Raises:
        ValueError: there is no label for each event, all of them are the same, or nothing is left to train on.

    Source:
        Johnson, "Logistic Matrix Factorization for Implicit Feedback Data", 2014; Platt, "Probabilistic outputs for
        support vector machines", 1999.
    """
    if len(liked) != log.n_events or liked.all() or not liked.any():
        raise ValueError(
            f"liked: {int(liked.sum())} of {len(liked)} labels are true for {log.n_events} events; give one label for "
            "each event, some of them true and some false"
        )
    if not 0 < held_out < 0.5:
        raise ValueError(f"held_out is a share above 0 and below 0.5, not {held_out}")
    random = generator(seed, "fit")
    user, item = torch.from_numpy(log.user_ids()), torch.from_numpy(log.item_id.astype(np.int64))
    label = torch.from_numpy(liked.astype(np.float32))
    part = torch.rand(len(label), generator=random)
    train, test = part >= 2 * held_out, part < held_out
    calibrate = ~train & ~test
    sizes = (log.n_users + 1, log.n_items + 1)
    factors = [0.1 * torch.randn(size, width, generator=random) for size in sizes]
    parameters = [each.requires_grad_() for each in (*factors, *(torch.zeros(size) for size in sizes), torch.zeros(()))]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        fit = F.binary_cross_entropy_with_logits(
            _logits(parameters, user[train], item[train]), label[train], reduction="sum"
        )
        norms = sum((each.square().sum() for each in parameters[:4]), torch.zeros(()))
        ((fit + penalty * norms / 2) / int(train.sum())).backward()
        optimizer.step()
    with torch.no_grad():
        logits = _logits(parameters, user, item)
        sample = WeightedLogits(
            logits[calibrate].double().numpy(), label[calibrate].bool().numpy(), np.ones(int(calibrate.sum()))
        )
        platt = fit_platt(sample)
        users, items, user_bias, item_bias, level = (each.detach() for each in parameters)
        users[0], items[0] = 0, 0
        preferences = Preferences(
            platt.scale * users,
            items,
            platt.scale * (user_bias + level) + platt.offset,
            platt.scale * item_bias,
            torch.bincount(item, minlength=sizes[1]).float(),
            partners(log.n_users, seed),
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
    product = (F.embedding(user, users) * F.embedding(item, items)).sum(1)
    return product + F.embedding(user, user_bias[:, None])[:, 0] + F.embedding(item, item_bias[:, None])[:, 0] + level
