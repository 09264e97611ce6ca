"""A causal Transformer decoder: pre-RMSNorm, rotary self-attention, SwiGLU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.models.dropout import Dropout
from recsys.models.norm import RMSNorm
from recsys.models.rotary import rotate


class SelfAttention(nn.Module):
    """Multi-head self-attention whose queries and keys are rotated."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"width {width} must be a multiple of twice the number of heads {heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, multiplier: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attends within each sequence.

        Args:
            x: `[B, L, width]`, right-padded.
            multiplier: complex64 rotation of each token, broadcast to `[B, heads, L, head_dim / 2]`.
            mask: `[B, L, L]` bool, true where attention is allowed; None is causal. Right padding needs no mask then:
                it comes after every valid token.

        Returns:
            `[B, L, width]`.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, multiplier), rotate(k, multiplier)
        allowed = None if mask is None else mask.unsqueeze(1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=mask is None)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(-2))
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

    def forward(self, x: Tensor, multiplier: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, L, width]` to `[B, L, width]`."""
        x = x + self.dropout(self.attention(self.attention_norm(x), multiplier, mask))
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

    def forward(self, x: Tensor, multiplier: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encodes right-padded sequences.

        Args:
            x: `[B, L, width]` token inputs.
            multiplier: complex64 rotation, as in `SelfAttention`.
            mask: `[B, L, L]` bool or None for causal.

        Returns:
            `[B, L, width]`; padded places hold numbers of no meaning.
        """
        x = self.dropout(self.input_norm(x))
        for block in self.blocks:
            x = block(x, multiplier, mask)
        out: Tensor = self.norm(x)
        return out


def pad(values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Right-pads jagged rows with zeros.

    Args:
        values: `[T, ...]`.
        lengths: `[B]` int64 with sum T.

    Returns:
        `[B, L, ...]` with `L = lengths.max()`, and `[T]` int64 flat places of the values in `[B * L]`.
    """
    longest = int(lengths.max()) if lengths.numel() else 0
    before = lengths.cumsum(0) - lengths
    shift = torch.arange(len(lengths), device=lengths.device) * longest - before
    at = torch.arange(values.shape[0], device=lengths.device) + torch.repeat_interleave(shift, lengths)
    padded = values.new_zeros(len(lengths) * longest, *values.shape[1:]).index_copy(0, at, values)
    return padded.unflatten(0, (len(lengths), longest)), at
