"""Samplers of negative items; each knows how often it draws an item."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override


class Negatives(NamedTuple):
    """Items drawn for the T rows of a batch.

    Attributes:
        ids: `[N]` int64 shared by all rows, or `[T, N]`; never 0.
        log_q: log of the expected count of each negative among a row's negatives: `[1]`, `[N]` or `[T, N]` float32.
            None: the loss is not to be corrected.
        log_q_positive: `[T]` float32, the same of each row's target, when the sampler corrects it too.
    """

    ids: Tensor
    log_q: Tensor | None = None
    log_q_positive: Tensor | None = None

    def hits(self, target: Tensor) -> Tensor | None:
        """`[2, H]` int64 (row, column) of the negatives that are the row's target `[T]`; None if there are none.

        Shared negatives are searched in sorted order: no `[T, N]` comparison is made.

        Example:
            >>> Negatives(torch.tensor([5, 3, 5])).hits(torch.tensor([3, 4, 5]))
            tensor([[0, 2, 2],
                    [1, 0, 2]])
        """
        if self.ids.dim() == 2:
            hits = (self.ids == target[:, None]).nonzero().T
            return hits if hits.shape[1] else None
        values, order = self.ids.sort(stable=True)
        first = torch.searchsorted(values, target)
        found = torch.searchsorted(values, target, right=True) - first
        rows = torch.repeat_interleave(torch.arange(target.shape[0], device=target.device), found)
        if rows.shape[0] == 0:
            return None
        within = torch.arange(rows.shape[0], device=target.device) - (found.cumsum(0) - found)[rows]
        return torch.stack((rows, order[first[rows] + within]))


class NegativeSampler(abc.ABC):
    """Draws negatives from its own generator, whose state belongs in the checkpoint.

    Args:
        corrected: give `log_q`, so that a sampled softmax estimates the softmax over the whole catalogue.
    """

    def __init__(self, corrected: bool) -> None:
        self.corrected = corrected
        self.n_items = 0
        self.generator = torch.Generator()

    def setup(
        self, n_items: int, counts: Tensor | None = None, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        """Fits the sampler to a catalogue; must be called before `sample`.

        Args:
            n_items: items are 1..n_items.
            counts: `[n_items + 1]` how often each item is a target in the training data (row 0 is ignored).
            seed: of the sampler's own generator.
            device: where negatives are drawn.
        """
        if n_items < 1:
            raise ValueError(f"a sampler needs at least one item, not {n_items}")
        self.n_items = n_items
        self.generator = torch.Generator(device).manual_seed(seed)

    @abc.abstractmethod
    def draw(self, target: Tensor) -> Tensor:
        """Ids `[N]` or `[T, N]` for the targets `[T]`."""

    @abc.abstractmethod
    def expected_count(self, ids: Tensor, rows: int) -> Tensor:
        """Expected count of each of `ids` among the negatives of one row, in a batch of `rows` rows; shape of `ids`.

        Over all items it sums to the number of negatives that a row has.
        """

    def sample(self, target: Tensor) -> Negatives:
        """Draws negatives for a batch.

        Args:
            target: `[T]` int64, the positive item of each row; 0 where a row has none.
        """
        if self.n_items == 0:
            raise RuntimeError(f"{type(self).__name__}.setup(n_items, counts, seed) must be called before sampling")
        ids = self.draw(target)
        return Negatives(ids, self.expected_count(ids, _rows(target)).log() if self.corrected else None)

    def state_dict(self) -> dict[str, Any]:
        """State of the generator."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the draws from `state_dict()`."""
        self.generator.set_state(state["generator"].cpu())


class Uniform(NegativeSampler):
    """Every item is as likely as any other.

    Args:
        n: negatives per row.
        per_position: draw `n` for every row instead of `n` that the whole batch shares (slower by far).
        corrected: give `log_q`. By default it is not: the correction is one constant, and without it the loss is the
            usual sampled softmax.

    Example:
        >>> sampler = Uniform(4)
        >>> sampler.setup(n_items=10, seed=1)
        >>> sampler.sample(torch.tensor([1, 2, 3])).ids.shape
        torch.Size([4])
    """

    def __init__(self, n: int = 256, per_position: bool = False, corrected: bool = False) -> None:
        super().__init__(corrected)
        self.n = n
        self.per_position = per_position

    @override
    def draw(self, target: Tensor) -> Tensor:
        shape = (target.shape[0], self.n) if self.per_position else (self.n,)
        return torch.randint(1, self.n_items + 1, shape, generator=self.generator, device=self.generator.device)

    @override
    def expected_count(self, ids: Tensor, rows: int) -> Tensor:
        return torch.full((1,) * ids.dim(), self.n / self.n_items, device=ids.device)


