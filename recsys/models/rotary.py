"""Rotary embeddings of the index, of the time, and of both.

A rotary embedding turns the plane k of a query or key by an angle theta_k; inner products then depend on differences
of angles alone. Each class gives the complex multiplier `exp(i theta_k)` of every event; `rotate` applies it.

Unix seconds do not fit float32 (neighbours are 128 s apart), so times are subtracted from the user's newest time as
int64, and angles are reduced modulo a full turn in float64 before they become float32.
"""

from __future__ import annotations

import abc
import importlib
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

HOUR = 3600.0
DAY = 24 * HOUR
YEAR = 365.25 * DAY


def index_frequencies(planes: int, base: float, device: torch.device | None = None) -> Tensor:
    """`[planes]` float64 radians per event: base^(-k / planes)."""
    return base ** (-torch.arange(planes, device=device, dtype=torch.float64) / planes)


def time_frequencies(planes: int, shortest: float, longest: float, device: torch.device | None = None) -> Tensor:
    """`[planes]` float64 radians per second; wavelengths are geometric from `shortest` to `longest` seconds."""
    steps = torch.linspace(0.0, 1.0, planes, device=device, dtype=torch.float64)
    return 2 * math.pi / (shortest * (longest / shortest) ** steps)


def turns(angles: Tensor) -> Tensor:
    """complex64 `exp(i angles)` of float64 angles, reduced modulo a turn before the precision is lost."""
    reduced = torch.remainder(angles, 2 * math.pi).float()
    return torch.polar(torch.ones_like(reduced), reduced)


def elapsed(timestamp: Tensor, reference: Tensor) -> Tensor:
    """`[B, L, 1]` int64 seconds since `reference`: exact, where float32 would lose minutes."""
    return (timestamp - reference.unsqueeze(-1)).unsqueeze(-1)


def rotate(x: Tensor, multiplier: Tensor) -> Tensor:
    """Turns the planes (2k, 2k + 1) of `x`.

    Args:
        x: `[B, H, L, dh]`, any float type; computed in float32.
        multiplier: complex64, broadcast to `[B, H, L, dh / 2]`.
    """
    planes = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(planes * multiplier).flatten(-2).to(x.dtype)


class Rotary(abc.ABC):
    """A rotary embedding: a frozen set of numbers, without parameters to train."""

    @abc.abstractmethod
    def multiplier(self, index: Tensor, timestamp: Tensor, reference: Tensor, heads: int, head_dim: int) -> Tensor:
        """The complex multiplier of each token.

        Args:
            index: `[B, L]` or, where all sequences share it, `[1, L]` int64: place in the sequence.
            timestamp: `[B, L]` int64, Unix seconds of the token.
            reference: `[B]` int64, the newest time of each user's context.
            heads: attention heads.
            head_dim: even width of a head.

        Returns:
            complex64 `[B or 1, heads or 1, L, head_dim / 2]`.
        """


def rotary_config(rotary: Rotary) -> dict[str, Any]:
    """JSON-able class path and arguments of a rotary embedding."""
    kind = type(rotary)
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": asdict(rotary)}  # type: ignore[call-overload]


def rotary_from_config(config: dict[str, Any]) -> Rotary:
    """Rebuilds what `rotary_config` described."""
    module, _, name = config["class_path"].rpartition(".")
    made: Rotary = getattr(importlib.import_module(module), name)(**config["init_args"])
    return made


