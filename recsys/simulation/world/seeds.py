"""Generators of their own for each purpose, day and arm."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A generator that depends on the seed and on every part of its purpose, and on nothing else.

    Args:
        seed: of the whole simulation.
        purpose: words and numbers, such as `"clicks", day`.

    Example:
        >>> first, second = (torch.rand(1, generator=generator(0, "visits", day)) for day in (1, 1))
        >>> bool(first == second)
        True
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
