"""Samplers of negative items; each knows how often it draws an item."""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from recsys.features.drawn_negatives import Negatives
from recsys.features.streaming_frequency import StreamingFrequency


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
    without it, to the point of collapse. Of several processes each has the targets of its own rows.

    Args:
        n: how many of the targets to use, drawn without replacement; None: all.
        corrected: give `log_q`.
        correct_positive: give `log_q_positive` too (Yi et al., RecSys 2019). The loss then differs from the full
            softmax: the positive stands in the sum with certainty and needs no correction (arXiv 2507.09331).
        correction: factor of `log_q` and `log_q_positive`, from 0, which corrects nothing, to 1. Between them popular
            items are pushed down in part, as for lists in which they are not to prevail.
        frequencies: learns from the batches how frequent each item is, where counts are not to be had or no longer
            true. None: the training counts say.

    Raises:
        ValueError: `correction` is not between 0 and 1.
    """

    def __init__(
        self,
        n: int | None = None,
        corrected: bool = True,
        correct_positive: bool = False,
        correction: float = 1.0,
        frequencies: StreamingFrequency | None = None,
    ) -> None:
        if not 0 <= correction <= 1:
            raise ValueError(f"correction must lie between 0 and 1, not at {correction}")
        super().__init__(corrected and correction > 0)
        self.n = n
        self.correct_positive = correct_positive and correction > 0
        self.correction = correction
        self.frequencies = frequencies

    @override
    def setup(
        self, n_items: int, counts: Tensor | None = None, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        super().setup(n_items, counts, seed, device)
        if self.frequencies is not None:
            self.frequencies.setup(n_items, device)
            return
        counts = _item_counts(self, n_items, counts, device)
        # An item that training does not know can still be in a batch (of validation): it counts as seen once.
        self._probability = counts.clamp_min(1) / counts.sum()
        self._probability[0] = 0

    @override
    def draw(self, target: Tensor) -> Tensor:
        known = target[target > 0]
        if self.frequencies is not None:
            self.frequencies.update(known)
        if self.n is None or self.n >= known.shape[0]:
            return known
        order = torch.randperm(known.shape[0], generator=self.generator, device=self.generator.device)
        return known[order[: self.n]]

    @override
    def expected_count(self, ids: Tensor, rows: int) -> Tensor:
        used = rows if self.n is None else min(self.n, rows)
        share = self._probability[ids] if self.frequencies is None else self.frequencies.share(ids)
        # A row's own column is always a hit, so it has the targets of the other rows: `used * (rows - 1) / rows`.
        return (used * max(rows - 1, 1) / max(rows, 1) * share).float()

    @override
    def sample(self, target: Tensor) -> Negatives:
        ids, log_q, _ = super().sample(target)
        log_q_positive = None
        if self.correct_positive:
            log_q_positive = self.correction * self.expected_count(target, _rows(target)).log()
        return Negatives(ids, None if log_q is None else self.correction * log_q, log_q_positive)

    @override
    def state_dict(self) -> dict[str, Any]:
        learned = {} if self.frequencies is None else {"frequencies": self.frequencies.state_dict()}
        return super().state_dict() | learned

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.frequencies is not None:
            self.frequencies.load_state_dict(state["frequencies"])


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
        if any(getattr(sampler, "correction", 1.0) != 1 for sampler in self.samplers):
            raise ValueError("Mixed corrects every item in full, or none: leave `correction` out of its samplers")

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
