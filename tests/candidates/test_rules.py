"""What may stand in a list: items, least scores, categories, sources, ranking, and users of whom nothing is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.candidates.files import JobError
from recsys.candidates.run import run_job
from recsys.candidates.sources import ItemItemSource, ModelSource, PopularitySource
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.models.item_item import Cosine
from recsys.tracking.bundle import Bundle, QueryError
from recsys.tracking.history import History
from tests.candidates.conftest import Saved, lists_of, users_of

Make = Callable[..., Saved]
NOBODY = History(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


def by_user(made: Saved, tmp_path: Path, **others: Any) -> dict[Any, pd.DataFrame]:
    folder = run_job(made.config(tmp_path, **others)).folder
    return {user: own.reset_index(drop=True) for user, own in lists_of(folder).groupby("user_id", sort=False)}


def raw(made: Saved, items: torch.Tensor) -> list[Any]:
    return list(made.bundle.items.decode(items[items > 0].tolist()))


def test_items_of_everybody_and_of_single_users(saved: Make, tmp_path: Path) -> None:
    made = saved("synergen")
    pairs = pd.DataFrame({"user_id": [500, 500, 501, 4711], "item_id": [110, 999, 111, 112]})
    pairs.to_parquet(tmp_path / "deny.parquet")
    may = pd.DataFrame({"user_id": np.repeat([500, 501], 10), "item_id": np.tile(np.arange(105, 115), 2)})
    may.to_parquet(tmp_path / "allow.parquet")
    lists = {"user_allow": str(tmp_path / "allow.parquet"), "user_deny": str(tmp_path / "deny.parquet")}
    found = by_user(made, tmp_path / "out", deny=("107", "gone"), **lists)
    assert list(found) == [500, 501]  # others are in no list of allowed items
    for user, own_deny in ((500, [110]), (501, [111])):
        allow = made.bundle.items.encode([i for i in range(105, 115) if i not in [107, *own_deny]])
        alone = made.bundle.recommend([made.history(user - 499)], 5, allow=torch.from_numpy(allow))
        assert found[user]["item_id"].tolist() == raw(made, alone.items[0])
    users = users_of(tmp_path / "out" / "night")
    assert users["reason"][2:].eq("too_few_items").all() and len(users) == 40
    counts = run_job(made.config(tmp_path / "out", deny=("107", "gone"), **lists)).manifest.counts
    assert (counts["user_deny_pairs"], counts["user_deny_pairs_of_others"], counts["deny_unknown"]) == (3, 1, 1)
    assert (counts["user_deny_unknown"], counts["user_allow_unknown"]) == (1, 0)


@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_ids_that_are_written_as_fractions_would_match_nothing_and_are_refused(
    saved: Make, tmp_path: Path, column: str
) -> None:
    pairs = pd.DataFrame({"user_id": [500], "item_id": [110]})
    pairs.astype({column: "float64"}).to_parquet(tmp_path / "deny.parquet")
    with pytest.raises(JobError, match=f"--user_deny: .*`{column}` holds numbers with fractions .DOUBLE."):
        run_job(saved().config(tmp_path / "out", user_deny=str(tmp_path / "deny.parquet")))


def test_seen_items_are_given_where_they_may(saved: Make, tmp_path: Path) -> None:
    made = saved("synergen")
    found = by_user(made, tmp_path, filter_seen=False)
    for user in (500, 539):
        alone = made.bundle.recommend([made.history(user - 499)], 5, filter_seen=False)
        assert found[user]["item_id"].tolist() == raw(made, alone.items[0])


def test_users_of_a_list_and_their_queries(saved: Make, tmp_path: Path) -> None:
    made = saved("synergen")
    users = pd.DataFrame({"user_id": [530, 7, 501, 8, 501, 9], "query": ["red soap", "oil", "", None, None, " balm "]})
    users.to_csv(tmp_path / "users.csv", index=False)
    outcome = run_job(made.config(tmp_path / "out", users=str(tmp_path / "users.csv")))
    rows, facts = lists_of(outcome.folder), users_of(outcome.folder)
    assert facts["user_id"].tolist() == [7, 8, 9, 501, 530] and facts["cold"].tolist() == [False, True] + [False] * 3
    assert outcome.manifest.counts["users_named_twice"] == 1
    assert outcome.manifest.counts["users_without_events"] == 3
    asked = {7: (NOBODY, "oil"), 8: (NOBODY, None), 9: (NOBODY, "balm"), 501: (2, None), 530: (31, "red soap")}
    for user, (history, query) in asked.items():
        whole = made.history(history) if isinstance(history, int) else history
        alone = made.bundle.recommend([whole], 5, queries=[query])
        own = rows[rows["user_id"] == user]
        assert own["item_id"].tolist() == raw(made, alone.items[0])
        assert set(own["source"]) == {"popularity" if user == 8 else "model"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user_id\n1\nx\n", "ids of users in the log are integers, and `x` is none"),
        ("user_id\n500.0\n501.6\n", "ids of users in the log are integers, and `501.6` is none"),
        ("user_id,query\n1,oil\n1,soap\n", "gives user `1` several queries"),
        ("customer\n1\n", "has no column `user_id`, but customer"),
        ("user_id\n", "names nobody"),
        ('user_id,query\n1,oil\n"",x\n', "1 rows have no `user_id`"),
    ],
)
def test_wrong_lists_of_users(saved: Make, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "users.csv").write_text(content)
    with pytest.raises(JobError, match=message):
        run_job(saved("synergen").config(tmp_path / "out", users=str(tmp_path / "users.csv")))


def test_a_model_that_reads_no_query_is_not_asked_one(saved: Make, tmp_path: Path) -> None:
    made = saved("popularity")
    bundle = Bundle(**vars(made.bundle) | {"queries": None, "schema": Schema(name="shop")})
    bundle.save(tmp_path / "model")
    (tmp_path / "users.csv").write_text("user_id,query\n501,oil\n")
    with pytest.raises(QueryError, match="leave the column `query` out"):
        run_job(made.config(tmp_path, model=str(tmp_path / "model"), users=str(tmp_path / "users.csv")))


@pytest.mark.parametrize("name", ["synergen", "factors"])
def test_cold_users(saved: Make, tmp_path: Path, name: str) -> None:
    made = saved(name)
    (tmp_path / "users").write_text("500\n7\n8\n")
    users = f"@{tmp_path / 'users'}"
    found = by_user(made, tmp_path / "popular", users=users)
    alone = made.bundle.recommend([NOBODY], 5)
    for user in (7, 8):
        assert found[user]["item_id"].tolist() == raw(made, alone.items[0])
        assert set(found[user]["source"]) == {"popularity"}
    skipped = run_job(made.config(tmp_path / "skipped", users=users, cold="skip"))
    assert set(lists_of(skipped.folder)["user_id"]) == {500} and skipped.manifest.counts["short_cold"] == 2
    message = {"synergen": "2 of 3 users have no events and no query", "factors": "the model knows nothing of user `7`"}
    with pytest.raises(JobError, match=f"cold: refuse: {message[name]}"):
        run_job(made.config(tmp_path / "refused", users=users, cold="refuse"))
    if name == "synergen":
        (tmp_path / "asking.csv").write_text("user_id,query\n500,\n7,oil\n")
        run_job(made.config(tmp_path / "refused", name="b", users=str(tmp_path / "asking.csv"), cold="refuse"))


def test_items_that_the_model_does_not_know_are_counted(saved: Make, tmp_path: Path) -> None:
    made = saved("synergen")
    events = made.log.to_frame().rename(columns={"action": "kind"})
    strangers = pd.DataFrame({"user_id": [1, 1, 500], "item_id": [7, 8, 7], "timestamp": [10**9, 10**9 + 1, 2 * 10**9]})
    (tmp_path / "log").mkdir()
    events.to_parquet(tmp_path / "log" / "a.parquet")
    strangers.assign(kind="buy", query=None).astype({"query": "str"}).to_parquet(tmp_path / "log" / "b.parquet")
    outcome = run_job(made.config(tmp_path / "out", log=str(tmp_path / "log")))
    counts, users = outcome.manifest.counts, users_of(outcome.folder)
    assert counts["unknown_events"] == 3 and counts["cold"] == 1 and counts["users_without_events"] == 0
    assert users["cold"].tolist() == [True, *[False] * 40] and users["events"].iloc[:2].tolist() == [0, 8]
    rows = lists_of(outcome.folder)
    alone = made.bundle.recommend([made.history(1)], 5)
    assert rows[rows["user_id"] == 500]["item_id"].tolist() == raw(made, alone.items[0])
    with pytest.raises(JobError, match="cold: refuse: the model knows nothing of user `1`"):
        run_job(made.config(tmp_path / "refused", log=str(tmp_path / "log"), cold="refuse"))


def test_ids_of_another_type_are_refused(saved: Make, tmp_path: Path) -> None:
    strings = saved("cosine", integers=False)
    with pytest.raises(JobError, match="ids of items are written differently in the log and for the model"):
        run_job(saved("synergen").config(tmp_path, log=str(strings.folder / "log")))


def test_a_least_score(saved: Make, tmp_path: Path) -> None:
    made = saved("synergen")
    free = lists_of(run_job(made.config(tmp_path / "free", k=25)).folder)
    least = float(free["score"].median())
    folder = run_job(made.config(tmp_path / "held", k=25, min_score=least)).folder
    held = lists_of(folder)
    kept = free[free["score"] >= np.float32(least)].reset_index(drop=True)
    pd.testing.assert_frame_equal(held.drop(columns="generated_at"), kept.drop(columns="generated_at"))
    users = users_of(folder)
    short = users["items"] < 25
    assert short.any() and set(users["reason"][short]) <= {"minimum", "too_few_items"}
    assert (users["reason"] == "minimum").any()


def test_the_ranking_head_orders_what_was_retrieved(saved: Make, tmp_path: Path) -> None:
    made = saved("synergen")
    found = by_user(made, tmp_path, rank=True, retrieve=12)
    for user in (500, 517, 539):
        alone = made.bundle.recommend([made.history(user - 499)], 5, retrieve=12)
        assert found[user]["item_id"].tolist() == raw(made, alone.items[0])
        np.testing.assert_allclose(found[user]["score"], alone.scores[0].numpy(), atol=1e-5)


def test_origins_survive_the_ranking(saved: Make, tmp_path: Path) -> None:
    made = saved("synergen")
    sources = (PopularitySource(quota=4), ModelSource())
    first = by_user(made, tmp_path / "first", sources=sources, k=12)
    ranked = by_user(made, tmp_path / "ranked", sources=sources, rank=True, retrieve=12)
    for user, own in ranked.items():
        origin = first[user].set_index("item_id")["source"]
        assert own["source"].tolist() == origin[own["item_id"]].tolist()


def test_a_short_ranking_tells_why_too_little_was_retrieved(saved: Make, tmp_path: Path) -> None:
    made = saved("synergen")
    outcome = run_job(made.config(tmp_path, sources=(ModelSource(quota=3),), rank=True, retrieve=12))
    users = users_of(outcome.folder)
    assert users["items"].eq(3).all() and users["reason"].eq("quotas").all()


def test_why_a_ranking_is_short_does_not_depend_on_how_much_was_retrieved(saved: Make, tmp_path: Path) -> None:
    made = saved("synergen")
    free = lists_of(run_job(made.config(tmp_path / "free", k=25)).folder)
    least = float(free["score"].quantile(0.9))  # of about 22 items that a user has not seen
    few = (ModelSource(min_score=least),)
    outcome = run_job(made.config(tmp_path / "out", sources=few, rank=True, retrieve=28))
    users = users_of(outcome.folder)
    assert (users["items"] < 5).any() and set(users["reason"].dropna()) == {"minimum"}


def test_caps_hold_by_category(tmp_path: Path, saved: Make) -> None:
    random = np.random.default_rng(1)
    events = pd.DataFrame({"user_id": np.repeat(np.arange(30), 6), "item_id": random.integers(0, 40, 180)})
    events["timestamp"] = np.arange(180)
    brand = random.integers(0, 4, 40)
    items = pd.DataFrame({"item_id": np.arange(40), "brand": [f"b{number}" for number in brand]})
    schema = Schema.model_validate(
        {"name": "caps", "features": [{"name": "brand", "column": "brand", "type": "categorical"}]}
    )
    log = EventLog.from_frame(events, schema, items)
    from recsys.features.splits import LeaveLastOut

    split = LeaveLastOut()(log)
    model = Cosine()
    model.fit(split)
    bundle = Bundle.of(model, log, split.hash)
    bundle.save(tmp_path / "model")
    log.save(tmp_path / "log")
    made = Saved(bundle, log, tmp_path)
    found = by_user(made, tmp_path / "out", k=7, cap=2, cap_by="brand", retrieve=40)
    for user in range(1, 31):
        whole = bundle.recommend([made.history(user)], 40)
        expected, taken = [], dict.fromkeys(range(4), 0)
        for item in raw(made, whole.items[0]):
            if taken[brand[item]] < 2 and len(expected) < 7:
                taken[brand[item]] += 1
                expected.append(item)
        assert found[user - 1]["item_id"].tolist() == expected and len(expected) == 7
    assert set(users_of(run_job(made.config(tmp_path / "nine", k=9, cap=2, cap_by="brand")).folder)["reason"]) == {
        "caps"
    }


def test_sources_of_other_models(saved: Make, tmp_path: Path) -> None:
    made, other = saved("synergen"), saved("cosine")
    sources = (
        ModelSource(quota=2),
        ModelSource(name="neighbours", model=str(other.folder / "model"), quota=1),
        ItemItemSource(quota=1, neighbours=20),
        PopularitySource(),
    )
    found = by_user(made, tmp_path, sources=sources, deny=("105",))
    allow = torch.tensor([i for i in range(1, 31) if i != made.bundle.items.encode([105])[0]])
    for user, own in found.items():
        history = made.history(user - 499)
        assert own["source"].tolist()[:2] == ["model", "model"] and len(own) == 5 and own["item_id"].is_unique
        first = made.bundle.recommend([history], 2, allow=allow)
        assert own["item_id"].tolist()[:2] == raw(made, first.items[0])
        second = other.bundle.recommend([history], 3, allow=allow)
        expected = next(item for item in raw(other, second.items[0]) if item not in own["item_id"].tolist()[:2])
        assert own["item_id"][own["source"] == "neighbours"].tolist() == [expected]
        seen = set(made.bundle.items.decode(history.items).tolist())
        assert not (seen | {105}) & set(own["item_id"])


def test_neighbours_are_those_of_the_whole_log(saved: Make, tmp_path: Path) -> None:
    """Against cosines by hand: sums of similarities to what the user had, by the columns of all users."""
    made = saved("synergen")
    sources = (ItemItemSource(neighbours=30),)
    found = by_user(made, tmp_path, sources=sources, k=3)
    pairs = np.zeros((made.log.n_users + 1, made.log.n_items + 1))
    pairs[made.log.user_ids(), made.log.item_id] = 1
    norms = np.sqrt(pairs.sum(axis=0)).clip(min=1)
    similar = pairs.T @ pairs / norms / norms[:, None]
    for user, own in found.items():
        had = pairs[user - 499]
        scores = np.where(had > 0, -1, had @ similar)
        best = np.sort(scores)[::-1][: len(own)]
        np.testing.assert_allclose(own["score"], best, rtol=1e-4)
        assert len(own) == min(3, int((scores > 1e-9).sum()))


def test_sources_must_differ_in_name(saved: Make, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"two sources are called alike \(model, model\)"):
        saved().config(tmp_path, sources=(ModelSource(), ModelSource()))
    for wrong, message in (({"neighbours": 0}, "neighbours 0"), ({"quota": -1}, "quota -1")):
        with pytest.raises(JobError, match=f"source item_item: {message}"):
            ItemItemSource(**wrong)
    with pytest.raises(JobError, match="scores of several sources have no common scale"):
        saved().config(tmp_path, sources=(ModelSource(), PopularitySource()), min_score=0.5)
