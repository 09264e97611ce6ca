"""The published purchases of the cell phone search set as a log: one event a purchase, test rows last."""

from __future__ import annotations

import numpy as np
import pandas as pd

DAY = 86_400
"""Seconds between the pseudo-times of a user's events."""


def purchase_log(
    search: pd.DataFrame, queries: pd.DataFrame, items: pd.DataFrame, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, int]]:
    """Events and items of the published rows.

    Args:
        search: rows (user_id, query_id, item_id, split); `split` is `train` or `test`.
        queries: rows (query_id, text).
        items: rows (item_id, asin, train_query_ids); the last holds lists of query ids.
        seed: decides between the queries of a purchase, and between the test rows of a user.

    Returns:
        Events (user_id, item_id, timestamp, position, query, split), users ascending and each in order; items (item_id,
        asin, categories); and counts.
    """
    random = np.random.default_rng(seed)
    search = search.assign(draw=random.random(len(search)))
    train, test = (search[search["split"] == split] for split in ("train", "test"))
    # Groups stand in the order of their first rows; the smallest draw says which query a purchase keeps.
    purchases = train.loc[train.groupby(["user_id", "item_id"], sort=False)["draw"].idxmin()]
    asked = test.loc[test.groupby("user_id")["draw"].idxmin()]
    events = pd.concat([purchases, asked]).sort_values("user_id", kind="stable", ignore_index=True)
    events["position"] = events.groupby("user_id").cumcount()
    events["timestamp"] = events["position"] * DAY
    text = queries.set_index("query_id")["text"]
    events["query"] = events["query_id"].map(text)
    named = items[["item_id", "train_query_ids"]].explode("train_query_ids")
    categories = named.assign(text=named["train_query_ids"].map(text)).groupby("item_id")["text"].agg("; ".join)
    counts = {
        "train_rows": len(train),
        "test_rows": len(test),
        "other_queries_of_a_purchase": len(train) - len(purchases),
        "test_rows_left_out": len(test) - len(asked),
        "test_events": len(asked),
    }
    return (
        events[["user_id", "item_id", "timestamp", "position", "query", "split"]],
        items[["item_id", "asin"]].assign(categories=items["item_id"].map(categories)),
        counts,
    )
