"""What gates have found, on a new card, or put into the Markdown of one that was written before they were asked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from recsys.documents.document import MOST_CHARACTERS, Section, Table, Words, clipped
from recsys.tracking.cards.limits import LIMITS, NOT_JUDGED, UNASKED, GateVerdict, of_gates
from recsys.tracking.cards.markdown import LIMIT, escaped, left_out_line, section_text

GATES = "Gates"
_LEFT_OUT = re.compile(rf"\n*{left_out_line('([^`]*)', '(.*)')}\n*\Z")
_OF_GATES = re.compile(rf"^- (?:{re.escape(NOT_JUDGED)}|{re.escape(UNASKED)}.*)\n", re.MULTILINE)
_FIRST_TO_GO = ("Training", "Calibration", "Coverage", "Slices", "Protocol", "Data", "Intended use", "Model")
_FINDING = 120


def gates_section(verdicts: Sequence[GateVerdict], most: int = MOST_CHARACTERS) -> Section:
    """The verdicts and what was demanded.

    Args:
        verdicts: of all gates.
        most: characters of a finding.
    """
    rows: list[tuple[Words, ...]] = [(v.name, v.outcome, clipped(v.sentence, most)) for v in verdicts]
    limits: list[tuple[Words, ...]] = [(v.name, clipped(v.limit)) for v in verdicts]
    found = Table("Verdicts", ("gate", "verdict", "finding"), tuple(rows), text=True)
    demanded = Table("What the gates demand", ("gate", "demand"), tuple(limits), text=True)
    return Section(GATES, (found,), (demanded,), rank=0)


def with_verdicts(card: str, verdicts: Sequence[GateVerdict], page: str, limit: int = LIMIT) -> str:
    r"""The Markdown of a card with verdicts in place of older ones; what else it says stays.

    Where that is too long, sections that the page has too are left out, and named.

    Args:
        card: Markdown of a card, or of anybody's; sections begin with `## `.
        verdicts: of all gates.
        page: file name of the page of the card.
        limit: characters.

    Example:
        >>> from recsys.tracking.gates.gate import Verdict
        >>> text = with_verdicts("# Shop\n\n## Model\n\n- class: ALS\n", [Verdict("size", True)], "card.html")
        >>> [line for line in text.splitlines() if line.startswith("#")]
        ['# Shop', '## Gates', '## Model']
    """
    left_out = _LEFT_OUT.search(card)
    gone = left_out[2].split(", ") if left_out else []
    head, *found = re.split(r"^(?=## )", _LEFT_OUT.sub("\n", card), flags=re.MULTILINE)
    sections = {text.partition("\n")[0].removeprefix("## "): text.strip() + "\n" for text in found}
    sections = {GATES: section_text(gates_section(verdicts, _FINDING), page) + "\n"} | {
        title: text for title, text in sections.items() if title != GATES
    }
    if LIMITS in sections:
        line = of_gates(verdicts)
        kept = _OF_GATES.sub("", sections[LIMITS])
        sections[LIMITS] = kept if line is None else f"{kept}- {escaped(line)}\n"
    for title in (*_FIRST_TO_GO, GATES):
        if len(_joined(head, sections.values(), gone, page)) > limit and title in sections:
            del sections[title]
            gone.append(title)
    return _joined(head, sections.values(), gone, page)


def _joined(head: str, sections: Iterable[str], gone: Sequence[str], page: str) -> str:
    parts = [head, *sections, left_out_line(page, ", ".join(gone)) if gone else ""]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"