@dataclass(frozen=True)
class NoRotary(Rotary):
    """No position at all: the control of every comparison."""

    def multiplier(self, index: Tensor, timestamp: Tensor, reference: Tensor, heads: int, head_dim: int) -> Tensor:
        return torch.ones(1, 1, index.shape[-1], head_dim // 2, dtype=torch.complex64, device=index.device)


@dataclass(frozen=True)
class IndexRotary(Rotary):
    """The usual rotary embedding of the index (Su et al., arXiv 2104.09864)."""

    base: float = 10000.0

    def multiplier(self, index: Tensor, timestamp: Tensor, reference: Tensor, heads: int, head_dim: int) -> Tensor:
        return turns(index.unsqueeze(-1) * index_frequencies(head_dim // 2, self.base, index.device)).unsqueeze(1)


@dataclass(frozen=True)
class TimeRotary(Rotary):
    """Angles straight from Unix time, wavelengths from an hour to eight years (SynerGen, arXiv 2509.21777).

    Events that share a timestamp get the same angle: prefer `SplitByDim`, which keeps an index part, where a log has
    many of them.
    """

    shortest: float = HOUR
    longest: float = 8 * YEAR

    def multiplier(self, index: Tensor, timestamp: Tensor, reference: Tensor, heads: int, head_dim: int) -> Tensor:
        frequencies = time_frequencies(head_dim // 2, self.shortest, self.longest, index.device)
        return turns(elapsed(timestamp, reference) * frequencies).unsqueeze(1)


@dataclass(frozen=True)
class IndexAndTime(Rotary):
    """What the three forms of TO-RoPE share: two ladders of angles, and how much goes to time.

    Args:
        share: of time, between 0 and 1; 0.3 to 0.5 is reported to work best.
        base: of the index ladder.
        shortest: wavelength of the fastest time plane, in seconds.
        longest: of the slowest.
    """

    share: float = 0.5
    base: float = 10000.0
    shortest: float = HOUR
    longest: float = 8 * YEAR

    def by_index(self, index: Tensor, planes: int) -> Tensor:
        """`[B or 1, L, planes]` float64 angles of the index."""
        return index.unsqueeze(-1) * index_frequencies(planes, self.base, index.device)

    def by_time(self, timestamp: Tensor, reference: Tensor, planes: int) -> Tensor:
        """`[B, L, planes]` float64 angles of the time."""
        frequencies = time_frequencies(planes, self.shortest, self.longest, timestamp.device)
        return elapsed(timestamp, reference) * frequencies


@dataclass(frozen=True)
class EarlyFusion(IndexAndTime):
    """TO-RoPE, early fusion: every plane turns by a mix of index and time (arXiv 2510.20455)."""

    def multiplier(self, index: Tensor, timestamp: Tensor, reference: Tensor, heads: int, head_dim: int) -> Tensor:
        planes = head_dim // 2
        mix = (1 - self.share) * self.by_index(index, planes) + self.share * self.by_time(timestamp, reference, planes)
        return turns(mix).unsqueeze(1)


@dataclass(frozen=True)
class SplitByDim(IndexAndTime):
    """TO-RoPE, split by dimension: some planes turn by time, the others by index, interleaved (arXiv 2510.20455)."""

    def multiplier(self, index: Tensor, timestamp: Tensor, reference: Tensor, heads: int, head_dim: int) -> Tensor:
        planes = head_dim // 2
        n_time = round(self.share * planes)
        # Spread the time planes over the ladder: neither only the fast nor only the slow index planes are lost.
        is_time = torch.zeros(planes, dtype=torch.bool, device=index.device)
        is_time[(torch.arange(n_time, device=index.device) * planes) // max(n_time, 1)] = True
        angles = self.by_index(index, planes).expand(*timestamp.shape, planes).clone()
        angles[..., is_time] = self.by_time(timestamp, reference, n_time)
        return turns(angles).unsqueeze(1)


@dataclass(frozen=True)
class SplitByHead(IndexAndTime):
    """TO-RoPE, split by head: the first heads turn by time, the others by index (arXiv 2510.20455)."""

    def multiplier(self, index: Tensor, timestamp: Tensor, reference: Tensor, heads: int, head_dim: int) -> Tensor:
        if heads < 2:
            raise ValueError("SplitByHead needs two heads or more")
        planes, n_time = head_dim // 2, min(max(round(self.share * heads), 1), heads - 1)
        by_time = self.by_time(timestamp, reference, planes).unsqueeze(1).expand(-1, n_time, -1, -1)
        by_index = self.by_index(index, planes).unsqueeze(1).expand(len(timestamp), heads - n_time, -1, -1)
        return turns(torch.cat([by_time, by_index], dim=1))


@dataclass(frozen=True)
class RoTE(Rotary):
    """A weighted sum of the rotations by years, months and days (RoTE, arXiv 2604.13389).

    A sum of rotations is no rotation: lengths change and products of different terms depend on absolute time. So it
    takes Unix time as it is, and is, unlike the others, not invariant to a shift of the clock.
    """

    weights: tuple[float, float, float] = (1.5, 1.0, 0.5)
    bases: tuple[float, float, float] = (1e6, 1e4, 1e2)

    def multiplier(self, index: Tensor, timestamp: Tensor, reference: Tensor, heads: int, head_dim: int) -> Tensor:
        days = timestamp.unsqueeze(-1).double() / DAY
        terms = [
            weight * turns(days / unit * index_frequencies(head_dim // 2, base, index.device))
            for weight, base, unit in zip(self.weights, self.bases, (365.25, 30.4375, 1.0), strict=True)
        ]
        return torch.stack(terms).sum(0).unsqueeze(1)
