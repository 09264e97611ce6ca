"""The decoder's blocks against plain formulas; padding and causality."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from recsys.models.decoder import Decoder, SelfAttention, pad
from recsys.models.dropout import Dropout
from recsys.models.norm import RMSNorm
from recsys.models.rotary import IndexRotary, SplitByDim, SplitByHead
from recsys.models.tokens import Slots, attention_mask, context_cutoffs

WIDTH, HEADS, LENGTH = 16, 2, 5


def turns(length: int = LENGTH) -> torch.Tensor:
    times = torch.zeros(1, length, dtype=torch.int64)
    return IndexRotary().multiplier(torch.arange(length).unsqueeze(0), times, times[:, -1], HEADS, WIDTH // HEADS)


def test_rms_norm_equals_torch_in_value_and_gradient():
    ours, theirs = RMSNorm(8).double(), nn.RMSNorm(8, eps=1e-6).double()
    with torch.no_grad():
        for norm in (ours, theirs):
            norm.weight.copy_(torch.linspace(0.5, 2, 8))
    x = torch.randn(3, 4, 8, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    weight = torch.randn(3, 4, 8, dtype=torch.float64)
    (ours(x) * weight).sum().backward()
    (theirs(y) * weight).sum().backward()
    torch.testing.assert_close(ours(x), theirs(y))
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def test_dropout_keeps_the_mean_and_the_declared_share():
    torch.manual_seed(0)
    dropout, x = Dropout(0.2), torch.ones(400_000)
    out = dropout(x)
    share = (out == 0).float().mean().item()
    exact = 51 / 256
    assert abs(share - exact) < 4 * (exact * (1 - exact) / x.numel()) ** 0.5
    assert abs(out.mean().item() - 1) < 0.005
    assert torch.equal(dropout.eval()(x), x)


def test_dropout_bytes_are_uniform():
    """Every byte of the 64-bit draws is used: the dropped places must not follow a pattern of eight."""
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(torch.ones(80_000)) == 0).view(-1, 8).float().mean(0)
    assert (dropped - 0.5).abs().max() < 4 * 0.5 / 10_000**0.5


def test_attention_against_a_loop():
    torch.manual_seed(0)
    attention = SelfAttention(WIDTH, HEADS)
    x, turn = torch.randn(1, LENGTH, WIDTH), turns()
    out, _ = attention(x, turn)
    q, k, v = (part.view(LENGTH, HEADS, -1) for part in attention.qkv(x)[0].chunk(3, dim=-1))
    expected = torch.zeros(LENGTH, HEADS, WIDTH // HEADS)
    for head in range(HEADS):
        for row in range(LENGTH):
            weights = []
            for column in range(row + 1):
                angle = turn[0, 0, row] * turn[0, 0, column].conj()
                a = torch.view_as_complex(q[row, head].view(-1, 2)) * angle
                b = torch.view_as_complex(k[column, head].view(-1, 2))
                weights.append((a * b.conj()).real.sum() / (WIDTH // HEADS) ** 0.5)
            share = torch.stack(weights).softmax(0)
            expected[row, head] = (share.unsqueeze(-1) * v[: row + 1, head]).sum(0)
    torch.testing.assert_close(out[0], attention.out(expected.flatten(1)), atol=1e-5, rtol=1e-4)


def test_the_mask_matrix_of_context_tokens_is_the_causal_path():
    torch.manual_seed(0)
    decoder = Decoder(WIDTH, 2, HEADS).eval()
    x = torch.randn(3, LENGTH, WIDTH)
    mask = attention_mask(context_cutoffs(3, LENGTH), LENGTH)
    torch.testing.assert_close(decoder(x, turns())[0], decoder(x, turns(), mask)[0], atol=1e-5, rtol=1e-5)


def test_slots_do_not_see_each_other_nor_their_future():
    torch.manual_seed(0)
    decoder = Decoder(WIDTH, 2, HEADS).eval()
    cutoffs = torch.cat([context_cutoffs(1, 4), torch.tensor([[2, 2, 4]])], dim=1)
    mask = attention_mask(cutoffs, 4)
    x = torch.randn(1, 7, WIDTH)
    before, _ = decoder(x, turns(7), mask)
    other = x.clone()
    other[0, [2, 3, 5]] = torch.randn(3, WIDTH)  # later events and the neighbouring slot
    after, _ = decoder(other, turns(7), mask)
    assert torch.equal(before[0, [0, 1, 4]], after[0, [0, 1, 4]])
    assert not torch.equal(before[0, 6], after[0, 6])


def test_slots_over_a_cache_equal_one_sequence_under_the_mask():
    """Users of unequal length, slots in any order: each has the state that the whole sequence gives it."""
    torch.manual_seed(0)
    decoder = Decoder(WIDTH, 3, HEADS).eval()
    lengths = [4, 1, 5]
    slots = Slots(
        row=torch.tensor([2, 0, 2, 1, 0, 2]),
        cutoff=torch.tensor([5, 0, 2, 1, 3, 2]),
        timestamp=torch.tensor([900, 10, 500, 70, 333, 500]),
        query=torch.zeros(6, dtype=torch.int64),
    )
    times = torch.arange(15).view(3, 5) * 100
    newest, index = times[:, -1], torch.arange(5).unsqueeze(0)
    rotary = SplitByDim(shortest=10.0, longest=1e4)
    context, inputs = torch.randn(3, 5, WIDTH), torch.randn(6, WIDTH)
    _, caches = decoder(context, rotary.multiplier(index, times, newest, HEADS, WIDTH // HEADS))
    places = slots.places(3, 5)
    spread = [slots.spread(values, places.at, places.shape) for values in (slots.cutoff, slots.timestamp)]
    ours = decoder.slots(inputs, rotary.multiplier(*spread, newest, HEADS, WIDTH // HEADS), places, caches)
    for slot in range(6):
        row, cutoff = int(slots.row[slot]), int(slots.cutoff[slot])
        n = lengths[row]
        sequence = torch.cat([context[row, :n], inputs[slot : slot + 1]]).unsqueeze(0)
        stamps = torch.cat([times[row, :n], slots.timestamp[slot : slot + 1]]).unsqueeze(0)
        position = torch.cat([torch.arange(n), torch.tensor([cutoff])]).unsqueeze(0)
        turn = rotary.multiplier(position, stamps, newest[row : row + 1], HEADS, WIDTH // HEADS)
        mask = attention_mask(torch.cat([context_cutoffs(1, n), torch.tensor([[cutoff]])], dim=1), n)
        torch.testing.assert_close(decoder(sequence, turn, mask)[0][0, -1], ours[slot], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("rotary", [IndexRotary(), SplitByDim(shortest=10.0, longest=1e4), SplitByHead()])
def test_the_last_state_equals_that_of_the_whole(layers, rotary):
    torch.manual_seed(0)
    decoder = Decoder(WIDTH, layers, HEADS).eval()
    x, lengths = torch.randn(4, LENGTH, WIDTH), torch.tensor([5, 1, 3, 0])
    times = torch.arange(4 * LENGTH).view(4, LENGTH) * 1000
    turn = rotary.multiplier(torch.arange(LENGTH).unsqueeze(0), times, times[:, -1], HEADS, WIDTH // HEADS)
    states, _ = decoder(x, turn)
    expected = states[torch.arange(4), (lengths - 1).clamp(min=0)]
    torch.testing.assert_close(decoder.last(x, turn, lengths), expected, atol=1e-5, rtol=1e-5)


def test_the_scale_of_the_embeddings_does_not_matter():
    """Rows start small: an item must reach the first layer at the scale of the layers all the same."""
    torch.manual_seed(0)
    decoder = Decoder(WIDTH, 2, HEADS).eval()
    x = torch.randn(2, LENGTH, WIDTH)
    torch.testing.assert_close(decoder(0.05 * x, turns())[0], decoder(20 * x, turns())[0], atol=1e-3, rtol=1e-3)


def test_pad_places_every_row():
    values = torch.arange(1, 7).unsqueeze(-1)
    padded, at = pad(values, torch.tensor([2, 0, 3, 1]))
    assert padded.squeeze(-1).tolist() == [[1, 2, 0], [0, 0, 0], [3, 4, 5], [6, 0, 0]]
    assert torch.equal(padded.flatten(0, 1)[at], values)


def test_swiglu_against_the_formula():
    block = Decoder(WIDTH, 1, HEADS).blocks[0].feed_forward
    x = torch.randn(2, WIDTH)
    gate, up = block.gate_up.weight.chunk(2)
    torch.testing.assert_close(block(x), (F.silu(x @ gate.T) * (x @ up.T)) @ block.down.weight.T)
