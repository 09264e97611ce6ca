"""`recsys recommend`: lists by title, for users of the log and for typed histories."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.cli.recommend import RequestError, main
from recsys.features.batching import histories
from recsys.models.artefact import load_model
from recsys.tracking.record import RunError
from recsys.tracking.run_folder import RunFolder
from tests.cli.conftest import LENGTH


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert main([*words, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def raw(answer: dict[str, Any]) -> list[int]:
    return [item["item"] for item in answer["recommendations"]]


def expected(run: RunFolder, user: str, k: int, without: set[int]) -> list[int]:
    """By brute force: the best unseen items by `scores`, from the newest events of the log."""
    log = run.log()
    place = log.users.encode([user])
    start, end = log.offsets[place], log.offsets[place + 1]
    scores = load_model(run.model).scores(histories(log, place, start, end, LENGTH))[0].double()
    seen = set(log.item_id[start[0] : end[0]].tolist())
    order = [item for item in torch.argsort(scores, descending=True).tolist() if item and item not in seen]
    return [item for item in log.items.decode(order).tolist() if item not in without][:k]


def test_users_get_unseen_items_by_title(finished: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    answers = ask(capsys, str(finished.path), "--user", "u3", "--user", "u7", "--k", "4", "--history", "3")
    assert [answer["user"] for answer in answers] == ["u3", "u7"]
    frame = finished.log().to_frame()
    assert frame.groupby("user_id").size().min() > LENGTH  # or the cut of a history would go unnoticed
    for answer in answers:
        assert raw(answer) == expected(finished, answer["user"], 4, set())
        assert [item["title"] for item in answer["recommendations"]] == [f"Item [{item}]" for item in raw(answer)]
        scores = [item["score"] for item in answer["recommendations"]]
        assert scores == sorted(scores, reverse=True)
        own = frame[frame["user_id"] == answer["user"]]
        assert answer["events"] == len(own)
        assert [event["item"] for event in answer["history"]] == own["item_id"].tolist()[:-4:-1]


def test_tables_show_history_and_list(finished: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(finished.path), "--user", "u3", "--k", "2", "--history", "1"]) == 0
    text = capsys.readouterr().out
    last = ask(capsys, str(finished.path), "--user", "u3", "--k", "2")[0]
    best = last["recommendations"][0]
    assert f"{best['title']}" in text and f"{best['score']:.4f}" in text  # brackets are no markup
    assert f"last 1 of {last['events']} events" in text
    assert last["history"][0]["time"][:10] in text


def test_unknown_user_gets_what_is_popular(finished: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    (answer,) = ask(capsys, str(finished.path), "--user", "stranger", "--k", "5")
    assert not answer["known"] and answer["history"] == []
    model = load_model(finished.model)
    counts = model.catalogue.counts
    items = finished.log().items.encode(raw(answer))
    assert counts[items].tolist() == sorted(counts[1:].tolist(), reverse=True)[:5]
    assert main([str(finished.path), "--user", "stranger"]) == 0
    assert "user stranger is not in the log: these are the popular items" in capsys.readouterr().out


def test_typed_history_needs_no_log(
    run: RunFolder, finished: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise AssertionError("the log was opened")

    monkeypatch.setattr(RunFolder, "log", gone)
    (answer,) = ask(capsys, str(run.path), "--items", "101", "110", "105", "--k", "25")
    assert [event["item"] for event in answer["history"]] == [105, 110, 101]
    assert len(raw(answer)) == 22 and not {101, 105, 110} & set(raw(answer))
    (reversed_,) = ask(capsys, str(run.path), "--items", "105", "110", "101", "--k", "25")
    assert raw(reversed_) != raw(answer)  # the order counts
    (seen,) = ask(capsys, str(run.path), "--items", "101", "110", "105", "--k", "25", "--seen")
    assert sorted(raw(seen)) == list(range(100, 125))


def test_allow_and_deny(finished: RunFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    every = expected(finished, "u3", 25, set())
    (tmp_path / "deny.txt").write_text(f"{every[0]}\n\n{every[2]}\n")
    (answer,) = ask(capsys, str(finished.path), "--user", "u3", "--deny", f"@{tmp_path / 'deny.txt'}", "--k", "3")
    assert raw(answer) == [every[1], every[3], every[4]]
    words = ["--allow", str(every[5]), str(every[1]), str(every[0]), "--deny", str(every[0])]
    (answer,) = ask(capsys, str(finished.path), "--user", "u3", *words)
    assert raw(answer) == [every[1], every[5]]
    assert main([str(finished.path), "--user", "u3", *words]) == 0
    assert "only 2 items could be given" in capsys.readouterr().out
    assert main([str(finished.path), "--user", "u3", "--deny", str(every[0]), "999"]) == 0
    assert "--deny: 1 of 2 ids are unknown: `999`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--items", "101", "x"], "--items: ids of this log are integers, not `x`"),
        (["--items", "101", "7"], "--items: the model does not know `7`"),
        (["--items", "9" * 30], "integers, not"),
        (["--user", "u1", "--allow", "7", "8"], "--allow: the model knows none of the 2 items"),
        (["--user", "u1", "--deny", "@/no/such/file"], "--deny: /no/such/file cannot be read"),
    ],
)
def test_requests_that_cannot_be_met(finished: RunFolder, words: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        main([str(finished.path), *words])


@pytest.mark.parametrize("words", [[], ["--user", "u1", "--k", "0"], ["--items", "101", "--history", "-1"]])
def test_wrong_usage(finished: RunFolder, words: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(finished.path), *words])
    assert end.value.code == 2


def test_what_is_missing_is_named(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run here"):
        main([str(tmp_path / "nothing"), "--user", "u1"])
    with pytest.raises(RunError, match=r"prepared log of .* is not there.*--log FOLDER.*--items ID"):
        main([str(run.path), "--user", "u1", "--log", str(tmp_path)])
    shutil.rmtree(run.model)
    with pytest.raises(RunError, match="no saved model"):
        main([str(run.path), "--user", "u1"])
