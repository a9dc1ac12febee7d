"""Tables as text, Markdown and HTML, and a page that needs nothing else."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Table(NamedTuple):
    """A table with words around it.

    Attributes:
      title: above it.
      note: below it, or empty.
      rows: of cells, the heads first.
    """

    title: str
    note: str
    rows: list[list[str]]


def table_text(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]


def table_markdown(table: Table) -> list[str]:
    """The lines of a table with its title and note."""
    head, *body = ([_markdown_cell(cell) for cell in row] for row in table.rows)
    lines = [f"## {table.title}", ""]
    lines += ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in body]
    return [*lines, "", *([table.note, ""] if table.note else [])]


def table_html(table: Table) -> list[str]:
    """The same in HTML."""
    head, *body = ([html.escape(cell) for cell in row] for row in table.rows)
    lines = [f"<h2>{html.escape(table.title)}</h2><div><table><tr>"]
    lines += [f"<th>{cell}</th>" for cell in head]
    lines.append("</tr>")
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body]
    return [*lines, f"</table></div><p>{html.escape(table.note)}</p>"]


def list_html(sentences: Sequence[str]) -> list[str]:
    """Sentences as a list."""
    return ["<ul>", *(f"<li>{html.escape(sentence)}</li>" for sentence in sentences), "</ul>"]


def image_html(image: Path) -> str:
    """A PNG as part of the page."""
    data = base64.b64encode(image.read_bytes()).decode()
    return f'<img alt="{html.escape(image.stem)}" src="data:image/png;base64,{data}">'


def page(title: str, body: Sequence[str]) -> str:
    """A page that names no other resource.

    Args:
      title: plain text.
      body: lines of HTML.
    """
    name = html.escape(title)
    return _PAGE.format(title=name, body="\n".join([f"<h1>{name}</h1>", *body]))


def _markdown_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem; color: #222; background: #fff; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .75rem; border-bottom: 1px solid #ddd; text-align: right;
  white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
img {{ max-width: 100%; }}
.missing {{ background: #fff3cd; padding: .5rem .75rem; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
