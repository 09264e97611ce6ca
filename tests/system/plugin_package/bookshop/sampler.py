"""A sampler of our own."""

import torch
from torch import Tensor

from recsys.features.negatives import NegativeSampler


class Frequent(NegativeSampler):
    """Draws among the items with at least `at_least` training events, each as likely as the other."""

    def __init__(self, n: int = 128, at_least: int = 2):
        super().__init__(corrected=True)
        self.n = n
        self.at_least = at_least

    def setup(
        self, n_items: int, counts: Tensor | None = None, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        super().setup(n_items, counts, seed, device)
        if counts is None:
            raise ValueError("Frequent needs the training counts of the items")
        items = (counts >= self.at_least).nonzero().squeeze(1).to(device)
        self.items = items[items > 0]
        if not len(self.items):
            raise ValueError(f"no item has {self.at_least} training events")

    def draw(self, target: Tensor) -> Tensor:
        device = self.generator.device
        return self.items[torch.randint(len(self.items), (self.n,), generator=self.generator, device=device)]

    def expected_count(self, ids: Tensor, rows: int) -> Tensor:
        return torch.full(ids.shape, self.n / len(self.items), device=ids.device)
