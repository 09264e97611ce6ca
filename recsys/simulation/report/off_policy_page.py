"""The page of off-policy estimates: what each policy would have earned, and whether the log can say so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from recsys.documents.charts import Interval, interval_chart
from recsys.documents.document import Answer, Block, Document, Drawing, Facts, Figures, Line, Points, Section, Table
from recsys.simulation.off_policy.evaluate import Estimate, OffPolicyReport, PolicyReport
from recsys.simulation.report.words import number, percent

HEADLINE = "DR"
"""The estimator that is read first: right where either the propensities or the rewards that are learned are."""
_NAMES = {
    "DM": "learned rewards alone (DM)",
    "IPW": "weighted rewards (IPW)",
    "clipped IPW": "with weights cut off (clipped IPW)",
    "SNIPW": "weights scaled to one (SNIPW)",
    "DR": "weights and learned rewards (DR)",
    "SNDR": "DR with weights scaled to one (SNDR)",
    "switch-DR": "DR without heavy weights (switch-DR)",
    "DRos": "DR with shrunk weights (DRos)",
}
ASSUMPTIONS = (
    "The propensities are the chances that the logging policy really had. Where they are guessed, so is all of this.",
    "What was earned depends on the recommendation and on what was known then, and not on other recommendations.",
    "Whoever is asked, and how often, stays the same under another policy.",
    "Intervals hold for users like those of the log. The future may have others.",
)


def headline(policy: PolicyReport) -> Estimate:
    """The estimate that is read first."""
    return policy.estimates.get(HEADLINE) or next(iter(policy.estimates.values()))


def off_policy_answer(report: OffPolicyReport, name: str) -> Answer:
    """What the log says of a policy in a sentence."""
    policy = report.policies[name]
    if policy.refusals:
        return Answer("open", f"The log cannot judge {name}.", " ".join(_sentence(why) for why in policy.refusals))
    found = headline(policy)
    value = f"{number(found.value)} a recommendation, where {number(report.logged)} was earned"
    sure = (
        f"The gain lies between {signed(found.gain_low)} and {signed(found.gain_high)}, a range that is right "
        f"{percent(1 - report.level)} of the time if the assumptions below hold."
    )
    if found.gain_low > 0:
        return Answer("good", f"{name} would have earned more: {value}.", sure)
    if found.gain_high < 0:
        return Answer("bad", f"{name} would have earned less: {value}.", sure)
    return Answer("open", f"{name} is not shown to earn more or less: {value}.", sure)


def off_policy_document(report: OffPolicyReport, origin: str, facts: Mapping[str, Line]) -> Document:
    """The document of off-policy estimates.

    Args:
        report: what was found.
        origin: name of the log.
        facts: how it was made.
    """
    lead: list[Block] = []
    for name in report.policies:
        lead += [off_policy_answer(report, name), _figures(report, name)]
    sections = [_trust(report), *(_estimates(report, name) for name in report.policies if _judged(report, name))]
    sections += [
        Section("What to do next", (Points(tuple((step,) for step in _next(report))),)),
        Section("What could be wrong", (Points(tuple((said,) for said in ASSUMPTIONS)),)),
        Section("How this was made", (Facts(tuple(facts.items())),)),
    ]
    return Document(f"What {origin} says of {', '.join(report.policies)}", tuple(sections), tuple(lead))


def signed(value: float) -> str:
    """A number with its sign.

    Example:
        >>> signed(0.0125)
        '+0.0125'
    """
    return f"+{number(value)}" if value > 0 else number(value)


def _judged(report: OffPolicyReport, name: str) -> bool:
    return not report.policies[name].refusals


def _figures(report: OffPolicyReport, name: str) -> Figures:
    policy = report.policies[name]
    found = policy.diagnostics
    entries = [
        (
            "The log tells as much as",
            number(found.effective_rounds),
            f"recommendations of {name}, of {found.rounds:,} that were logged",
        ),
        (
            "Never tried",
            percent(found.unsupported),
            f"of what {name} recommends is not in the log at all",
        ),
    ]
    if not policy.refusals:
        best = headline(policy)
        entries = [
            ("Earned a recommendation", number(best.value), f"logged: {number(report.logged)}"),
            ("Gain", signed(best.gain), f"between {signed(best.gain_low)} and {signed(best.gain_high)}"),
            *entries,
        ]
    return Figures(tuple(entries))


def _trust(report: OffPolicyReport) -> Section:
    columns = ("policy", "counts as", "of rounds", "in common", "heaviest", "mean weight", "never tried", "verdict")
    rows = []
    for name, policy in report.policies.items():
        found = policy.diagnostics
        rows.append(
            (
                name,
                number(found.effective_rounds),
                f"{found.rounds:,}",
                percent(found.overlap),
                number(found.max_weight),
                f"{number(found.mean_weight)} ({number(found.mean_weight_low)} to {number(found.mean_weight_high)})",
                percent(found.unsupported),
                "refused" if policy.refusals else "can be judged",
            )
        )
    said = [f"{name}: {_sentence(why)}" for name, policy in report.policies.items() for why in policy.refusals]
    said.append(
        "The mean weight is 1 where the propensities are right and everything was tried; the heaviest weight says how "
        "much a single recommendation counts."
    )
    table = Table("Whether the log can say anything", columns, tuple(rows))
    return Section("Can the numbers be trusted", (table, Points(tuple((each,) for each in said))))


def _estimates(report: OffPolicyReport, name: str) -> Section:
    policy = report.policies[name]
    title = f"Gain of {name} over what was logged"
    rows = [
        Interval(
            key,
            found.gain,
            found.gain_low,
            found.gain_high,
            f"{signed(found.gain)} ({signed(found.gain_low)} to {signed(found.gain_high)})",
            "mark" if found.gain_low > 0 else "other" if found.gain_high < 0 else "quiet",
        )
        for key, found in policy.estimates.items()
    ]
    said = "; ".join(f"{row.name}: {row.said}" for row in rows)
    drawing = Drawing(title, interval_chart(title, said, rows, x_name="gain a recommendation", number="{:+.3g}".format))
    table = Table(
        "Mean reward by every estimator",
        ("estimator", "estimate", "range", "gain", "range of the gain", "chosen"),
        tuple(
            (
                _NAMES.get(key, key),
                number(found.value),
                f"{number(found.low)} to {number(found.high)}",
                signed(found.gain),
                f"{signed(found.gain_low)} to {signed(found.gain_high)}",
                "" if found.parameter is None else _parameter(found.parameter),
            )
            for key, found in policy.estimates.items()
        ),
    )
    return Section(f"Estimates: {name}", (drawing,), (table,))


def _next(report: OffPolicyReport) -> Sequence[str]:
    steps = []
    for name, policy in report.policies.items():
        tone = off_policy_answer(report, name).tone
        if policy.refusals:
            steps.append(f"{name}: let some of the live traffic explore, log the chances, and ask again.")
        elif tone == "good":
            steps.append(f"{name}: test it live; the log is a good reason, and no proof.")
        elif tone == "bad":
            steps.append(f"{name}: spend no traffic on it.")
        else:
            steps.append(f"{name}: log more, or test it live.")
        if not policy.refusals and _torn(policy):
            steps.append(f"{name}: the estimators disagree on its sign; trust none of them before you know why.")
    return steps


def _torn(policy: PolicyReport) -> bool:
    """Whether some estimators show a gain and others a loss."""
    found = policy.estimates.values()
    return any(each.gain_low > 0 for each in found) and any(each.gain_high < 0 for each in found)


def _parameter(value: float) -> str:
    return number(value) if math.isfinite(value) else "no limit"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
