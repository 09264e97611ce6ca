"""Propensities from lists whose order was shuffled: there every position is as relevant as any other."""

from __future__ import annotations

from torch import Tensor


def shuffled_propensities(clicks: Tensor, impressions: Tensor) -> Tensor:
    """Click rate of each position over that of the first, in lists that were shown in random order.

    Where lists have different lengths, late positions are those of long lists: count lists of full length alone.

    Args:
        clicks: `[L]` clicks at each position of the shuffled lists.
        impressions: `[L]` how often a document was shown there.

    Returns:
        `[L]` float64, the first 1.

    Raises:
        ValueError: a position was never clicked.

    Source:
        Joachims, Swaminathan and Schnabel, WSDM 2017.

    Example:
        >>> import torch
        >>> shuffled_propensities(torch.tensor([40, 10]), torch.tensor([100, 100])).tolist()
        [1.0, 0.25]
    """
    if bool((clicks <= 0).any()):
        silent = [at + 1 for at, count in enumerate(clicks.tolist()) if count <= 0]
        raise ValueError(f"no click at position {silent} of the shuffled lists: shuffle more of them, or show fewer")
    rate = clicks.double() / impressions.double()
    return rate / rate[0]
