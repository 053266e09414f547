"""Pages: a report is declared once, as a list of blocks, and written as HTML and Markdown.

All text is plain: what is markup in HTML or Markdown is escaped here. Tables that have a title
and figures are numbered in the order of the page.

Example:
  >>> page = Page("Widths", ("2 models", "digits"), [
  ...     Section("Results", [
  ...         Table("Accuracy", "in percent.", "Model", [Head("pgd20", "best")], [
  ...             Row("narrow", [Cell("61.2", "57.9–64.4")]), Row("wide", ["70.3"])]),
  ...         Findings([Item("ahead", "wide is 9.1 points higher.")])])])
  >>> write_page("/tmp/widths", page).name
  'report.html'
"""

from __future__ import annotations

import base64
import functools
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, TypeAlias

import jinja2
from markupsafe import Markup, escape

from tf_lottery.files import write_atomically

FIGURES = "figures"  # folder of a report's figures, beside it
_PROGRAM = ("python", "-m", "tf_lottery.main")
_LINE = 88  # characters of a command; a longer one gets a line a flag
# Outcome -> mark and word: the colour of a finding is never its only sign.
OUTCOMES = {
    "ahead": ("▲", "higher"),
    "behind": ("▼", "lower"),
    "even": ("=", "no difference"),
    "note": ("·", "note"),
    "pass": ("✓", "passed"),
    "warn": ("!", "warning"),
    "skipped": ("–", "skipped"),
    "yes": ("✓", "yes"),
    "no": ("✗", "no"),
    "not decided": ("?", "not decided"),
    "not measured": ("–", "not measured"),
}


@dataclass(frozen=True)
class Paragraph:
    """``lead`` stands before the text in bold; a ``note`` is smaller."""

    text: str
    lead: str = ""
    note: bool = False


@dataclass(frozen=True)
class Heading:
    """Of blocks within a section."""

    text: str


@dataclass(frozen=True)
class Terms:
    """What words of the table above mean: (word, meaning) pairs."""

    items: Sequence[tuple[str, str]]


class Item(NamedTuple):
    """One finding.

    Attributes:
      outcome: of ``OUTCOMES``, whose mark and colour it gets.
      text: the finding.
      lead: stands before the text in bold, with its own punctuation.
      note: stands below, smaller.
      label: in place of the outcome's word.
    """

    outcome: str
    text: str
    lead: str = ""
    note: str = ""
    label: str = ""

    @property
    def mark(self) -> str:
        return OUTCOMES[self.outcome][0]

    @property
    def word(self) -> str:
        return self.label or OUTCOMES[self.outcome][1]


@dataclass(frozen=True)
class Findings:
    items: Sequence[Item]


class Head(NamedTuple):
    """Head of a column; neighbours of one ``group`` stand below it. A column of ``words`` is
    set to the left, and wraps."""

    group: str
    name: str
    small: str = ""
    words: bool = False


class Cell(NamedTuple):
    """``small`` (a line or several) stands below in HTML, behind in Markdown; ``own`` cells are
    set off."""

    text: str
    small: str = ""
    own: bool = False


class Row(NamedTuple):
    """As many cells as the table has heads; a string is a cell. ``soft`` rows are grey.
    Neighbours of one name share it."""

    name: str
    cells: Sequence[Cell | str]
    small: str = ""
    soft: bool = False

    @property
    def full(self) -> list[Cell]:
        return [Cell(cell) if isinstance(cell, str) else cell for cell in self.cells]


@dataclass(frozen=True)
class Table:
    """Attributes:
    title: in bold, after the number; a table without one has no number and no caption.
    text: the rest of the caption.
    first: head of the column of names.
    heads: of the other columns.
    rows: of the body.
    foot: rows of sums.
    """

    title: str
    text: str
    first: str
    heads: Sequence[Head]
    rows: Sequence[Row]
    foot: Sequence[Row] = ()

    @property
    def spans(self) -> list[tuple[str, list[Head]]]:
        """(group, its heads), for the upper of two rows of heads."""
        return [(group, list(heads)) for group, heads in groupby(self.heads, lambda h: h.group)]

    @property
    def blocks(self) -> list[list[Row]]:
        """The rows, those that share a name together."""
        return [list(rows) for _, rows in groupby(self.rows, lambda row: (row.name, row.small))]


class Caption(NamedTuple):
    """Plain text; ``alt`` says in words what the picture shows."""

    title: str
    text: str
    alt: str


@dataclass(frozen=True)
class Figure:
    """A PNG in the folder ``figures`` beside the page, embedded in HTML. Where an SVG of its name
    lies beside it, the Markdown page links to that too."""

    path: Path
    caption: Caption

    @property
    def data(self) -> str:
        return base64.b64encode(self.path.read_bytes()).decode()


