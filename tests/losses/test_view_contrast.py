"""The contrast of two views against cross-entropy and loops over pairs."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.losses.view_contrast import ViewContrast

N, DIM, TEMPERATURE = 9, 5, 0.3


def views(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return tuple(torch.randn(N, DIM, dtype=dtype, requires_grad=True) for _ in range(2))  # type: ignore[return-value]


def test_equals_cross_entropy_with_the_positives_on_the_diagonal() -> None:
    first, second = views()
    loss, parts = ViewContrast(TEMPERATURE)(first, second)
    cosines = F.cosine_similarity(first[:, None], second[None], dim=-1)
    expected = F.cross_entropy(cosines / TEMPERATURE, torch.arange(N))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert torch.equal(parts["loss"], loss.detach())
    ours, theirs = (torch.autograd.grad(value, (first, second)) for value in (loss, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_goes_one_way() -> None:
    first, second = views()
    contrast = ViewContrast(TEMPERATURE)
    assert contrast(first, second).loss.item() != pytest.approx(contrast(second, first).loss.item(), rel=1e-3)


def test_pairs_alike_are_no_negatives() -> None:
    """Row by row and pair by pair; that an item is like itself takes nothing away."""
    first, second = views()
    similar = torch.rand(N, N) < 0.3
    similar[4] = True  # which leaves an item without negatives
    similar.fill_diagonal_(True)
    loss = ViewContrast(TEMPERATURE)(first, second, similar).loss
    rows = []
    for i in range(N):
        scores = [F.cosine_similarity(first[i], second[j], dim=0).item() / TEMPERATURE for j in range(N)]
        kept = [score for j, score in enumerate(scores) if j == i or not similar[i, j]]
        rows.append(math.log(sum(math.exp(score) for score in kept)) - scores[i])
    assert loss.item() == pytest.approx(sum(rows) / N, rel=1e-12) and rows[4] == 0.0
    gradient = torch.autograd.grad(loss, first)[0]
    assert torch.isfinite(gradient).all() and float(gradient[4].abs().max()) == 0.0
    without = similar & ~torch.eye(N, dtype=torch.bool)
    assert torch.equal(ViewContrast(TEMPERATURE)(first, second, without).loss, loss)


def test_lengths_do_not_count() -> None:
    first, second = views()
    scale = torch.rand(N, 1, dtype=torch.float64) + 0.1
    contrast = ViewContrast(TEMPERATURE)
    torch.testing.assert_close(contrast(first * scale, second / scale).loss, contrast(first, second).loss)


@pytest.mark.parametrize("n", [1, 4, 1000])
def test_views_that_tell_nothing_start_at_the_log_of_their_number(n: int) -> None:
    ones = torch.ones(n, 3)
    assert ViewContrast(0.1)(ones, ones).loss.item() == pytest.approx(math.log(n), abs=1e-4)


def test_is_computed_in_full_precision() -> None:
    first, second = views(torch.float32)
    expected = ViewContrast(TEMPERATURE)(first.bfloat16().float(), second.bfloat16().float()).loss
    loss = ViewContrast(TEMPERATURE)(first.bfloat16(), second.bfloat16()).loss
    assert torch.equal(loss, expected) and loss.dtype == torch.float32


def test_a_temperature_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature must be above 0"):
        ViewContrast(0.0)
