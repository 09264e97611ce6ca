"""What `recsys recommend` answers, as plain values and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from recsys.tracking.bundle import Bundle
    from recsys.tracking.history import History

POPULAR, BY_QUERY = "these are the popular items of the training data", "the query decides"


def describe(
    bundle: Bundle,
    user: str | None,
    query: str | None,
    history: History,
    items: list[int],
    scores: list[float],
    last: int,
) -> dict[str, Any]:
    """One answer as plain values; items newest first in the history, best first in the list."""
    past = range(len(history.items) - 1, max(len(history.items) - last, 0) - 1, -1)
    return {
        "user": user,
        "query": query,
        "known": user is None or bundle.knows(history),
        "events": len(history.items),
        "history": [
            named(bundle, int(history.items[i]))
            | ({"query": history.queries[i]} if history.queries is not None else {})
            | ({} if user is None else {"time": datetime.fromtimestamp(int(history.times[i]), UTC).isoformat()})
            for i in past
        ],
        "recommendations": [
            named(bundle, item) | {"score": score} for item, score in zip(items, scores, strict=True) if item
        ],
    }


def named(bundle: Bundle, item: int) -> dict[str, Any]:
    """Raw id and title of an item."""
    return {"item": bundle.items.decode([item]).tolist()[0], "title": bundle.title(item)}


def print_results(results: Sequence[dict[str, Any]], k: int) -> None:
    """Prints two tables for each answer: what was, and what is recommended."""
    console = Console()
    for result in results:
        who = "this history" if result["user"] is None else f"user {result['user']}"
        if not result["known"]:
            where = "in the log, but has no training events" if result["events"] else "not in the log"
            console.print(f"{who} is {where}: {POPULAR if result['query'] is None else BY_QUERY}", markup=False)
        elif result["events"]:
            past = Table(
                title=f"{who}: last {len(result['history'])} of {result['events']} events", title_justify="left"
            )
            searched = any(event.get("query") for event in result["history"])
            for column in ("when", "item", "title", *(["searched for"] if searched else [])):
                past.add_column(column)
            for event in result["history"]:
                cells = [event.get("time", "")[:10], Text(str(event["item"])), Text(event["title"])]
                past.add_row(*cells, *([Text(event["query"] or "")] if searched else []))
            console.print(past)
        what = "recommendations" if result["query"] is None else f"results for “{result['query']}”"
        table = Table(title=escape(f"{what} for {who}"), title_justify="left")
        table.add_column("rank", justify="right")
        table.add_column("item")
        table.add_column("title")
        calibrated = any("probability" in item for item in result["recommendations"])
        table.add_column("probability" if calibrated else "score", justify="right")
        for rank, item in enumerate(result["recommendations"], 1):
            shown = f"{item['probability']:.2%}" if calibrated else f"{item['score']:.4f}"
            table.add_row(str(rank), Text(str(item["item"])), Text(item["title"]), shown)
        console.print(table)
        if len(result["recommendations"]) < k:
            console.print(
                f"only {len(result['recommendations'])} items could be given: the others are seen or not allowed"
            )
