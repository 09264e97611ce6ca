"""Lists as they were shown, and what was clicked in them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ShownLists(NamedTuple):
    """B lists of at most L documents, in the order in which they were shown: column 0 is the first position.

    Attributes:
        features: `[B, L, F]` float of the documents, zeros where a list is shorter.
        click: `[B, L]` float32, 1 where the document was clicked.
        mask: `[B, L]` bool, false where a list is shorter. The first position of every list holds a document.
        context: `[B]` int64 from 0, which of a few situations the list was shown in (device, kind of page). None: one.
    """

    features: Tensor
    click: Tensor
    mask: Tensor
    context: Tensor | None = None

    def clicked(self) -> ShownLists:
        """The lists with a click; the others add nothing to a loss over clicks.

        Within a list, clicks given that there is one are proportional to clicks: leaving the others out changes no
        gradient. Lists that are shown again until they are clicked would count for more than their share.
        """
        kept = self.click.any(dim=1)
        context = None if self.context is None else self.context[kept]
        return ShownLists(self.features[kept], self.click[kept], self.mask[kept], context)
