"""Tables and plots as Markdown, as HTML and for a terminal."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avhubert_ext.data.files import whole_file
from avhubert_ext.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Word error rates"
STYLE = """body { font: 16px/1.5 sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; } th, td { padding: .3em .7em; text-align: right; }
th:first-child, td:first-child { text-align: left; } th { border-bottom: 2px solid #444; }
td { border-bottom: 1px solid #ddd; } img { max-width: 100%; }"""


@dataclass(frozen=True)
class Section:
    """A table with its plots.

    Attributes:
        title: the heading.
        header: names of the columns; the first column is aligned to the left.
        rows: the cells.
        pictures: file names of the plots, relative to the page.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    pictures: list[str]


def markdown(sections: list[Section], notes: list[str]) -> str:
    """Sections and notes as a page in Markdown."""
    lines = [f"# {TITLE}", ""]
    for section in sections:
        lines += [f"## {section.title}", "", f"| {' | '.join(section.header)} |"]
        lines.append("|---" * len(section.header) + "|")
        lines += [f"| {' | '.join(row)} |" for row in section.rows]
        lines += ["", *(f"![{name}]({name})" for name in section.pictures), ""]
    return "\n".join([*lines, *(f"- {note}" for note in notes)]) + "\n"


def as_html(sections: list[Section], notes: list[str]) -> str:
    """Sections and notes as a page in HTML."""
    body = [f"<h1>{TITLE}</h1>"]
    for section in sections:
        body += [
            f"<h2>{html.escape(section.title)}</h2>",
            "<table>",
            _html_row("th", section.header),
            *(_html_row("td", row) for row in section.rows),
            "</table>",
        ]
        pictures = [html.escape(name) for name in section.pictures]
        body += [f'<p><img src="{name}" alt="{name}"></p>' for name in pictures]
    body += ["<ul>", *(f"<li>{html.escape(note)}</li>" for note in notes), "</ul>"]
    head = f'<meta charset="utf-8"><title>{TITLE}</title><style>{STYLE}</style>'
    return "\n".join([f"<!doctype html><html><head>{head}</head><body>", *body, "</body></html>\n"])


def _html_row(tag: str, cells: list[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"


def as_text(sections: list[Section], notes: list[str]) -> str:
    """Sections and notes for a terminal."""
    lines = []
    for section in sections:
        lines += [section.title, *_text_table(section), ""]
    return "\n".join([*lines, *notes])


def _text_table(section: Section) -> list[str]:
    columns = zip(section.header, *section.rows, strict=True)
    widths = [max(map(len, column)) for column in columns]

    def line(cells: list[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(c.rjust(w) for c, w in others)])

    return [line(section.header), "-" * len(line(section.header)), *map(line, section.rows)]


def pyplot() -> Any:
    """Import matplotlib's pyplot for writing files.

    Raises:
        InputError: if matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError:
        raise InputError("matplotlib is missing: pip install 'avhubert-ext[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def style_rates(axes: Axes, title: str) -> None:
    """Finish a plot of word error rates, with an axis that begins at zero."""
    axes.set_ylim(bottom=0)
    axes.set_ylabel("WER (%)")
    style(axes, title)


def style(axes: Axes, title: str) -> None:
    """Give a plot its title and the common look."""
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure to a PNG file and close it. The file appears complete or not at all."""
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    pyplot().close(figure)
