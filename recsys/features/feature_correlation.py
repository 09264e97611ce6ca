"""How much the features of items tell of each other: the mutual information of every pair, over the catalogue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from recsys.features.catalogue import Catalogue
from recsys.features.jagged import offsets_of
from recsys.features.partitions import DoubleHash
from recsys.features.schema import Feature

BUCKETS = 5000
"""A feature of more values than these is hashed to so many."""
BINS = 16
"""Quantile bins of a number."""
PLANES = 4
"""Random planes that cut the space of vectors into `2 ** PLANES` cells."""

_BLOCK = 1 << 16
_CELL_ROWS = 256
_NOTHING = 1e-12


@dataclass(frozen=True)
class FeatureCorrelation:
    """Mutual information of item features; the id, which tells everything of every feature, is none of them.

    Attributes:
        names: the k item features of the schema, in its order.
        mi: `[k, k]` float64 in nats, symmetric; the diagonal holds the entropies.
    """

    names: tuple[str, ...]
    mi: NDArray[np.float64]

    @property
    def nmi(self) -> NDArray[np.float64]:
        """`[k, k]` mutual information over the root of the product of the two entropies; 0 where one of them is 0."""
        entropy = self.mi.diagonal()
        scale = np.sqrt(np.outer(entropy, entropy))
        known = scale > _NOTHING  # rounding leaves one value alone an entropy above 0
        return np.divide(self.mi, scale, out=np.zeros_like(self.mi), where=known)

    def ranked(self, name: str) -> list[str]:
        """The features other than `name`, the one with the highest normalised information first, ties in order."""
        place = self.names.index(name)
        order = np.argsort(-self.nmi[place], kind="stable")
        return [self.names[at] for at in order if at != place]


def feature_correlation(catalogue: Catalogue) -> FeatureCorrelation:
    """Counts the item features of a catalogue against each other, each item once.

    The value of an item in a feature is one of finitely many, and "none" is one of them:

    - A list or a text of L values has each with weight 1 / L, so that a pair of values counts 1 / (L L'). More than
      `BUCKETS` distinct values are hashed to so many.
    - A number falls in one of `BINS` quantile bins.
    - A vector or a sentence falls in one of 16 cells: the sides of `PLANES` random planes that it lies on, each of
      which halves the catalogue (Charikar, STOC 2002).

    The estimate is that of the counts as they are: of identical features with one value an item it is their entropy.
    Of independent features with A and B values over n items it exceeds 0 by about (A - 1)(B - 1) / 2n while that is
    small, so that features of many values seem to tell more of each other than they do.

    It is a function of the catalogue alone and no file keeps it: it takes less time than opening a log does. Memory: 12
    bytes for every value of every item, working copies of one feature, and 100 MiB for a part of a table of pairs.

    Args:
        catalogue: with at least one item feature.

    Raises:
        ValueError: the schema has no item features.

    Source:
        Yao et al., "Self-supervised Learning for Large-scale Item Recommendations", CIKM 2021.
    """
    features = catalogue.schema.of("item")
    if not features:
        raise ValueError(f"schema `{catalogue.schema.name}` has no item features to be counted against each other")
    shares = [_shares(catalogue, feature) for feature in features]
    mi = np.diag([_entropy(_weights(of)) for of in shares])
    for i, left in enumerate(shares):
        for j in range(i):
            mi[i, j] = mi[j, i] = _mutual_information(left, shares[j])
    return FeatureCorrelation(tuple(feature.name for feature in features), mi)


def _shares(catalogue: Catalogue, feature: Feature) -> csr_array:
    """`[n_items, values]`, the share that each value has of each item; rows add up to 1."""
    if feature.type == "numeric":
        return _single(_quantile_bins(catalogue.numeric[feature.name][1:]))
    if feature.type in ("vector", "sentence"):
        return _single(_cells(catalogue.vectors[feature.name][1:]))
    values, offsets = catalogue.jagged[feature.name]
    lengths = offsets[1:].diff().numpy()
    distinct, codes = values.unique(return_inverse=True)
    if len(distinct) > BUCKETS:
        codes = DoubleHash(int(distinct[-1]) + 1, BUCKETS).places(values)[0] - 1
    starts = offsets_of(lengths)[:-1]
    filled = np.insert(codes.numpy() + 1, starts[lengths == 0], 0)  # 0 is "none"
    lengths = np.maximum(lengths, 1)
    weights = np.repeat(1.0 / lengths, lengths)
    return csr_array((weights, filled, offsets_of(lengths)), shape=(len(lengths), int(filled.max()) + 1))


def _single(codes: NDArray[np.int64]) -> csr_array:
    """Shares of a feature of one value `[n_items]` an item."""
    n = len(codes)
    return csr_array((np.ones(n), codes, np.arange(n + 1)), shape=(n, int(codes.max()) + 1))


def _quantile_bins(values: Tensor) -> NDArray[np.int64]:
    """The bin `[n]` of each number `[n]`, by its rank; equal numbers share the middle one of their ranks."""
    numbers = values.numpy()
    ordered = np.sort(numbers)
    twice_the_rank = np.searchsorted(ordered, numbers, "left") + np.searchsorted(ordered, numbers, "right")
    return twice_the_rank * BINS // (2 * len(numbers))


def _cells(vectors: Tensor) -> NDArray[np.int64]:
    """The cell `[n]` of each vector `[n, dim]`: one bit a plane, which lies at the median of the vectors."""
    planes = torch.randn(vectors.shape[1], PLANES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    height = torch.cat([block.double() @ planes for block in vectors.split(_BLOCK)])
    bits = (height > height.median(dim=0).values).long()
    return (bits << torch.arange(PLANES)).sum(dim=1).numpy()


def _weights(shares: csr_array) -> NDArray[np.float64]:
    """`[values]` probability of each value of a random item."""
    return np.asarray(shares.sum(axis=0)) / shares.shape[0]


def _entropy(weights: NDArray[np.float64]) -> float:
    present = weights[weights > 0]
    return max(0.0, float(-(present * np.log(present)).sum()))


def _mutual_information(left: csr_array, right: csr_array) -> float:
    """Of two features, in nats; a block of values of the left one at a time bounds the memory."""
    of_left, of_right = _weights(left), _weights(right)
    by_value, total = left.T.tocsr(), 0.0
    for start in range(0, by_value.shape[0], _CELL_ROWS):
        pairs = (by_value[start : start + _CELL_ROWS] @ right).tocoo()
        rows, columns = pairs.coords
        together = pairs.data / left.shape[0]
        total += float((together * np.log(together / (of_left[start + rows] * of_right[columns]))).sum())
    return max(0.0, total)
