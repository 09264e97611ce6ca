"""Prints what a run's model recommends, by title, to users of its log or for a history that is typed in.

`recsys recommend RUN --user 17 --user 42` shows their last events beside it; `recsys recommend RUN --items 50 181`
answers somebody who had these items, oldest first, and needs no log. With `--query "red nail polish"` they search. A
model that ranks retrieves `--retrieve` items and orders them. Seen items are left out. `--allow` and `--deny` take item
ids, or `@FILE` with one id a line. A model that knows users by their ids alone, such as matrix factorization, takes no
`--items`, and no log with `--seen`: the log is then needed for what a user had, and for nothing else.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jsonargparse import ArgumentParser
from numpy.typing import NDArray

from recsys.cli.answers import describe, print_results
from recsys.tracking.record import RunError
from recsys.tracking.run_folder import RunFolder

if TYPE_CHECKING:
    import torch

    from recsys.features.event_log import EventLog
    from recsys.features.vocabulary import Vocabulary
    from recsys.models.recommender import Recommender
    from recsys.tracking.bundle import Bundle
    from recsys.tracking.history import History

_SHOWN = 5


class RequestError(ValueError):
    """Something that was asked for cannot be given; the message names it."""


def parser() -> ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser("recsys recommend", description=__doc__, default_env=True, env_prefix="RECSYS_RECOMMEND")
    arguments.add_argument("--config", action="config", help="YAML file with these arguments")
    arguments.add_argument("run", type=str, help="folder of a run")
    arguments.add_argument("--user", type=str, nargs="+", action="extend", help="id of a user, as in the source")
    arguments.add_argument("--items", type=str, nargs="+", help="ids of a history's items, oldest first")
    arguments.add_argument("--query", type=str | None, help="what they search for; left out: nothing")
    arguments.add_argument("--k", type=int, default=10, help="number of items")
    arguments.add_argument(
        "--retrieve", type=int, default=200, help="items to retrieve for a model that ranks; 0 keeps retrieval's order"
    )
    arguments.add_argument("--lexical", action="store_true", help="fuse with BM25 over the texts of the items")
    arguments.add_argument("--history", type=int, default=5, help="last events to show of each user")
    arguments.add_argument("--seen", action="store_true", help="recommend seen items too")
    arguments.add_argument("--allow", type=str, nargs="+", help="only these items")
    arguments.add_argument("--deny", type=str, nargs="+", help="none of these items")
    arguments.add_argument("--log", type=str | None, help="the prepared log, if it is not where the run had it")
    arguments.add_argument("--json", action="store_true", help="print JSON")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: its arguments; None reads the command line.

    Returns:
        The exit code.

    Raises:
        RunError: model or log are not there.
        RequestError: an id is not of the log, or no item may be given.
    """
    arguments = parser()
    given = arguments.parse_args(argv).as_dict()
    if not given["user"] and not given["items"]:
        arguments.error("name users (--user), or the items of a history (--items)")
    if given["k"] < 1 or given["history"] < 0 or given["retrieve"] < 0:
        arguments.error("--k must be at least 1, --history and --retrieve at least 0")
    if given["query"] is not None and not given["query"].strip():
        arguments.error("--query is empty; leave it out to be recommended something")
    if given["lexical"] and given["query"] is None:
        arguments.error("--lexical compares texts with a query: give one with --query")
    from recsys.tracking.bundle import Bundle

    run = RunFolder(Path(given["run"]))
    if not run.model.is_dir():
        raise RunError(f"{run.path}: no saved model (the run is {run.record.status}); `recsys fit` saves one")
    bundle = Bundle.load(run.model)
    check_reads(bundle, given)
    asked: list[tuple[str | None, History]] = []
    if given["items"]:
        asked.append((None, bundle.history(known_items(bundle, given["items"], "--items"))))
    if given["user"]:
        asked += histories_of(bundle, run, given)
    if given["query"] is not None and bundle.knows_no_word(given["query"]):
        print(f"--query: the model knows no word of `{given['query']}`; the history alone decides", file=sys.stderr)
    ranks = bundle.model.ranks and given["retrieve"] > 0
    answers = bundle.recommend(
        [history for _, history in asked],
        given["k"],
        queries=[given["query"]] * len(asked),
        retrieve=given["retrieve"] if ranks else None,
        lexical=lexical_model(run) if given["lexical"] else None,
        filter_seen=not given["seen"],
        allow=id_list(bundle, given["allow"], "--allow"),
        deny=id_list(bundle, given["deny"], "--deny"),
    )
    results = [
        describe(bundle, user, given["query"], history, items, scores, given["history"])
        for (user, history), items, scores in zip(asked, answers.items.tolist(), answers.scores.tolist(), strict=True)
    ]
    if ranks and bundle.platt is not None:
        known = (result for result in results if result["events"] or given["query"])  # others get what is popular
        for item in (item for result in known for item in result["recommendations"]):
            item["probability"] = float(bundle.platt(item["score"]))
    if given["json"]:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    else:
        print_results(results, given["k"])
    return 0