@dataclass(frozen=True)
class Pairs:
    """Keys and values, shown as they are, such as settings; folded away in HTML."""

    title: str
    items: Sequence[tuple[str, object]]


@dataclass(frozen=True)
class Code:
    """A command to paste, as it is."""

    text: str


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away."""

    summary: str
    blocks: Blocks
    open: bool = False


@dataclass(frozen=True)
class Section:
    """A part that the contents of the page name; left out where it has no blocks."""

    title: str
    blocks: Blocks

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower())


Block: TypeAlias = (
    Paragraph | Heading | Terms | Findings | Table | Figure | Pairs | Code | Details | Section
)
Blocks: TypeAlias = Sequence[Block | None]  # None: nothing, where something is optional


@dataclass(frozen=True)
class Page:
    """``meta``: short facts for the line below the title."""

    title: str
    meta: Sequence[str]
    blocks: Blocks

    @property
    def sections(self) -> list[Section]:
        return [block for block in self.blocks if isinstance(block, Section) and any(block.blocks)]


def write_page(folder: str | os.PathLike, page: Page) -> Path:
    """Writes ``report.html`` and ``report.md`` into ``folder``, each replaced as a whole.

    ``report.html`` holds its figures and asks nothing of the network, so that the one file can
    be mailed; ``report.md`` links to them.

    Returns:
      The path of ``report.html``.
    """
    folder = Path(folder)
    for kind in ("md", "html"):
        write_atomically(folder / f"report.{kind}", render(page, kind))
    return folder / "report.html"


def render(page: Page, kind: str) -> str:
    """The page as ``html`` or ``md``."""
    text = _environment().get_template(f"page.{kind}.j2").render(page=page)
    if kind == "md":
        text = re.sub(r"\n{3,}", "\n\n", text.lstrip())
    return text.rstrip() + "\n"


def figures(saved: Mapping[str, Path], captions: Mapping[str, Caption]) -> list[Figure]:
    """A block for each figure that was saved, in their order.

    Args:
      saved: figure name -> path.
      captions: figure name -> caption; may hold more than was saved.
    """
    return [Figure(path, captions[name]) for name, path in saved.items()]


def escape_markdown(value: object) -> str:
    """One line of text in which no character is markup, neither Markdown nor HTML."""
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~$!])", r"\\\1", text)


def typeset(text: str) -> str:
    """Plain text with curly apostrophes and minus signs, with spaces that do not break
    before %, in bounds and in p-values."""
    text = text.replace("'", "’").replace(" %", "\N{NO-BREAK SPACE}%")
    text = re.sub(r"(?<![\w.\-])-(?=\d)", "\N{MINUS SIGN}", text)
    text = re.sub(r"\bp ([<=]) (?=\d)", "p\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", text)
    return re.sub(r"(?<=\d), (?=[\d\N{MINUS SIGN}.]+\])", ",\N{NO-BREAK SPACE}", text)


def norms(text: str) -> Markup:
    """HTML of plain text, typeset, with ``l_inf radius`` and ``l_2 radius`` as symbols."""
    signs = {"inf": "∞", "2": "2"}
    html = str(escape(typeset(text)))
    # A model may be called l_2 as well.
    found = re.sub(r"\bl_(inf|2)(?= radius)", lambda m: f"l<sub>{signs[m[1]]}</sub>", html)
    return Markup(found)


def command_line(argv: Sequence[str]) -> str:
    """A command to paste, quoted, one flag a line when it is long; a bare argument list gets
    its program."""
    argv = [*(_PROGRAM if not argv or argv[0].startswith("-") else ()), *argv]
    line = shlex.join(argv)
    if len(line) <= _LINE:
        return line
    parts: list[str] = []
    for word in argv:
        if word.startswith("-") or not parts:
            parts.append(shlex.quote(word))
        else:
            parts[-1] += f" {shlex.quote(word)}"
    # "python -m module" stays together.
    if len(parts) > 1 and parts[1].startswith("-m "):
        parts[:2] = [" ".join(parts[:2])]
    return " \\\n  ".join(parts)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tf_lottery.report", "templates"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "kind": lambda block: type(block).__name__,
        "prose": norms,
        "md": escape_markdown,
        "behind": _behind,
        # An indented code block, which no content can end early, unlike a fence.
        "indented": lambda text: "\n".join(f"    {line}" for line in text.splitlines()),
    }
    environment.globals |= {"zip": zip, "link": _link}
    return environment


def _behind(small: str) -> str:
    """Markdown of what stands behind a number: in brackets unless it shows itself."""
    text = ", ".join(small.splitlines())
    return f" {escape_markdown(text if text[0] in '±[+' else f'({text})')}" if text else ""


def _link(path: Path, suffix: str = "") -> str:
    """From the page to a figure (of another ending); empty where there is none."""
    path = path.with_suffix(suffix or path.suffix)
    return f"{FIGURES}/{path.name}" if path.exists() else ""
