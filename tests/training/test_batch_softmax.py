"""The softmax over the targets of a batch, corrected by how often each is there (Yi et al., RecSys 2019)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recsys.features.negatives import InBatch
from recsys.features.streaming_frequency import StreamingFrequency
from recsys.losses.base import SampledScores
from recsys.losses.info_nce import InfoNCE
from recsys.training.objective import sampled_scores

COUNTS = torch.tensor([0, 1, 40, 5, 9, 22, 3])
TARGET = torch.tensor([2, 5, 2, 0, 4, 1, 6])
KNOWN = [row for row, item in enumerate(TARGET.tolist()) if item]


def scores(queries: Tensor, items: Tensor, sampler: InBatch) -> SampledScores:
    """Of the first batch of a sampler."""
    sampler.setup(len(COUNTS) - 1, COUNTS)
    drawn = sampler.sample(TARGET)
    found = sampled_scores(queries, items[TARGET], items[drawn.ids], TARGET, drawn)
    return found._replace(weight=(TARGET > 0).float())


def vectors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries, items = (torch.randn(n, 4, generator=generator) for n in (len(TARGET), len(COUNTS)))
    return torch.nn.functional.normalize(queries, dim=-1), torch.nn.functional.normalize(items, dim=-1)


def source() -> InBatch:
    return InBatch(correct_positive=True)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_equal_vectors_leave_one_over_the_frequency(temperature: float) -> None:
    """Also at a low temperature, which does not divide the correction; duplicates of the positive have no share."""
    same = torch.ones(len(COUNTS), 4) / 2
    found = scores(torch.ones(len(TARGET), 4) / 2, same, source())
    negative = found.negative.clone().requires_grad_()
    InfoNCE(temperature).rows(found._replace(negative=negative)).sum().backward()
    assert negative.grad is not None
    probability = temperature * negative.grad  # of each column: the derivative of a logarithm of a sum
    columns = TARGET[TARGET > 0]
    for row in KNOWN:
        others = columns != TARGET[row]
        share = 1 / COUNTS[torch.cat([columns[others], TARGET[row : row + 1]])].double()
        torch.testing.assert_close(probability[row, others].double(), (share / share.sum())[:-1], rtol=1e-5, atol=0)
        assert (probability[row, ~others] == 0).all()


@pytest.mark.parametrize("learned", [False, True])
def test_it_is_the_softmax_of_the_source(learned: bool) -> None:
    """Row by row: log p is taken off every column, the positive's too, and a duplicate of the positive is none."""
    frequencies, temperature = StreamingFrequency() if learned else None, 0.2
    sampler = InBatch(correct_positive=True, frequencies=frequencies)
    queries, items = vectors()
    found = InfoNCE(temperature)(scores(queries, items, sampler)).loss
    share = COUNTS / COUNTS.sum()
    if frequencies is not None:
        share = frequencies.share(torch.arange(len(COUNTS)))
        expected = torch.bincount(TARGET[TARGET > 0], minlength=len(COUNTS)) / len(KNOWN)  # after the one batch
        torch.testing.assert_close(share[1:], expected[1:].double().where(expected[1:] > 0, 1 / (1 + len(KNOWN))))
    losses = []
    for row in KNOWN:
        own = int(TARGET[row])
        columns = [own, *(int(TARGET[other]) for other in KNOWN if TARGET[other] != own)]
        logits = [float(queries[row] @ items[item]) / temperature - math.log(share[item]) for item in columns]
        losses.append(math.log(sum(math.exp(logit) for logit in logits)) - logits[0])
    assert found.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.parametrize("correct_positive", [False, True])
def test_a_factor_of_0_is_no_correction_and_of_1_is_all_of_it(correct_positive: bool) -> None:
    queries, items = vectors()

    def loss(sampler: InBatch) -> Tensor:
        return InfoNCE(0.1)(scores(queries, items, sampler)).loss

    whole = loss(InBatch(correct_positive=correct_positive))
    assert torch.equal(loss(InBatch(correct_positive=correct_positive, correction=1.0)), whole)
    none = loss(InBatch(corrected=False))
    assert torch.equal(loss(InBatch(correct_positive=correct_positive, correction=0.0)), none)
    half = loss(InBatch(correct_positive=correct_positive, correction=0.5))
    assert len({whole.item(), none.item(), half.item()}) == 3


def test_what_stands_in_no_row_changes_nothing() -> None:
    """A row without target, whose share would be 0, has no loss and no gradient that is not a number."""
    queries, items = (part.requires_grad_() for part in vectors())
    loss = InfoNCE(0.1)(scores(queries, items, source())).loss
    loss.backward()
    assert loss.isfinite() and queries.grad is not None and items.grad is not None
    assert queries.grad.isfinite().all() and items.grad.isfinite().all()
    assert (queries.grad[3] == 0).all()
