"""A log of shown lists: documents once, and for each list where its documents stand and which were clicked."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from recsys.features.list_table import ListDataError, integers, numbers, read_lists
from recsys.unbiased.shown_lists import ShownLists


class LoggedLists:
    """N shown lists of at most L documents.

    Args:
        documents: `[R, F]` float32 features; lists may share documents.
        place: `[N, L]` int64 row of the document that was shown at each position, -1 where a list is shorter.
        click: `[N, L]` of 0 and 1.
        context: `[N]` int64 from 0; None: one context.
    """

    def __init__(self, documents: Tensor, place: Tensor, click: Tensor, context: Tensor | None = None):
        self.documents, self.place, self.context = documents, place, context
        self.click = click.to(torch.uint8)

    def __len__(self) -> int:
        return len(self.place)

    @property
    def positions(self) -> int:
        """L."""
        return self.place.shape[1]

    @property
    def n_features(self) -> int:
        """F."""
        return self.documents.shape[1]

    def lists(self, which: Tensor) -> ShownLists:
        """The lists `which` `[B]` int64, padded."""
        place = self.place[which]
        mask = place >= 0
        features = self.documents[place.clamp(min=0)] * mask.unsqueeze(-1)
        context = None if self.context is None else self.context[which]
        return ShownLists(features, self.click[which].float(), mask, context)

    def clicked(self) -> LoggedLists:
        """The lists with a click, over the same documents."""
        kept = (self.click > 0).any(dim=1)
        context = None if self.context is None else self.context[kept]
        return LoggedLists(self.documents, self.place[kept], self.click[kept], context)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        features: Sequence[str] | None = None,
        query_id: str = "query_id",
        position: str = "position",
        click: str = "click",
        context: str | None = None,
        origin: str = "the table",
    ) -> LoggedLists:
        """Reads a table with a row for each shown document, in any order.

        A position that a list lacks (an advertisement, a document without features) stays empty, but for the first,
        against which all others are weighed.

        Args:
            frame: the table.
            features: columns of numbers; None: all columns that are named nowhere else.
            query_id: column that tells the lists apart; a query that was shown twice is two lists.
            position: column of the positions, from 1.
            click: column of 0 and 1.
            context: column of int from 0, the same for all rows of a list; None: one context.
            origin: what errors call the table.

        Raises:
            ListDataError: a column is missing or has values that it cannot have.

        Example:
            >>> table = pd.DataFrame({"query_id": ["b", "a", "b"], "position": [2, 1, 1], "click": [1, 0, 0]})
            >>> log = LoggedLists.from_frame(table.assign(price=[3.0, 5.0, 4.0]))
            >>> log.lists(torch.tensor([0, 1])).features.squeeze(-1)  # of `a` and of `b`
            tensor([[5., 0.],
                    [4., 3.]])
        """
        named = [query_id, position, click, *([] if context is None else [context])]
        columns = [name for name in frame.columns if name not in named] if features is None else list(features)
        if missing := [name for name in [*named, *columns] if name not in frame.columns]:
            raise ListDataError(f"{origin}: no column {missing}; it has {list(frame.columns)}")
        if not len(frame) or not columns:
            raise ListDataError(f"{origin}: {'no column of features' if len(frame) else 'empty'}")
        documents = numbers(frame, columns, origin)
        table = read_lists(frame, query_id, position, click, origin)
        where = None
        if context is not None:
            codes = integers(frame[context], context, 0, origin)
            where = torch.from_numpy(table.of_lists(codes, context, origin))
        return cls(torch.from_numpy(documents), torch.from_numpy(table.place), torch.from_numpy(table.click), where)
