"""What the lists of a night must hold to be published, and how far they may be from those of the night before."""

from __future__ import annotations

import contextlib
import io
import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import yaml

from recsys.candidates.drift import jensen_shannon, population_stability
from recsys.candidates.files import JobError, write_durable
from recsys.candidates.summary import Summary

Level = Literal["ok", "warn", "refuse"]
REPORT = "contract.json"


class ContractError(JobError):
    """A contract that cannot be read; the message says what to change."""


@dataclass(frozen=True)
class Limits:
    """From where on a number is a warning, and from where on a refusal; the limit itself is still allowed.

    Attributes:
        warn: null: never.
        refuse: null: never.
    """

    warn: float | None = None
    refuse: float | None = None


class Finding(NamedTuple):
    """What a rule has found.

    Attributes:
        name: of the rule.
        level: `ok`, `warn` or `refuse`.
        value: that was measured; None where the rule does not apply.
        limit: that was broken, or else the first that could have been; None: there is none.
        sentence: for people.
    """

    name: str
    level: Level
    value: float | None
    limit: float | None
    sentence: str


@dataclass(frozen=True)
class DataContract:
    """The rules, each with its limits. The first eight say that files are whole and lists are lists; the rest is taste.

    Attributes:
        missing: most rows and users by which files and manifest may differ.
        doubled_users: most users that stand in two places.
        mismatched_users: most users whose list is not as long as what stands beside them.
        nulls: most empty values.
        not_finite: most scores that are NaN or infinite.
        duplicates: most rows that give a user an item again.
        broken_ranks: most users whose ranks are not 1, 2, ...
        unexplained: most users with fewer than k items and no reason.
        users: least users.
        short_users: most users with fewer than k items, as a share of all.
        coverage: least share of the catalogue that somebody gets.
        users_change: most change of the number of users since the previous job, as a share of those.
        coverage_fall: most fall of the number of items that somebody gets, as a share of those before.
        score_drift: most population stability index of the scores of a source. Where another model has made them, other
            scores are no error, and it only warns.
        item_drift: most Jensen-Shannon divergence, in bits, of which items are given how often.

    Example:
        >>> DataContract().short_users
        Limits(warn=0.01, refuse=0.2)
    """

    missing: Limits = Limits(refuse=0)
    doubled_users: Limits = Limits(refuse=0)
    mismatched_users: Limits = Limits(refuse=0)
    nulls: Limits = Limits(refuse=0)
    not_finite: Limits = Limits(refuse=0)
    duplicates: Limits = Limits(refuse=0)
    broken_ranks: Limits = Limits(refuse=0)
    unexplained: Limits = Limits(refuse=0)
    users: Limits = Limits(refuse=1)
    short_users: Limits = Limits(warn=0.01, refuse=0.2)
    coverage: Limits = Limits(warn=0.01)
    users_change: Limits = Limits(warn=0.05, refuse=0.3)
    coverage_fall: Limits = Limits(warn=0.2, refuse=0.5)
    score_drift: Limits = Limits(warn=0.1, refuse=0.25)
    item_drift: Limits = Limits(warn=0.1, refuse=0.3)

    @classmethod
    def read(cls, path: str | Path) -> DataContract:
        """Reads a file of limits in YAML, such as `short_users: {warn: 0.02, refuse: null}`; what is not named stays.

        Raises:
            ContractError: it cannot be read, or names something else.
        """
        from jsonargparse import ArgumentError, ArgumentParser

        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ContractError(f"{path}: no file of limits ({error})") from None
        content = {} if content is None else content
        if not isinstance(content, dict) or not all(isinstance(limits, dict) for limits in content.values()):
            raise ContractError(
                f"{path}: rules by name are wanted, each with its limits, such as `nulls: {{warn: null, refuse: 0}}`"
            )
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(cls, "contract")
        try:
            with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore", DeprecationWarning)
                read = parser.instantiate_classes(parser.parse_object({"contract": content})).contract
            for name, limits in vars(read).items():
                if any(math.isnan(limit) for limit in (limits.warn, limits.refuse) if limit is not None):
                    raise ValueError(f"{name}: a limit is a number, or null where there is none")
        except (ArgumentError, TypeError, ValueError) as error:
            names = ", ".join(cls.__dataclass_fields__)
            what = " ".join(str(error).split())
            raise ContractError(f"{path}: {what}; a rule is one of {names}, with `warn` and `refuse`") from None
        assert isinstance(read, cls)
        return read

    def text(self) -> str:
        """As YAML, a file to change."""
        return yaml.safe_dump(asdict(self), sort_keys=False)

    def check(self, new: Summary, previous: Summary | None = None) -> list[Finding]:
        """What the rules say of a job.

        A number that is not finite breaks every limit that its rule has.

        Args:
            new: to be published.
            previous: what is published; None: nothing is, and rules of change do not apply.
        """
        return [*self._of_files(new), *self._of_lists(new), *self._of_change(new, previous)]

    def _of_files(self, new: Summary) -> Iterator[Finding]:
        missing = abs(new.expected_rows - new.rows) + abs(new.expected_users - new.users)
        yield _most(
            "missing",
            self.missing,
            missing,
            f"{new.rows:,} rows of {new.users:,} users; the manifest says {new.expected_rows:,} of "
            f"{new.expected_users:,}",
        )
        empty = ", ".join(f"{n:,} in {column}" for column, n in new.nulls.items() if n) or "none"
        for name, value, sentence in (
            ("doubled_users", new.doubled_users, f"{new.doubled_users:,} users stand in two places"),
            (
                "mismatched_users",
                new.mismatched_users,
                f"{new.mismatched_users:,} users whose list is not as long as what stands beside them",
            ),
            ("nulls", sum(new.nulls.values()), f"empty values: {empty}"),
            ("not_finite", new.not_finite, f"{new.not_finite:,} scores are NaN or infinite"),
            ("duplicates", new.duplicates, f"{new.duplicates:,} rows give a user an item again"),
            ("broken_ranks", new.broken_ranks, f"{new.broken_ranks:,} users whose ranks are not 1, 2, ..."),
            ("unexplained", new.unexplained, f"{new.unexplained:,} users are short without a reason"),
        ):
            yield _most(name, getattr(self, name), value, sentence)

    def _of_lists(self, new: Summary) -> Iterator[Finding]:
        yield _least("users", self.users, new.users, f"{new.users:,} users")
        reasons = ", ".join(f"{name} {n:,}" for name, n in sorted(new.reasons.items()))
        yield _most(
            "short_users",
            self.short_users,
            new.short_users / new.users if new.users else math.nan,
            f"{new.short_users:,} of {new.users:,} users have fewer than {new.k} items"
            + (f" ({reasons})" if reasons else ""),
        )
        yield _least(
            "coverage",
            self.coverage,
            len(new.items) / new.catalogue if new.catalogue else math.nan,
            f"{len(new.items):,} of {new.catalogue:,} items are given to somebody",
        )

    def _of_change(self, new: Summary, previous: Summary | None) -> Iterator[Finding]:
        if previous is None or not previous.users or not len(previous.items):
            for name in ("users_change", "coverage_fall", "score_drift", "item_drift"):
                yield Finding(name, "ok", None, None, "nothing to compare with is published")
            return
        yield _most(
            "users_change",
            self.users_change,
            abs(new.users - previous.users) / previous.users,
            f"{new.users:,} users; {previous.users:,} in {previous.name}",
        )
        yield _most(
            "coverage_fall",
            self.coverage_fall,
            max(0.0, 1 - len(new.items) / len(previous.items)),
            f"{len(new.items):,} items are given to somebody; {len(previous.items):,} in {previous.name}",
        )
        yield self._of_scores(new, previous)
        yield _most(
            "item_drift",
            self.item_drift,
            jensen_shannon(previous.items, new.items) if len(new.items) else math.nan,
            f"which items are given how often, against {previous.name}",
        )

    def _of_scores(self, new: Summary, previous: Summary) -> Finding:
        common = sorted(new.scores.keys() & previous.scores.keys())
        if not common:
            return Finding("score_drift", "ok", None, None, f"no source in common with {previous.name}")
        drifts = {source: population_stability(previous.scores[source], new.scores[source]) for source in common}
        source = max(drifts, key=drifts.__getitem__)
        medians = f"{previous.quantile(source, 0.5):.4g} to {new.quantile(source, 0.5):.4g}"
        sentence = f"scores of {source} against {previous.name}; median from {medians}"
        limits = self.score_drift
        if new.model_versions != previous.model_versions:
            firsts = [limit for limit in (limits.warn, limits.refuse) if limit is not None]
            limits, sentence = Limits(warn=min(firsts, default=None)), f"{sentence}, by another model"
        return _most("score_drift", limits, drifts[source], sentence)