def lexical_model(run: RunFolder) -> Recommender:
    """The model that compares the words of queries and items.

    Raises:
        RunError: the run has none.
    """
    from recsys.models.artefact import load_model

    if not run.lexical.is_dir():
        raise RunError(
            f"{run.path}: no lexical model; `recsys fit` keeps one for a log with queries, unless other baselines are "
            "named in `job.baselines`"
        )
    return load_model(run.lexical)


def check_reads(bundle: Bundle, given: dict[str, Any]) -> None:
    """Sees that the model reads what it is given.

    Raises:
        RequestError: it knows users by their ids alone, and is given a history or a query.
    """
    name = type(bundle.model).__name__
    if bundle.model.reads_history:
        return
    if given["items"]:
        raise RequestError(
            f"--items: {name} knows users by their ids and reads no history; name users of the log with --user"
        )
    if given["query"] is not None and not given["lexical"]:
        raise RequestError(
            f"--query: {name} knows users by their ids and reads no query; leave it out, or let BM25 find what matches "
            "with --lexical"
        )


def histories_of(bundle: Bundle, run: RunFolder, given: dict[str, Any]) -> list[tuple[str | None, History]]:
    """The users that were named, with their events from the log; without these where nothing needs them.

    Raises:
        RunError: the log is needed, and is not there or is another one.
    """
    try:
        log = run.log(given["log"])
    except RunError as error:
        if bundle.model.reads_history:
            raise RunError(f"{error}; without the log, type the history in: `--items ID ...`") from None
        if bundle.users is None:
            raise
        if not given["seen"] or given["log"] is not None:
            raise RunError(
                f"{error}; without the log nobody knows what a user had: `--seen`, without `--log`, recommends such "
                "items too"
            ) from None
        raw = raw_ids(bundle.users, given["user"], "--user")
        nothing = np.zeros(0, dtype=np.int64)
        return [(user, bundle.history(nothing, name)) for user, name in zip(given["user"], raw, strict=True)]
    return [(user, history_of(log, user)) for user in given["user"]]


def raw_ids(vocabulary: Vocabulary, words: Sequence[str], option: str) -> list[Any]:
    """Words of the command line as raw ids.

    Raises:
        RequestError: the ids of the log are integers, and a word is none.
    """
    if vocabulary.values.dtype != np.int64:
        return list(words)
    wrong = [word for word in words if not re.fullmatch(r"-?\d{1,18}", word)]
    if wrong:
        raise RequestError(f"{option}: ids of this log are integers, not {shown(wrong)}")
    return [int(word) for word in words]


def history_of(log: EventLog, user: str) -> History:
    """The events of a user; none for one the log does not know."""
    from recsys.tracking.history import History

    found = int(log.users.encode(raw_ids(log.users, [user], "--user"))[0])
    return History.of_user(log, found if found <= log.n_users else 0)


def encode_items(bundle: Bundle, words: Sequence[str], option: str) -> tuple[NDArray[np.int64], list[str]]:
    """Ids of items, and the words that name none."""
    ids = bundle.items.encode(raw_ids(bundle.items, words, option))
    known = (ids > 0) & (ids <= bundle.model.n_items)
    return ids[known], [word for word, found in zip(words, known, strict=True) if not found]


def known_items(bundle: Bundle, words: Sequence[str], option: str) -> NDArray[np.int64]:
    """Ids of items.

    Raises:
        RequestError: the model does not know one of them.
    """
    ids, unknown = encode_items(bundle, words, option)
    if unknown:
        raise RequestError(f"{option}: the model does not know {shown(unknown)}")
    return ids


def id_list(bundle: Bundle, words: Sequence[str] | None, option: str) -> torch.Tensor | None:
    """Ids of a list of allowed or denied items; ids that the model does not know are counted on stderr.

    Raises:
        RequestError: a file is missing, or an allow list leaves nothing.
    """
    import torch

    if words is None:
        return None
    listed = [line for word in words for line in (lines(word[1:], option) if word.startswith("@") else [word])]
    ids, unknown = encode_items(bundle, listed, option)
    if option == "--allow" and not len(ids):
        raise RequestError(f"{option}: the model knows none of the {len(listed)} items")
    if unknown:
        print(f"{option}: {len(unknown)} of {len(listed)} ids are unknown: {shown(unknown)}", file=sys.stderr)
    return torch.from_numpy(ids)


def lines(path: str, option: str) -> list[str]:
    """The lines of a file that are not empty.

    Raises:
        RequestError: it cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{option}: {path} cannot be read ({error})") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def shown(words: Sequence[str]) -> str:
    """The first few words, and how many more there are."""
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(f"`{word}`" for word in words[:_SHOWN]) + more
