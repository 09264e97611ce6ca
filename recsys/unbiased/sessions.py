"""Simulated sessions: users who meet judged lists in the order in which they were shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from recsys.unbiased.click_models import ClickModel, perceived_relevance
from recsys.unbiased.logged_lists import LoggedLists
from recsys.unbiased.shown_lists import ShownLists
from recsys.unbiased.synthetic_lists import JudgedLists


class Sessions:
    """Batches without end: queries are drawn with equal chances, and clicks anew each time.

    Args:
        shown: judged lists in shown order.
        users: how they click.
        batch_size: lists of a batch.
        clicked_only: leave lists without clicks out, and draw on until the batch is full. Lists are not drawn again
            until they are clicked, which would give those with few clicks more weight than traffic does.
        noise: chance that an irrelevant document looks relevant.
        seed: of all draws.

    Raises:
        ValueError: lists without clicks are left out, and no document is ever clicked.
    """

    def __init__(
        self,
        shown: JudgedLists,
        users: ClickModel,
        batch_size: int = 256,
        clicked_only: bool = True,
        noise: float = 0.1,
        seed: int = 0,
    ):
        self.shown, self.users, self.batch_size, self.clicked_only = shown, users, batch_size, clicked_only
        self.relevance = perceived_relevance(shown.label, noise)
        if clicked_only and not bool((self.relevance * shown.mask).any()):
            raise ValueError("no document looks relevant to anybody: with `clicked_only` no batch would ever be full")
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """Some sessions, those without a click among them.

        Returns:
            `[n]` int64 places of the queries, and `[n, L]` float32 clicks.
        """
        query = torch.randint(len(self.relevance), (n,), generator=self.generator)
        clicks = self.users.draw(self.relevance[query], self.shown.mask[query], self.generator)
        return query, clicks.click

    def __iter__(self) -> Iterator[ShownLists]:
        while True:
            query, click = self.draw(self.batch_size)
            while self.clicked_only:
                kept = click.any(dim=1)
                query, click = query[kept], click[kept]
                if len(query) >= self.batch_size:
                    break
                more = self.draw(2 * self.batch_size)
                query, click = torch.cat([query, more[0]]), torch.cat([click, more[1]])
            query, click = query[: self.batch_size], click[: self.batch_size]
            yield ShownLists(self.shown.features[query], click, self.shown.mask[query])

    def log(self, n: int) -> LoggedLists:
        """Some sessions as a log that can be read again and again, those without a click among them."""
        query, click = self.draw(n)
        length = self.shown.label.shape[1]
        place = query[:, None] * length + torch.arange(length)
        place = place.masked_fill(~self.shown.mask[query], -1)
        return LoggedLists(self.shown.features.flatten(0, 1), place, click)

    def state_dict(self) -> dict[str, Any]:
        """State of the generator."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the draws from `state_dict()`."""
        self.generator.set_state(state["generator"].cpu())
