"""A document as GitHub Markdown of limited length, as MLflow shows it in the description of a model version."""

from __future__ import annotations

import re
from collections.abc import Sequence

from recsys.documents.document import (
    LEAST,
    Answer,
    Block,
    Code,
    Document,
    Drawing,
    Facts,
    Figures,
    Line,
    Listing,
    Paragraph,
    Picture,
    Points,
    Section,
    Strong,
    Table,
    Words,
)

LIMIT = 5000
"""Characters that MLflow keeps of a description."""
ROWS = (12, 6, 3)
"""Rows that a table of numbers has at most, the first of these with which the document is short enough."""
GAP = "\u2003\u200b"
"""Stands after cells: MLflow sets columns without a gap between them, and cuts blanks, but not before such a mark."""
_ENTITIES = str.maketrans({mark: f"&#{ord(mark)};" for mark in "&<>|*`[]\\~"})
# What only means something at some places: underscores around words, marks of links, and of headings.
_MARKS = re.compile(r"(?<!\w)_|_(?!\w)|:(?=//)|(?<=\bwww)\.|^#", re.IGNORECASE)
_PLAIN = re.compile(r"[\w./:@%+=,()'{}^$#!? -]+")


def to_markdown(document: Document, page: str, limit: int = LIMIT) -> str:
    """The Markdown of a document, at most `limit` characters long.

    Tables of numbers are shortened until all sections but the least important ones have room. Sections then stand by
    their importance as long as there is room, and a last line names the others.

    Args:
        document: to write; its details and pictures are the page's alone.
        page: file name of the page that has everything.
        limit: characters.
    """
    needed = [section for section in document.sections if section.rank < LEAST]
    rows = next((rows for rows in ROWS if len(_text(document, needed, page, rows)) <= limit), ROWS[-1])
    kept: list[Section] = []
    for section in sorted(document.sections, key=lambda section: section.rank):
        more = [one for one in document.sections if one in kept or one is section]
        if len(_text(document, more, page, rows)) <= limit:
            kept = more
    return _text(document, kept, page, rows)


def escaped(text: str) -> str:
    """Text that Markdown reads as nothing but text, within a line, a table or a heading.

    Example:
        >>> escaped("<b>a|b</b>")
        '&#60;b&#62;a&#124;b&#60;/b&#62;'
    """
    text = " ".join(text.split()).translate(_ENTITIES)
    return _MARKS.sub(lambda found: f"&#{ord(found[0])};", text)


def section_text(section: Section, page: str, rows: int = ROWS[0]) -> str:
    """The Markdown of a section.

    Args:
        section: to write.
        page: file name of the page that has everything.
        rows: that a table of numbers has at most.
    """
    parts = [f"## {escaped(section.title)}", *(_block(block, page, rows) for block in section.blocks)]
    return "\n\n".join(part for part in parts if part)


def left_out_line(page: str, titles: str) -> str:
    """Names the sections that only the page has."""
    return f"Left out for length, and found in `{page}`: {titles}."


def _text(document: Document, kept: Sequence[Section], page: str, rows: int) -> str:
    parts = [f"# {escaped(document.title)}", *(_block(block, page, rows) for block in document.lead)]
    for section in kept:
        parts.append(section_text(section, page, rows))
    left_out = ", ".join(section.title for section in document.sections if section not in kept)
    if left_out:
        parts.append(left_out_line(page, escaped(left_out)))
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block, page: str, rows: int) -> str:
    match block:
        case Paragraph(line):
            return _line(line)
        case Points(lines):
            return "\n".join(f"- {_line(line)}" for line in lines)
        case Facts(facts):
            return "\n".join(f"- {escaped(name)}: {_line(line)}" for name, line in facts)
        case Listing(text, language):
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
            return f"{fence}{language}\n{text}\n{fence}"
        case Table():
            return _table(block, page, len(block.rows) if block.text else rows)
        case Figures(entries):
            return "\n".join(f"- {escaped(name)}: {escaped(number)}, {escaped(more)}" for name, number, more in entries)
        case Answer(_, said, more):
            return f"**{escaped(said)}** {escaped(more)}".strip()
        case Picture() | Drawing():
            return ""


def _table(table: Table, page: str, most: int) -> str:
    rule = ["---"] + ["---" if table.text else "--:"] * (len(table.columns) - 1)
    rows = [_spaced([escaped(column) for column in table.columns]), rule]
    rows += [_spaced([_words(cell) for cell in row]) for row in table.rows[:most]]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    more = len(table.rows) - most
    note = f"\n\n{more} more in `{page}`." if more > 0 else ""
    return f"{escaped(table.caption)}:\n\n{text}{note}"


def _spaced(cells: list[str]) -> list[str]:
    return [cell + GAP for cell in cells[:-1]] + cells[-1:]


def _line(line: Line) -> str:
    return "".join(_words(words) for words in line)


def _words(words: Words) -> str:
    match words:
        case Code(text):  # entities would be read literally in code: what needs any is plain text
            one_line = " ".join(text.split())
            return f"`{one_line}`" if _PLAIN.fullmatch(one_line) else escaped(one_line)
        case Strong(text):
            return f"**{escaped(text)}**"
        case _:
            # Blanks at the ends separate words of a line.
            return f"{' ' * words[:1].isspace()}{escaped(words)}{' ' * (len(words) > 1 and words[-1:].isspace())}"
