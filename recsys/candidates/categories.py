"""The category of each item, by a feature that model or log know."""

from __future__ import annotations

import numpy as np
import torch

from recsys.candidates.asked import Inputs
from recsys.candidates.files import JobError
from recsys.candidates.histories import Ids
from recsys.features.jagged import JaggedColumn
from recsys.models.trainable import TrainableNetwork
from recsys.retrieval.merging import Caps

_KINDS = ("categorical", "categorical_list")


def caps_of(inputs: Inputs, feature: str, most: int) -> Caps:
    """At most so many items of a category in a list.

    Args:
        inputs: of the job; the model's catalogue is asked, and the log where the model has none.
        feature: of items, categorical; the category of a list is its first value.
        most: items of a category.

    Raises:
        JobError: neither knows such a feature.
    """
    n_items, model = inputs.bundle.model.n_items, inputs.bundle.model
    categories = np.zeros(n_items + 1, dtype=np.int32)
    known: set[str] = set()
    if isinstance(model, TrainableNetwork):
        of_model = {f.name for f in model.catalogue.schema.of("item") if f.type in _KINDS} & set(model.catalogue.jagged)
        known |= of_model
        if feature in of_model:
            values, offsets = (part.cpu().numpy() for part in model.catalogue.jagged[feature])
            categories[:] = _first(JaggedColumn(values, offsets))
            return Caps(torch.from_numpy(categories), most)
    of_log = {f.name for f in inputs.log.schema.of("item") if f.type in _KINDS} & set(inputs.log.item_features)
    if feature not in of_log:
        there = ", ".join(f"`{name}`" for name in sorted(known | of_log)) or "none"
        raise JobError(
            f"cap_by: neither model nor log know a categorical feature `{feature}` of items, but {there}; a log "
            "that was prepared with its table of items knows its features"
        )
    categories[inputs.reader.item_ids] = _first(inputs.log.item_features[feature])
    categories[0] = 0
    return Caps(torch.from_numpy(categories), most)


def _first(column: JaggedColumn) -> Ids:
    """The first value of each row, 0 for an empty one."""
    padded = np.append(column.values, 0)
    return np.where(column.lengths > 0, padded[np.minimum(column.offsets[:-1], len(column.values))], 0)
