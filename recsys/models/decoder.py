"""A causal Transformer decoder: pre-RMSNorm, rotary self-attention, SwiGLU."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.models.dropout import Dropout
from recsys.models.norm import RMSNorm
from recsys.models.rotary import rotate


class Cache(NamedTuple):
    """What a slot reads of the context in one layer.

    Attributes:
        key: `[B, heads, N, head_dim]`, rotated.
        value: `[B, heads, N, head_dim]`.
    """

    key: Tensor
    value: Tensor


class Places(NamedTuple):
    """Where S slots of B users stand, and what each may see.

    Attributes:
        at: `[S]` int64, flat place of each slot in a padded `[B, M]`.
        shape: B and M, the most slots of a user.
        visible: `[B, M, N]` bool, the context events that a slot may attend to.
    """

    at: Tensor
    shape: tuple[int, int]
    visible: Tensor


class SelfAttention(nn.Module):
    """Multi-head self-attention whose queries and keys are rotated."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"width {width} must be a multiple of twice the number of heads {heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, multiplier: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Cache]:
        """Attends within each sequence.

        Args:
            x: `[B, L, width]`, right-padded.
            multiplier: complex64 rotation of each token, broadcast to `[B, heads, L, head_dim / 2]`.
            mask: `[B, L, L]` bool, true where attention is allowed; None is causal. Right padding needs no mask then:
                it comes after every valid token.

        Returns:
            `[B, L, width]`, and what slots may read.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, multiplier), rotate(k, multiplier)
        allowed = None if mask is None else mask.unsqueeze(1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=mask is None)
        return self.out(mixed.transpose(1, 2).flatten(-2)), Cache(k, v)

    def last(self, x: Tensor, multiplier: Tensor, lengths: Tensor) -> Tensor:
        """What `forward` gives for the last token of each sequence, causally, and for no other.

        Args:
            x: `[B, L, width]`, right-padded.
            multiplier: as in `forward`.
            lengths: `[B]` int64, at least 1.

        Returns:
            `[B, width]`.
        """
        rows, place = torch.arange(len(lengths), device=x.device), lengths - 1
        of_q, of_kv = self.qkv.weight.split([x.shape[-1], 2 * x.shape[-1]])
        k, v = F.linear(x, of_kv).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q = F.linear(x[rows, place], of_q).unflatten(-1, (self.heads, 1, -1))
        q = rotate(q, multiplier.expand(len(lengths), -1, -1, -1)[rows, :, place].unsqueeze(2))
        visible = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(-1)
        mixed = F.scaled_dot_product_attention(q, rotate(k, multiplier), v, attn_mask=visible[:, None, None])
        out: Tensor = self.out(mixed.flatten(1))
        return out

    def slots(self, x: Tensor, multiplier: Tensor, places: Places, cache: Cache) -> Tensor:
        """Attends from each slot to the visible context and to the slot itself.

        Args:
            x: `[S, width]`, jagged.
            multiplier: complex64 rotation, broadcast to `[B, heads, M, head_dim / 2]`.
            places: of the slots.
            cache: of this layer.

        Returns:
            `[S, width]`.
        """
        flat = self.qkv(x)
        rows, most = places.shape
        padded = flat.new_zeros(rows * most, flat.shape[1]).index_copy(0, places.at, flat)
        q, k, v = padded.view(rows, most, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, multiplier), rotate(k, multiplier)
        q = q * q.shape[-1] ** -0.5
        # Column N is the slot itself, so that no row is without an allowed key.
        over_context = (q @ cache.key.mT).masked_fill(~places.visible.unsqueeze(1), -torch.inf)
        weight = torch.cat([over_context, (q * k).sum(-1, keepdim=True)], dim=-1).softmax(-1)
        mixed = weight[..., :-1] @ cache.value + weight[..., -1:] * v
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(-2).flatten(0, 1)[places.at])
        return out


class SwiGLU(nn.Module):
    """Gated feed-forward layer (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., width]` to `[..., width]`."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out


class Block(nn.Module):
    """Attention and feed-forward layer, each normalised before and added after."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.attention_norm = RMSNorm(width)
        self.attention = SelfAttention(width, heads)
        self.feed_forward_norm = RMSNorm(width)
        self.feed_forward = SwiGLU(width, hidden)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, multiplier: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Cache]:
        """`[B, L, width]` to `[B, L, width]`, and what slots may read."""
        mixed, cache = self.attention(self.attention_norm(x), multiplier, mask)
        return self._add(x, mixed), cache

    def last(self, x: Tensor, multiplier: Tensor, lengths: Tensor) -> Tensor:
        """`[B, L, width]` to `[B, width]`, the last token of each sequence."""
        at = torch.arange(len(lengths), device=x.device), lengths - 1
        return self._add(x[at], self.attention.last(self.attention_norm(x), multiplier, lengths))

    def slots(self, x: Tensor, multiplier: Tensor, places: Places, cache: Cache) -> Tensor:
        """`[S, width]` to `[S, width]`."""
        return self._add(x, self.attention.slots(self.attention_norm(x), multiplier, places, cache))

    def _add(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.dropout(mixed)
        out: Tensor = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return out


class Decoder(nn.Module):
    """A stack of blocks between two norms.

    The norm at the input gives every token the scale that the blocks write at. Embeddings start small, and without it
    an item is drowned by the first attention layer until its row has grown.

    Args:
        width: model width.
        layers: number of blocks.
        heads: attention heads.
        hidden_ratio: width of the feed-forward layer over the model width, rounded up to a multiple of 8.
        dropout: share of zeroed values at the input and in each residual branch.
    """

    def __init__(self, width: int, layers: int, heads: int, hidden_ratio: float = 8 / 3, dropout: float = 0.2):
        super().__init__()
        hidden = -(-round(width * hidden_ratio) // 8) * 8
        self.input_norm = RMSNorm(width)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout) for _ in range(layers))
        self.norm = RMSNorm(width)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                # Residual branches start small, so that depth does not change the scale of the output.
                scale = (2 * layers) ** -0.5 if name.endswith(("out.weight", "down.weight")) else 1.0
                nn.init.normal_(weight, std=scale * weight.shape[1] ** -0.5)

    def forward(self, x: Tensor, multiplier: Tensor, mask: Tensor | None = None) -> tuple[Tensor, list[Cache]]:
        """Encodes right-padded sequences.

        Args:
            x: `[B, L, width]` token inputs.
            multiplier: complex64 rotation, as in `SelfAttention`.
            mask: `[B, L, L]` bool or None for causal.

        Returns:
            `[B, L, width]`, where padded places hold numbers of no meaning; and each layer's cache for `slots`.
        """
        x = self.dropout(self.input_norm(x))
        caches = []
        for block in self.blocks:
            x, cache = block(x, multiplier, mask)
            caches.append(cache)
        return self.norm(x), caches

    def last(self, x: Tensor, multiplier: Tensor, lengths: Tensor) -> Tensor:
        """The state of the last token of each sequence, as `forward` has it; the last block computes no other.

        Args:
            x: `[B, L, width]` token inputs, right-padded.
            multiplier: complex64 rotation, as in `SelfAttention`.
            lengths: `[B]` int64; a sequence without tokens counts as one of a single one.

        Returns:
            `[B, width]`.
        """
        x = self.dropout(self.input_norm(x))
        *blocks, top = self.blocks
        for block in blocks:
            x, _ = block(x, multiplier)
        assert isinstance(top, Block)
        out: Tensor = self.norm(top.last(x, multiplier, lengths.clamp(min=1)))
        return out

    def slots(self, x: Tensor, multiplier: Tensor, places: Places, caches: list[Cache]) -> Tensor:
        """Encodes slots over a context that `forward` has encoded.

        The same numbers as one sequence `[context | slots]` under the mask of `tokens.attention_mask`: no event sees a
        slot, and no slot sees another one, so that the context is encoded once for any number of slots.

        Args:
            x: `[S, width]` token inputs, users one after the other.
            multiplier: complex64 rotation, broadcast to `[B, heads, M, head_dim / 2]`.
            places: of the slots.
            caches: of the context.

        Returns:
            `[S, width]`.
        """
        x = self.dropout(self.input_norm(x))
        for block, cache in zip(self.blocks, caches, strict=True):
            assert isinstance(block, Block)
            x = block.slots(x, multiplier, places, cache)
        out: Tensor = self.norm(x)
        return out


def pad(values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Right-pads jagged rows with zeros.

    Args:
        values: `[T, ...]`.
        lengths: `[B]` int64 with sum T.

    Returns:
        `[B, L, ...]` with `L = lengths.max()`, at least 1, and `[T]` int64 flat places of the values in `[B * L]`.
    """
    longest = max(int(lengths.max()), 1) if lengths.numel() else 1
    before = lengths.cumsum(0) - lengths
    shift = torch.arange(len(lengths), device=lengths.device) * longest - before
    at = torch.arange(values.shape[0], device=lengths.device) + torch.repeat_interleave(shift, lengths)
    padded = values.new_zeros(len(lengths) * longest, *values.shape[1:]).index_copy(0, at, values)
    return padded.unflatten(0, (len(lengths), longest)), at