class Popularity(NegativeSampler):
    """An item is drawn with probability proportional to `count ** alpha`.

    An item that never is a target in the training data is never drawn (unless `alpha` is 0), so the correction then
    estimates the softmax over the items that are.

    Args:
        n: negatives per row.
        alpha: 1 draws by popularity, 0 uniformly; 0.75 is word2vec's.
        per_position: draw `n` for every row instead of `n` that the whole batch shares.
        corrected: give `log_q`.
    """

    def __init__(self, n: int = 256, alpha: float = 0.75, per_position: bool = False, corrected: bool = True) -> None:
        super().__init__(corrected)
        self.n = n
        self.alpha = alpha
        self.per_position = per_position

    @override
    def setup(
        self, n_items: int, counts: Tensor | None = None, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        super().setup(n_items, counts, seed, device)
        weight = _item_counts(self, n_items, counts, device) ** self.alpha
        weight[0] = 0
        self._probability = weight / weight.sum()
        self._cumulative = self._probability.cumsum(0)
        self._last = int(self._probability.nonzero()[-1])

    @override
    def draw(self, target: Tensor) -> Tensor:
        shape = (target.shape[0], self.n) if self.per_position else (self.n,)
        points = torch.rand(shape, generator=self.generator, device=self.generator.device, dtype=torch.float64)
        # The first item whose cumulative probability is above the point: never one of probability 0.
        return torch.searchsorted(self._cumulative, points, right=True).clamp_max_(self._last)

    @override
    def expected_count(self, ids: Tensor, rows: int) -> Tensor:
        return (self.n * self._probability[ids]).float()


class InBatch(NegativeSampler):
    """The targets of the batch's other rows.

    A target is as likely as it is frequent in the training data, hence the correction. Popular items are pushed down
    without it, to the point of collapse.

    Args:
        n: how many of the targets to use, drawn without replacement; None: all.
        corrected: give `log_q`.
        correct_positive: give `log_q_positive` too (Yi et al., RecSys 2019). The loss then differs from the full
            softmax: the positive stands in the sum with certainty and needs no correction (arXiv 2507.09331).
    """

    def __init__(self, n: int | None = None, corrected: bool = True, correct_positive: bool = False) -> None:
        super().__init__(corrected)
        self.n = n
        self.correct_positive = correct_positive

    @override
    def setup(
        self, n_items: int, counts: Tensor | None = None, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        super().setup(n_items, counts, seed, device)
        counts = _item_counts(self, n_items, counts, device)
        # An item that training does not know can still be in a batch (of validation): it counts as seen once.
        self._probability = counts.clamp_min(1) / counts.sum()
        self._probability[0] = 0

    @override
    def draw(self, target: Tensor) -> Tensor:
        known = target[target > 0]
        if self.n is None or self.n >= known.shape[0]:
            return known
        order = torch.randperm(known.shape[0], generator=self.generator, device=self.generator.device)
        return known[order[: self.n]]

    @override
    def expected_count(self, ids: Tensor, rows: int) -> Tensor:
        used = rows if self.n is None else min(self.n, rows)
        # A row's own column is always a hit, so it has the targets of the other rows: `used * (rows - 1) / rows`.
        return (used * max(rows - 1, 1) / max(rows, 1) * self._probability[ids]).float()

    @override
    def sample(self, target: Tensor) -> Negatives:
        negatives = super().sample(target)
        if not self.correct_positive:
            return negatives
        return negatives._replace(log_q_positive=self.expected_count(target, _rows(target)).log())


class Mixed(NegativeSampler):
    """The negatives of several samplers together, each item corrected by its expected count in the mixture.

    Args:
        samplers: whose shared negatives are joined; by default 256 uniform ones and the targets of the batch.
        corrected: give `log_q`.

    Source:
        Yang et al., Mixed Negative Sampling, WWW 2020; the mixture's weight is the balance heuristic of Veach and
        Guibas, SIGGRAPH 1995.
    """

    def __init__(self, samplers: list[NegativeSampler] | None = None, corrected: bool = True) -> None:
        super().__init__(corrected)
        self.samplers = [Uniform(256), InBatch()] if samplers is None else samplers
        if any(getattr(sampler, "per_position", False) for sampler in self.samplers):
            raise ValueError("Mixed joins shared negatives: set per_position to false in its samplers")

    @override
    def setup(
        self, n_items: int, counts: Tensor | None = None, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        super().setup(n_items, counts, seed, device)
        for stream, sampler in enumerate(self.samplers):
            sampler.setup(n_items, counts, seed + stream, device)

    @override
    def draw(self, target: Tensor) -> Tensor:
        return torch.cat([sampler.draw(target) for sampler in self.samplers])

    @override
    def expected_count(self, ids: Tensor, rows: int) -> Tensor:
        return torch.stack([sampler.expected_count(ids, rows).expand(ids.shape) for sampler in self.samplers]).sum(0)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"samplers": [sampler.state_dict() for sampler in self.samplers]}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for sampler, part in zip(self.samplers, state["samplers"], strict=True):
            sampler.load_state_dict(part)


def _rows(target: Tensor) -> int:
    """Rows that have a target."""
    return int(torch.count_nonzero(target))


def _item_counts(sampler: NegativeSampler, n_items: int, counts: Tensor | None, device: torch.device | str) -> Tensor:
    """`counts` as float64 `[n_items + 1]` with row 0 set to 0."""
    name = type(sampler).__name__
    if counts is None:
        raise ValueError(f"{name} needs the training counts of the items: setup(n_items, counts=...)")
    counts = torch.as_tensor(counts).to(device, torch.float64, copy=True)
    if counts.shape != (n_items + 1,):
        raise ValueError(f"{name} needs counts of shape [{n_items + 1}] (row 0 is padding), not {list(counts.shape)}")
    counts[0] = 0
    if not bool((counts >= 0).all()) or not bool(counts.sum() > 0):
        raise ValueError(f"{name} needs counts that are not negative and not all 0")
    return counts
