"""What every loss of ranking slots must do; a new one is tested by existing."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest
import torch

import recsys.losses
from recsys.losses.base import SlotLoss, SlotScores

SLOTS, CANDIDATES, ACTIONS = 5, 4, 3


def losses() -> Iterator[type[SlotLoss]]:
    for found in pkgutil.iter_modules(recsys.losses.__path__):
        module = importlib.import_module(f"recsys.losses.{found.name}")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, SlotLoss) and kind.__module__ == module.__name__ and not inspect.isabstract(kind):
                yield kind


every_loss = pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.__name__) for kind in losses()])


def scores(dtype: torch.dtype = torch.float64, actions: int = ACTIONS) -> SlotScores:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(SLOTS, CANDIDATES, actions, generator=generator, dtype=torch.float64).to(dtype)
    valid = torch.ones(SLOTS, CANDIDATES, dtype=torch.bool)
    valid[1, 2:] = False
    return SlotScores(logits.requires_grad_(), torch.arange(SLOTS) % actions, valid)


def test_the_losses_are_found() -> None:
    assert {"Pointwise", "Pairwise", "Hybrid"} <= {kind.__name__ for kind in losses()}


@every_loss
def test_is_a_finite_scalar_with_detached_parts(kind: type[SlotLoss]) -> None:
    loss, parts = kind()(scores())
    assert loss.shape == () and loss.isfinite() and loss.requires_grad and loss > 0
    assert "loss" in parts and all(part.shape == () and not part.requires_grad for part in parts.values())
    assert parts["loss"] == loss


@every_loss
def test_gradient_is_that_of_finite_differences(kind: type[SlotLoss]) -> None:
    given = scores()
    assert torch.autograd.gradcheck(lambda logits: kind()(given._replace(logits=logits)).loss, given.logits)


@every_loss
def test_weights_are_repetitions_of_slots(kind: type[SlotLoss]) -> None:
    given, weight = scores(), torch.arange(1.0, SLOTS + 1, dtype=torch.float64)
    alone = torch.stack([kind()(given._replace(weight=torch.eye(SLOTS)[slot])).loss for slot in range(SLOTS)])
    expected = (alone * weight).sum() / weight.sum()
    torch.testing.assert_close(kind()(given._replace(weight=weight)).loss, expected, rtol=1e-12, atol=0)
    assert torch.equal(kind()(given).loss, kind()(given._replace(weight=torch.ones(SLOTS))).loss)


@every_loss
def test_what_fills_up_has_no_influence(kind: type[SlotLoss]) -> None:
    given = scores()
    logits = given.logits.detach().clone()
    logits[1, 2:] = 50.0
    assert torch.equal(kind()(given).loss, kind()(given._replace(logits=logits)).loss)
    cut = SlotScores(given.logits[1:2, :2], given.action[1:2])
    only = kind()(given._replace(weight=torch.eye(SLOTS)[1])).loss
    torch.testing.assert_close(kind()(cut).loss, only, rtol=1e-12, atol=0)


@every_loss
def test_a_higher_positive_is_better(kind: type[SlotLoss]) -> None:
    """The gradient pushes the action of the positive up, and nothing of the negatives up."""
    given = scores()
    (gradient,) = torch.autograd.grad(kind()(given).loss, given.logits)
    own = gradient[torch.arange(SLOTS), 0, given.action]
    assert (own < 0).all()
    assert (gradient[:, 1:] >= 0).all()


@every_loss
def test_order_of_negatives_is_irrelevant(kind: type[SlotLoss]) -> None:
    given = scores()._replace(valid=None)
    turned = given._replace(logits=given.logits[:, [0, 3, 1, 2]])
    torch.testing.assert_close(kind()(turned).loss, kind()(given).loss, rtol=1e-12, atol=0)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_stay_finite(kind: type[SlotLoss], dtype: torch.dtype) -> None:
    given = scores(dtype)
    extreme = given._replace(logits=(given.logits.detach().sign() * 1e4).requires_grad_())
    loss = kind()(extreme).loss
    assert loss.isfinite() and loss.dtype == torch.float32
    assert torch.autograd.grad(loss, extreme.logits)[0].isfinite().all()


@every_loss
def test_no_slots_give_zero(kind: type[SlotLoss]) -> None:
    given = scores()
    empty = SlotScores(given.logits[:0], given.action[:0])
    assert kind()(empty).loss == 0


@every_loss
def test_starts_near_the_log_of_two_a_part(kind: type[SlotLoss]) -> None:
    """Logits of zero: every comparison is a coin."""
    loss, parts = kind()(SlotScores(torch.zeros(SLOTS, CANDIDATES, 1), torch.zeros(SLOTS, dtype=torch.int64)))
    expected = max(len(parts) - 1, 1) * torch.log(torch.tensor(2.0))
    torch.testing.assert_close(loss, expected)
