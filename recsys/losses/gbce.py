"""Generalised binary cross-entropy, the loss of gSASRec."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from recsys.losses.base import SampledScores
from recsys.losses.bce import BCE, binary_rows


class GBCE(BCE):
    """Binary cross-entropy whose positive has its sigmoid raised to a power `beta`, against over-confidence.

    With the sampling rate `alpha = N / (n_items - 1)`, `beta = 1 - t (1 - alpha)`. `t = 0` is `BCE`, bit for bit; at
    `t = 1` the sigmoid of a trained score estimates the probability itself, as if nothing were sampled.

    Args:
        t: calibration, between 0 and 1; 0.75 is the paper's choice.
        temperature: divides the scores.
        n_items: size of the catalogue; None: the trainer tells it through `setup`.

    Raises:
        ValueError: if `t` is outside 0..1, or there are more negatives than other items.
        RuntimeError: if the size of the catalogue is not known when the loss is computed.

    Inputs:
        | field | shape | meaning |
        | --- | --- | --- |
        | positive | [T] | score of the positive |
        | negative | [T, N] | scores of the negatives |
        | hits | [2, H] or None | (row, column) of negatives that are the positive |
        | weight | [T] or None | row weights |

    Recommended sampler:
        `Uniform`, 256 of them: the sampling rate supposes that every item is as likely.

    Related:
        `BCE` is its neutral setting; `InfoNCE`.

    Source:
        Petrov and Macdonald, gSASRec, RecSys 2023, arXiv 2308.07192.

    Example:
        >>> round(GBCE(t=0.75, n_items=1001).beta(negatives=100), 4)  # alpha = 0.1
        0.325
    """

    def __init__(self, t: float = 0.75, temperature: float = 1.0, n_items: int | None = None) -> None:
        super().__init__(temperature)
        if not 0 <= t <= 1:
            raise ValueError(f"t must be between 0 and 1, not {t}")
        self.t = t
        self.n_items = n_items

    @override
    def setup(self, n_items: int) -> None:
        self.n_items = n_items

    def beta(self, negatives: int) -> float:
        """The power of the positive's sigmoid with `negatives` of them per row."""
        if self.n_items is None:
            raise RuntimeError("GBCE does not know the catalogue: pass n_items or call setup(n_items)")
        if negatives >= self.n_items:
            raise ValueError(f"{negatives} negatives are more than the other {self.n_items - 1} items")
        return 1 - self.t * (1 - negatives / (self.n_items - 1))

    @override
    def rows(self, scores: SampledScores) -> Tensor:
        return binary_rows(scores, self.temperature, self.beta(scores.negative.shape[1]))
