"""Puts the challenger of a registered model before gates, records the verdicts, and makes it the champion."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from recsys.evaluation.evaluation_set import EvaluationSet
from recsys.evaluation.result import Evaluation
from recsys.tracking.cards.verdicts import with_verdicts
from recsys.tracking.environment import now
from recsys.tracking.gates.case import Contestant, PromotionCase
from recsys.tracking.gates.gate import Verdict
from recsys.tracking.gates.run import outcome_of
from recsys.tracking.known_items import KnownItems
from recsys.tracking.model_card import PAGE
from recsys.tracking.model_files import check_files
from recsys.tracking.most_popular import MostPopular
from recsys.tracking.moves import Move
from recsys.tracking.pyfunc_evaluation import evaluate_pyfunc
from recsys.tracking.registration import FINGERPRINT, load_evaluation_set
from recsys.tracking.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry, who
from recsys.tracking.registry_calls import RegistryError, called, default_store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

VERDICT, JUDGED_AT, JUDGED_BY, GATE = "recsys.verdict", "recsys.judged_at", "recsys.judged_by", "recsys.gate."
_TAG_CHARACTERS = 1000


def case_of(
    registry: Registry,
    evaluation_set: EvaluationSet | None = None,
    retrieve: int = 0,
    bandit_log: Path | None = None,
) -> PromotionCase:
    """The challenger of a registered model against its champion.

    Where there is no champion, the most popular items of the evaluation set stand in for it: the first model must be
    better than no model.

    Args:
        registry: the registered model.
        evaluation_set: the frozen requests; None: those that the challenger's run has left.
        retrieve: items that models retrieve for their ranking; 0: retrieval alone.
        bandit_log: logged recommendations with propensities and rewards.

    Raises:
        RegistryError: there is no challenger, it is the champion, or its run has no evaluation set.
        EvaluationError: the evaluation set is damaged.
        TrackingError: the store cannot be used.
    """
    aliases = registry.aliases()
    challenger, champion = aliases.get(CHALLENGER), aliases.get(CHAMPION)
    if challenger is None or challenger == champion:
        what = "has no challenger" if challenger is None else f"has version {champion} as champion and as challenger"
        raise RegistryError(
            f"`{registry.name}` {what}; `recsys registry register RUN --name {quote(registry.name)}` names one"
        )
    version = registry.version(challenger)
    if evaluation_set is None and version.run_id:
        evaluation_set = load_evaluation_set(registry.client, registry.uri, version.run_id)
    if evaluation_set is None:
        raise RegistryError(
            f"version {challenger} of `{registry.name}` has no evaluation set; name a folder with --evaluation-set"
        )
    if champion is None:
        other = Contestant("popularity, for want of a champion", partial(MostPopular, evaluation_set))
    else:
        other = _contestant(registry, registry.version(champion), CHAMPION)
        if other.registered_with != evaluation_set.fingerprint:  # its catalogue may hold what is gone
            other = replace(other, load=partial(_on_known_items, other.load, evaluation_set))
    return PromotionCase(
        challenger=_contestant(registry, version, CHALLENGER),
        champion=other,
        evaluation_set=evaluation_set,
        judge=partial(judge, evaluation_set, retrieve),
        tracking_uri=registry.uri,
        retrieve=retrieve,
        bandit_log=bandit_log,
    )


def judge(evaluation_set: EvaluationSet, retrieve: int, contestant: Contestant, task: Any) -> Evaluation:
    """How a contestant does on the requests of a task."""
    return evaluate_pyfunc(contestant.load(), evaluation_set, task=task, retrieve=retrieve, name=contestant.name)


def record_verdicts(registry: Registry, case: PromotionCase, verdicts: Sequence[Verdict]) -> str | None:
    """Writes verdicts where they stay: tags and card of the version, and JSON and Markdown among the files of its run.

    Verdicts of an earlier judgement are replaced, also those of gates that were not asked now; its files stay.

    Args:
        registry: the registered model.
        case: whose challenger was judged.
        verdicts: of all gates.

    Returns:
        The folder of the files in the run; None for a version without a run.

    Raises:
        TrackingError: the store cannot be used.
    """
    assert case.challenger.version is not None
    at, by = now(), who()
    content = {
        "model": registry.name,
        "version": case.challenger.version,
        "champion": case.champion.version or case.champion.name,
        "evaluation_set": case.evaluation_set.fingerprint,
        "outcome": outcome_of(verdicts),
        "at": at,
        "by": by,
        "gates": [verdict.as_json() for verdict in verdicts],
    }
    version = registry.version(case.challenger.version)
    tags: dict[str, str | None] = {name: None for name in version.tags if name.startswith(GATE)}
    tags |= {f"{GATE}{verdict.name}": _tag(verdict) for verdict in verdicts}
    registry.tag(case.challenger.version, tags | {JUDGED_AT: at, JUDGED_BY: by, VERDICT: outcome_of(verdicts)})
    registry.describe(case.challenger.version, with_verdicts(version.description or "", verdicts, PAGE))
    if case.challenger.run_id is None:
        return None
    folder = f"promotion/{registry.name} {case.challenger.version}/{at.replace(':', '-')}"
    log = partial(called, registry.uri, registry.client.log_text, case.challenger.run_id)
    log(json.dumps(content, indent=2, allow_nan=False) + "\n", f"{folder}/verdicts.json")
    log(markdown(content), f"{folder}/verdicts.md")
    return folder


def promote(registry: Registry, case: PromotionCase, verdicts: Sequence[Verdict]) -> Move:
    """Makes the challenger of a case the champion.

    Raises:
        RegistryError: a gate has refused it, or its files are not those that were registered.
        LostRaceError: champion or challenger are others by now.
        TrackingError: the store cannot be used.
    """
    if (outcome := outcome_of(verdicts)) != "passed":
        raise RegistryError(f"`{registry.name}`: the gates say {outcome}; nothing was moved")
    assert case.challenger.version is not None
    check_files(registry, case.challenger.version)
    return registry.promote(case.challenger.version, case.champion.version)


def rollback(registry: Registry, because: str) -> Move:
    """Makes the previous champion the champion again; see `Registry.rollback`.

    Raises:
        RegistryError: nothing is there to go back to, its files are not those that were registered, or no reason is
            given.
        LostRaceError: somebody else is moving aliases, and does not come to an end.
        TrackingError: the store cannot be used.
    """
    registry.repair()
    previous = registry.aliases().get(PREVIOUS)
    if previous is not None:
        check_files(registry, previous)
    return registry.rollback(because)


def markdown(content: dict[str, Any]) -> str:
    """Verdicts as a page of Markdown.

    Args:
        content: what `record_verdicts` writes as JSON.
    """
    lines = [
        f"# Version {content['version']} of {_plain(content['model'])}: {content['outcome']}",
        "",
        f"Against {_plain(content['champion'])}, on evaluation set `{content['evaluation_set'][:12]}`, "
        f"{content['at']}, by {_plain(content['by'])}.",
        "",
        "| gate | verdict | demanded | found |",
        "| --- | --- | --- | --- |",
    ]
    for gate in content["gates"]:
        lines.append(f"| {gate['name']} | {gate['outcome']} | {_plain(gate['limit'])} | {_plain(gate['sentence'])} |")
    for gate in content["gates"]:
        if gate["numbers"]:
            lines += ["", f"## {gate['name']}", "", "| number | value |", "| --- | ---: |"]
            lines += [f"| {_plain(name)} | {_number(value)} |" for name, value in gate["numbers"].items()]
    return "\n".join(lines) + "\n"


def _contestant(registry: Registry, version: ModelVersion, alias: str) -> Contestant:
    uri = f"models:/{registry.name}/{version.version}"
    return Contestant(
        name=f"{alias}, version {version.version}",
        load=partial(_loaded, registry, str(version.version)),
        uri=uri,
        version=str(version.version),
        run_id=version.run_id or None,
        registered_with=version.tags.get(FINGERPRINT),
    )


def _loaded(registry: Registry, version: str) -> Any:
    check_files(registry, version)
    with default_store(registry.uri):
        import mlflow

        return mlflow.pyfunc.load_model(f"models:/{registry.name}/{version}")


def _on_known_items(load: Callable[[], Any], evaluation_set: EvaluationSet) -> KnownItems:
    return KnownItems(load(), evaluation_set)


def _tag(verdict: Verdict) -> str:
    text = f"{verdict.outcome}: {verdict.sentence}" + (f" (demanded: {verdict.limit})" if verdict.limit else "")
    return text if len(text) <= _TAG_CHARACTERS else text[: _TAG_CHARACTERS - 1] + "…"


def _plain(text: object) -> str:
    """Text that may stand in a cell of a Markdown table, whatever it holds."""
    escaped = str(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
    return " ".join(escaped.split())


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"
