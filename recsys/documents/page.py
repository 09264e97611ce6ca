"""A document as one page of HTML that needs nothing else: no script, no link, pictures inside, light and dark."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path

from recsys.documents.document import (
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

_AROUND = 100
"""Bytes at most that showing a picture takes beside its content and its title."""
_STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1f2933; --soft: #52606d; --line: #d9dee4;
  --raised: #f4f6f8; --mark: #0072b2; --other: #b35400; --good: #00734f; --bad: #b3261e; --open: #7a5c00; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #12181f; --ink: #e4e7eb; --soft: #9fb0c0; --line: #323f4b; --raised: #1c242d; --mark: #56b4e9;
    --other: #f0a04b; --good: #4cc38a; --bad: #ff8a80; --open: #e5c07b; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
p, ul, dl, figure, pre, .wide { margin: 0 0 1rem; }
ul { padding-left: 1.25rem; }
li, dd, p { overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .3rem 1.25rem; }
dt { color: var(--soft); }
dd { margin: 0; }
code, pre { font: .875em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--raised);
  border-radius: 4px; }
code { padding: .1em .3em; overflow-wrap: anywhere; }
pre { padding: .8rem 1rem; overflow-x: auto; }
pre code { padding: 0; background: none; overflow-wrap: normal; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { padding: .35rem .8rem .35rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 400; }
.numbers th + th, .numbers td { text-align: right; white-space: nowrap; padding: .35rem 0 .35rem 1.4rem; }
td strong, th strong { color: var(--mark); }
summary { cursor: pointer; color: var(--mark); margin-bottom: 1rem; }
figcaption { color: var(--soft); font-size: .92rem; padding-bottom: .4rem; }
.answer { border-left: 6px solid var(--tone); background: var(--raised); border-radius: 0 6px 6px 0;
  padding: 1rem 1.25rem .25rem; margin: 0 0 1.5rem; }
.answer strong { font-size: 1.35rem; line-height: 1.3; }
.good { --tone: var(--good); } .bad { --tone: var(--bad); } .open { --tone: var(--open); }
.figures { grid-template-columns: repeat(auto-fit, minmax(12.5rem, 1fr)); gap: .75rem; }
.figures div { background: var(--raised); border-radius: 6px; padding: .75rem 1rem; }
.figures dd { font-size: .92rem; }
.figures .number { font-size: 1.6rem; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; height: auto; font: 13px system-ui, sans-serif; fill: var(--ink); }
svg .axis { fill: var(--soft); } svg .grid { stroke: var(--line); } svg .zero { stroke: var(--ink); }
svg .mark { fill: var(--mark); stroke: var(--mark); } svg .other { fill: var(--other); stroke: var(--other); }
svg .band { fill-opacity: .22; stroke: none; } svg .line { fill: none; stroke-width: 2.25; }
svg .dashed { stroke-dasharray: 6 4; } svg .quiet { fill: var(--soft); stroke: var(--soft); }
img { max-width: 100%; max-height: 32rem; background: #ffffff; border: 1px solid var(--line); border-radius: 6px; }
"""
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
"""
_FOOT = """</main>
</body>
</html>
"""


def to_page(document: Document, limit: int) -> str:
    """The page of a document.

    Pictures are shown in the order of the document as long as the page stays within `limit`; of one that does not fit
    the page says where it is.

    Args:
        document: to write.
        limit: bytes of the page.
    """
    room = limit - len(_page(document, {}).encode())
    shown: dict[Path, str] = {}
    for picture in (block for section in document.sections for block in section.details if isinstance(block, Picture)):
        content = base64.b64encode(picture.path.read_bytes()).decode()
        if len(content) + _AROUND <= room:
            shown[picture.path] = content
            room -= len(content) + _AROUND
    return _page(document, shown)


def _page(document: Document, shown: Mapping[Path, str]) -> str:
    lead = "".join(_block(block, shown) for block in document.lead)
    sections = "".join(_section(section, shown) for section in document.sections)
    return _HEAD.format(title=escape(document.title), style=_STYLE) + lead + sections + _FOOT


def _section(section: Section, shown: Mapping[Path, str]) -> str:
    # Pictures stand open; tables of details are looked up.
    pictures = [block for block in section.details if isinstance(block, Picture)]
    folded = [block for block in section.details if not isinstance(block, Picture)]
    parts = [f"<section>\n<h2>{escape(section.title)}</h2>\n"]
    parts += [_block(block, shown) for block in (*section.blocks, *pictures)]
    if folded:
        parts += [
            "<details>\n<summary>Details</summary>\n",
            *(_block(block, shown) for block in folded),
            "</details>\n",
        ]
    return "".join([*parts, "</section>\n"])


def _block(block: Block, shown: Mapping[Path, str]) -> str:
    match block:
        case Paragraph(line):
            return f"<p>{_line(line)}</p>\n"
        case Points(lines):
            return "<ul>\n" + "".join(f"<li>{_line(line)}</li>\n" for line in lines) + "</ul>\n"
        case Facts(rows):
            entries = (f"<dt>{escape(name)}</dt><dd>{_line(line)}</dd>\n" for name, line in rows)
            return "<dl>\n" + "".join(entries) + "</dl>\n"
        case Listing(text):
            return f"<pre><code>{escape(text)}</code></pre>\n"
        case Picture(title, path):
            return _picture(title, path, shown)
        case Drawing(title, svg):
            return f"<figure>\n<figcaption>{escape(title)}</figcaption>\n{svg}</figure>\n"
        case Figures(entries):
            return f'<dl class="figures">\n{"".join(_figure(*entry) for entry in entries)}</dl>\n'
        case Answer(tone, text, more):
            said = f"<p>{escape(more)}</p>\n" if more else ""
            return f'<div class="answer {tone}">\n<p><strong>{escape(text)}</strong></p>\n{said}</div>\n'
        case Table():
            return _table(block)


def _figure(name: str, number: str, meaning: str) -> str:
    return f'<div><dt>{escape(name)}</dt><dd class="number">{escape(number)}</dd><dd>{escape(meaning)}</dd></div>\n'


def _picture(title: str, path: Path, shown: Mapping[Path, str]) -> str:
    if path not in shown:
        return (
            f"<p>{escape(title)}: left out for size, see <code>{escape(f'{path.parent.name}/{path.name}')}</code></p>\n"
        )
    return f'<figure><img alt="{escape(title)}" src="data:image/png;base64,{shown[path]}"></figure>\n'


def _table(table: Table) -> str:
    heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{_words(first)}</th>{"".join(f"<td>{_words(cell)}</td>" for cell in cells)}</tr>\n'
        for first, *cells in table.rows
    )
    kind = "" if table.text else ' class="numbers"'
    # A table may be wider than a telephone; it can then be moved with the keyboard too.
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(table.caption)}">\n<table{kind}>\n'
        f"<caption>{escape(table.caption)}</caption>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n"
        "</table>\n</div>\n"
    )


def _line(line: Line) -> str:
    return "".join(_words(words) for words in line)


def _words(words: Words) -> str:
    match words:
        case Code(text):
            return f"<code>{escape(text)}</code>"
        case Strong(text):
            return f"<strong>{escape(text)}</strong>"
        case _:
            return escape(words)
