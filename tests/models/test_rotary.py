"""Rotary embeddings: what they turn, and what must not change a score."""

import math

import pytest
import torch

from recsys.models.rotary import (
    DAY,
    EarlyFusion,
    IndexRotary,
    NoRotary,
    Rotary,
    RoTE,
    SplitByDim,
    SplitByHead,
    TimeRotary,
    rotary_config,
    rotary_from_config,
    rotate,
)

HEADS, HEAD_DIM, LENGTH = 2, 8, 6
EVERY = [NoRotary(), IndexRotary(), TimeRotary(), EarlyFusion(), SplitByDim(), SplitByHead(), RoTE()]
SHIFT_INVARIANT = [rotary for rotary in EVERY if not isinstance(rotary, RoTE)]
TEN_YEARS = int(10 * 365.25 * DAY)


def names(rotary: Rotary) -> str:
    return type(rotary).__name__


def moments() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    gaps = torch.randint(1, 90 * 86400, (3, LENGTH), generator=generator)
    return 1_400_000_000 + gaps.cumsum(1), torch.arange(LENGTH).unsqueeze(0)


def logits(rotary: Rotary, timestamp: torch.Tensor, index: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 3, HEADS, LENGTH, HEAD_DIM, generator=generator)
    turn = rotary.multiplier(index, timestamp, reference, HEADS, HEAD_DIM)
    return rotate(q, turn) @ rotate(k, turn).transpose(-1, -2)


@pytest.mark.parametrize("rotary", SHIFT_INVARIANT, ids=names)
def test_ten_years_later_the_scores_are_the_same(rotary):
    timestamp, index = moments()
    now = logits(rotary, timestamp, index, timestamp[:, -1])
    later = logits(rotary, timestamp + TEN_YEARS, index, timestamp[:, -1] + TEN_YEARS)
    torch.testing.assert_close(now, later, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rotary", SHIFT_INVARIANT, ids=names)
def test_the_reference_cancels(rotary):
    timestamp, index = moments()
    newest = logits(rotary, timestamp, index, timestamp[:, -1])
    oldest = logits(rotary, timestamp, index, timestamp[:, 0] - TEN_YEARS)
    torch.testing.assert_close(newest, oldest, atol=1e-4, rtol=0)


def test_rote_depends_on_the_clock():
    timestamp, index = moments()
    now = logits(RoTE(), timestamp, index, timestamp[:, -1])
    later = logits(RoTE(), timestamp + TEN_YEARS, index, timestamp[:, -1])
    assert (now - later).abs().max() > 0.1


def test_rote_is_the_weighted_sum_of_three_rotations():
    timestamp, index = moments()
    x = torch.randn(3, 1, LENGTH, HEAD_DIM, generator=torch.Generator().manual_seed(2))
    expected = torch.zeros_like(x)
    for weight, base, unit in ((1.5, 1e6, 365.25), (1.0, 1e4, 30.4375), (0.5, 1e2, 1.0)):
        for b in range(3):
            for t in range(LENGTH):
                for k in range(HEAD_DIM // 2):
                    angle = timestamp[b, t].item() / DAY / unit * base ** (-2 * k / HEAD_DIM)
                    first, second = x[b, 0, t, 2 * k].item(), x[b, 0, t, 2 * k + 1].item()
                    expected[b, 0, t, 2 * k] += weight * (math.cos(angle) * first - math.sin(angle) * second)
                    expected[b, 0, t, 2 * k + 1] += weight * (math.sin(angle) * first + math.cos(angle) * second)
    turn = RoTE().multiplier(index, timestamp, timestamp[:, -1], 1, HEAD_DIM)
    torch.testing.assert_close(rotate(x, turn), expected, atol=2e-5, rtol=0)


def test_index_rotary_against_the_formula():
    timestamp, index = moments()
    turn = IndexRotary().multiplier(index, timestamp, timestamp[:, -1], HEADS, HEAD_DIM)
    for t in range(LENGTH):
        for k in range(HEAD_DIM // 2):
            angle = t * 10000 ** (-2 * k / HEAD_DIM)
            assert turn[0, 0, t, k].item() == pytest.approx(complex(math.cos(angle), math.sin(angle)), abs=1e-6)


def test_one_second_is_seen_ten_years_back():
    """Neighbouring float32 numbers are 128 s apart at Unix time; a float32 angle would lose this second."""
    timestamp = torch.tensor([[1_400_000_000, 1_400_000_001, 1_400_000_001 + TEN_YEARS]])
    turn = TimeRotary(shortest=60.0).multiplier(torch.arange(3).unsqueeze(0), timestamp, timestamp[:, -1], 1, 8)
    step = (turn[0, 0, 1, 0] / turn[0, 0, 0, 0]).angle().item()
    assert step == pytest.approx(2 * math.pi / 60, abs=1e-5)


def test_same_time_means_same_angle_for_time_and_not_for_split_by_dim():
    timestamp = torch.full((1, 3), 1_400_000_000)
    index = torch.arange(3).unsqueeze(0)
    by_time = TimeRotary().multiplier(index, timestamp, timestamp[:, -1], 1, 8)
    assert torch.equal(by_time[:, :, 0], by_time[:, :, 2])
    by_both = SplitByDim().multiplier(index, timestamp, timestamp[:, -1], 1, 8)
    assert not torch.equal(by_both[:, :, 0], by_both[:, :, 2])


def test_split_by_dim_takes_its_share_of_planes_from_time():
    timestamp, index = moments()
    still = timestamp[:, :1].expand(-1, LENGTH)
    moved = SplitByDim(share=0.25).multiplier(index, timestamp, timestamp[:, -1], 1, 16)
    fixed = SplitByDim(share=0.25).multiplier(index, still, still[:, -1], 1, 16)
    differs = (moved - fixed).abs().amax(dim=(0, 1, 2)) > 1e-4
    assert differs.sum() == 2
    assert torch.equal(SplitByDim(share=0.0).multiplier(index, timestamp, timestamp[:, -1], 1, 16),
                       IndexRotary().multiplier(index.expand(3, -1), timestamp, timestamp[:, -1], 1, 16))  # fmt: skip


def test_split_by_head_gives_each_head_one_kind():
    timestamp, index = moments()
    turn = SplitByHead().multiplier(index, timestamp, timestamp[:, -1], 2, HEAD_DIM)
    by_time = TimeRotary().multiplier(index, timestamp, timestamp[:, -1], 2, HEAD_DIM)
    by_index = IndexRotary().multiplier(index, timestamp, timestamp[:, -1], 2, HEAD_DIM)
    torch.testing.assert_close(turn[:, 0], by_time[:, 0])
    torch.testing.assert_close(turn[0, 1], by_index[0, 0])
    with pytest.raises(ValueError, match="two heads"):
        SplitByHead().multiplier(index, timestamp, timestamp[:, -1], 1, HEAD_DIM)


def test_bfloat16_inputs_are_turned_in_float32():
    timestamp, index = moments()
    turn = SplitByDim().multiplier(index, timestamp, timestamp[:, -1], 1, HEAD_DIM)
    x = torch.randn(3, 1, LENGTH, HEAD_DIM, generator=torch.Generator().manual_seed(3)).bfloat16()
    assert torch.equal(rotate(x, turn), rotate(x.float(), turn).bfloat16())


@pytest.mark.parametrize("rotary", EVERY, ids=names)
def test_config_round_trip(rotary):
    assert rotary_from_config(rotary_config(rotary)) == rotary