def level_of(findings: Iterable[Finding]) -> Level:
    """The gravest level of findings."""
    levels = {finding.level for finding in findings}
    return "refuse" if "refuse" in levels else "warn" if "warn" in levels else "ok"


def write_report(folder: Path, findings: Iterable[Finding], previous: str | None) -> None:
    """Writes findings beside the manifest, as evidence.

    Args:
        folder: of the job that was checked.
        findings: of it.
        previous: name of the job that it was compared with.
    """
    found = list(findings)
    content = {
        "level": level_of(found),
        "previous": previous,
        "findings": [
            finding._asdict() | {"value": finding.value if math.isfinite(finding.value or 0) else None}
            for finding in found
        ],
    }
    write_durable(folder / REPORT, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _most(name: str, limits: Limits, value: float, sentence: str) -> Finding:
    return _judged(name, limits, value, sentence, lambda limit: value > limit)


def _least(name: str, limits: Limits, value: float, sentence: str) -> Finding:
    return _judged(name, limits, value, sentence, lambda limit: value < limit)


def _judged(name: str, limits: Limits, value: float, sentence: str, breaks: Callable[[float], bool]) -> Finding:
    levels: tuple[tuple[Level, float | None], ...] = (("refuse", limits.refuse), ("warn", limits.warn))
    for level, limit in levels:
        if limit is not None and (not math.isfinite(value) or breaks(limit)):
            return Finding(name, level, float(value), limit, sentence)
    return Finding(name, "ok", float(value), limits.refuse if limits.warn is None else limits.warn, sentence)
