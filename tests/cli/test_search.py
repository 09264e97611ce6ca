"""Searching with a finished run: `recsys recommend --query`, and tables of each task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.cli import evaluate, recommend
from recsys.retrieval.fusion import fuse
from recsys.retrieval.topk import recommend as ranked
from recsys.tracking.bundle import Bundle, History, QueryError
from recsys.tracking.record import RunError
from recsys.tracking.run_folder import RunFolder


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert recommend.main([*words, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def raw(answer: dict[str, Any]) -> list[int]:
    return [item["item"] for item in answer["recommendations"]]


def parts(run: RunFolder, user: str) -> tuple[Bundle, History, Any]:
    bundle, log = Bundle.load(run.model), run.log()
    history = History.of_user(log, int(log.users.encode([user])[0]))
    return bundle, history, set(history.items.tolist())


def test_a_search_retrieves_and_ranks(search_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """Equal to the parts: every unseen item scored by the ranking slots of this user, this query."""
    bundle, history, seen = parts(search_run, "u3")
    (answer,) = ask(capsys, str(search_run.path), "--user", "u3", "--query", "red soap", "--k", "4")
    unseen = torch.tensor([[item for item in range(1, bundle.model.n_items + 1) if item not in seen]])
    scores = bundle.model.candidate_scores(bundle.batch([history], ["red soap"]), unseen)[0]
    best = unseen[0][scores.argsort(descending=True)[:4]]
    assert raw(answer) == bundle.items.decode(best.numpy()).tolist()
    assert answer["query"] == "red soap"
    assert {"query", "time", "title"} <= set(answer["history"][0])


def test_the_order_of_retrieval_can_be_kept(search_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, history, seen = parts(search_run, "u3")
    (answer,) = ask(capsys, str(search_run.path), "--user", "u3", "--query", "balm", "--k", "5", "--retrieve", "0")
    scores = bundle.model.scores(bundle.batch([history], ["balm"]))[0]
    scores[list(seen)] = -torch.inf
    assert raw(answer) == bundle.items.decode(scores.topk(5).indices.numpy()).tolist()


def test_two_queries_get_two_answers_and_none_a_third(
    search_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = [
        raw(ask(capsys, str(search_run.path), "--user", "u3", "--k", "30", *words)[0])
        for words in (["--query", "red"], ["--query", "oil"], [])
    ]
    assert lists[0] != lists[1] != lists[2] != lists[0]


def test_words_and_model_can_be_fused(search_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """Items that hold the word come up: the lexical list takes part by rank."""
    from recsys.models.artefact import load_model

    bundle, history, seen = parts(search_run, "u3")
    words = ["--user", "u3", "--query", "brush", "--k", "6", "--retrieve", "0", "--lexical"]
    (answer,) = ask(capsys, str(search_run.path), *words)
    batch = bundle.batch([history], ["brush"])
    jagged = (torch.tensor(sorted(seen)), torch.tensor([0, len(seen)]))
    lists = [ranked(m, batch, 6, seen=jagged).items for m in (bundle.model, load_model(search_run.lexical))]
    expected = fuse(lists, bundle.model.n_items, 6).items[0]
    assert raw(answer) == bundle.items.decode(expected.numpy()).tolist()
    (plain,) = ask(capsys, str(search_run.path), *words[:-1])
    assert raw(plain) != raw(answer)


def test_a_typed_history_may_search_and_the_table_says_for_what(
    search_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recommend.main([str(search_run.path), "--items", "101", "110", "--query", "cream"]) == 0
    assert "results for “cream”" in capsys.readouterr().out
    assert recommend.main([str(search_run.path), "--user", "u1"]) == 0
    out = capsys.readouterr().out
    assert "recommendations for user u1" in out and "searched for" in out


def test_what_cannot_be_searched_is_said(
    search_run: RunFolder, finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(QueryError, match="reads no queries"):
        recommend.main([str(finished.path), "--user", "u1", "--query", "red"])
    with pytest.raises(SystemExit):
        recommend.main([str(search_run.path), "--user", "u1", "--lexical"])
    assert "--lexical compares texts with a query" in capsys.readouterr().err
    shutil.copytree(search_run.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "lexical")
    with pytest.raises(RunError, match="no lexical model"):
        recommend.main([str(tmp_path / "run"), "--user", "u1", "--query", "red", "--lexical"])


def test_a_stranger_is_answered_by_the_query_alone(search_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(search_run.path), "--user", "nobody", "--k", "3"]
    assert recommend.main([*words, "--query", "soap"]) == 0
    assert "user nobody is not in the log: the query decides" in capsys.readouterr().out
    (answer,) = ask(capsys, *words)
    popularity = Bundle.load(search_run.model).model.popularity
    ids = Bundle.load(search_run.model).items.encode(raw(answer))
    assert sorted(popularity[ids].tolist(), reverse=True) == popularity.topk(3).values.tolist()


def test_a_query_of_unknown_words_is_said(search_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(search_run.path), "--user", "u3", "--k", "3"]
    assert recommend.main([*words, "--query", "zzz qqq"]) == 0
    assert "--query: the model knows no word of `zzz qqq`" in capsys.readouterr().err
    assert recommend.main([*words, "--query", "zzz soap"]) == 0
    assert "knows no word" not in capsys.readouterr().err
    with pytest.raises(SystemExit):
        recommend.main([*words, "--query", " "])
    assert "--query is empty" in capsys.readouterr().err


def test_each_task_has_its_table(search_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(search_run.path)]) == 0
    out = capsys.readouterr().out
    assert out.count("SynerGen-ranked") == 2 == out.count("LexicalBM25")
    assert "search," in out and "recommendation," in out


def test_recomputing_judges_every_task_and_stage_again(
    search_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(search_run.path, tmp_path / "run")
    assert evaluate.main([str(tmp_path / "run"), "--recompute"]) == 0
    assert capsys.readouterr().err.count("every list is the same as before") == 4
