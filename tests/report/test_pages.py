"""Blocks as HTML and as Markdown; what a name may hold; numbers; wide tables."""

import base64
import re

import pytest
from pages import Page as Parsed

from tf_lottery.report.pages import (
    Caption,
    Cell,
    Code,
    Details,
    Figure,
    Findings,
    Head,
    Heading,
    Item,
    Page,
    Pairs,
    Paragraph,
    Row,
    Section,
    Table,
    Terms,
    command_line,
    escape_markdown,
    figures,
    norms,
    typeset,
    write_page,
)

EVIL = "<b>\"&|*x*_[y](z) `c` ${1}$ {{ 7*7 }} #'s</td>"


def written(folder, *blocks, title="Widths", meta=("2 models", "digits")):
    path = write_page(folder, Page(title, meta, list(blocks)))
    return path.read_text(), path.with_suffix(".md").read_text()


def cells(page):
    return [[" ".join(cell.split()) for cell in row] for row in page.rows]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "figures" / "curve.png"
    path.parent.mkdir()
    path.write_bytes(b"not really a PNG")
    return path


def test_a_table_is_the_same_in_both(tmp_path):
    table = Table(
        "Accuracy",
        "in percent.",
        "Model",
        [Head("", "Kept", "%"), Head("pgd20", "best"), Head("pgd20", "last"), Head("", "For")],
        [
            Row("narrow", ["20", Cell("61.2", "57.9–64.4"), Cell("60.1", "±0.3"), "a"], "LeNet"),
            Row("paper", ["", Cell("-1.0", "[-2.0, 0.1]"), Cell("5", own=True), ""], soft=True),
        ],
        foot=[Row("All", ["", "1", "2", "3"])],
    )
    html, markdown = written(tmp_path, Section("Results", [table]))
    assert cells(Parsed(html)) == [
        ["Model", "Kept %", "pgd20", "For"],
        ["best", "last"],
        ["narrow LeNet", "20", "61.2 57.9–64.4", "60.1 ±0.3", "a"],
        ["paper", "", "−1.0 [−2.0, 0.1]", "5", ""],
        ["All", "", "1", "2", "3"],
    ]
    body = markdown[markdown.index("| Model") :].splitlines()
    assert body[:5] == [
        "| Model | Kept (%) | pgd20: best | pgd20: last | For |",
        "| :-- | --: | --: | --: | --: |",
        "| narrow (LeNet) | 20 | 61.2 (57.9–64.4) | 60.1 ±0.3 | a |",
        r"| *paper* |  | -1.0 \[-2.0, 0.1\] | **5** |  |",
        "| **All** |  | 1 | 2 | 3 |",
    ]


def test_neighbours_of_one_name_share_it(tmp_path):
    rows = [Row("a", ["1"]), Row("a", ["2"]), Row("b", ["3"])]
    html, markdown = written(tmp_path, Table("Cost", "", "Model", [Head("", "s")], rows))
    assert cells(Parsed(html)) == [["Model", "s"], ["a", "1"], ["2"], ["b", "3"]]
    assert '<th class="words" scope="rowgroup" rowspan="2">a</th>' in html
    assert "| a | 1 |\n| a | 2 |\n| b | 3 |" in markdown


def test_titled_tables_and_figures_are_numbered(tmp_path, picture):
    def table(title):
        return Table(title, "", "Model", [Head("", "s")], [Row("a", ["1"])])

    figure = Figure(picture, Caption("Curve.", "Falls.", "A line that falls."))
    html, markdown = written(
        tmp_path,
        Section("One", [table("First."), Details("more", [table("")]), figure]),
        Section("Two", [None, table("Second."), figure]),
    )
    for text in (" ".join(Parsed(html).text), markdown):
        titles = re.findall(r"(?:Table|Figure) \d\. \w+", text)
        assert titles == [
            "Table 1. First", "Figure 1. Curve", "Table 2. Second", "Figure 2. Curve"
        ]  # fmt: skip


def test_figures_are_embedded_in_one_and_linked_from_the_other(tmp_path, picture):
    captions = {"curve": Caption("Curve.", "Falls.", "A line that falls."), "other": None}
    blocks = figures({"curve": picture}, captions)
    html, markdown = written(tmp_path, *blocks)
    (image,) = Parsed(html).find("img")
    assert base64.b64decode(image["src"].partition("base64,")[2]) == picture.read_bytes()
    assert image["alt"] == "A line that falls."
    assert "![A line that falls.](figures/curve.png)" in markdown
    assert "SVG" not in markdown
    picture.with_suffix(".svg").touch()
    assert "([SVG](figures/curve.svg))" in written(tmp_path, *blocks)[1]


def test_outcomes_have_a_mark_and_a_word(tmp_path):
    items = [
        Item("ahead", "it is."),
        Item("not decided", "+0.1", "Tickets learn faster:", "1 seed", label="open"),
    ]
    html, markdown = written(tmp_path, Findings(items))
    assert re.findall(r'<span class="label">(.+?)</span>', html) == ["▲ higher", "? open"]
    assert 'class="is-not-decided"' in html
    assert "- ▲ higher: it is.\n- ? open: **Tickets learn faster:** +0.1 1 seed\n" in markdown


def test_contents_lead_to_the_sections_that_are_there(tmp_path):
    html, markdown = written(
        tmp_path, Paragraph("x"), Section("How to go on", [Heading("y")]), Section("Empty", [None])
    )
    page = Parsed(html)
    assert [link["href"] for link in page.find("a")] == ["#how-to-go-on"]
    assert [section["id"] for section in page.find("section")] == ["how-to-go-on"]
    assert re.findall("^## .*", markdown, re.MULTILINE) == ["## How to go on"]


def test_hostile_words_are_words(tmp_path, picture):
    blocks = [
        Paragraph(EVIL, EVIL),
        Heading(EVIL),
        Terms([(EVIL, EVIL)]),
        Findings([Item("note", EVIL, EVIL, EVIL, EVIL)]),
        Table(EVIL, EVIL, EVIL, [Head(EVIL, EVIL, EVIL)], [Row(EVIL, [Cell(EVIL, EVIL)], EVIL)]),
        Figure(picture, Caption(EVIL, EVIL, EVIL)),
        Pairs(EVIL, [(EVIL, EVIL)]),
        Details(EVIL, [Code(EVIL)]),
    ]
    html, markdown = written(
        tmp_path, *blocks, Section(EVIL, blocks[:1]), title=EVIL, meta=[EVIL, EVIL]
    )
    page = Parsed(html)
    assert '<b>"' not in html
    assert "49" not in "".join(page.text)
    assert "".join(page.text).replace("’", "'").count("{{ 7*7 }} #'s</td>") > 20
    outside = [line for line in markdown.splitlines() if not line.startswith("    ")]
    known = re.compile(r"</?details>|</?summary>")
    assert not re.search(
        r"<|(?<!\\)[`$#]", known.sub("", "\n".join(outside)).replace("## ", "")[2:]
    )
    assert len({line.count("|") - line.count(r"\|") for line in outside if line[:1] == "|"}) == 1


def test_html_asks_nothing_of_the_network(tmp_path, picture):
    table = Table("T.", "", "M", [Head("g", "s")], [Row("a", ["1"])])
    figure = Figure(picture, Caption("Curve.", "Falls.", "A line."))
    html, _ = written(tmp_path, Section("Results", [table, figure, Pairs("All", [("a", 1)])]))
    page = Parsed(html)
    assert page.find("html") == [{"lang": "en"}]
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?:|url\(|@import", html)
    identifiers = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    for _, attrs in page.tags:
        assert attrs.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        for key in ("href", "aria-labelledby"):
            if key in attrs:
                assert attrs[key].removeprefix("#") in identifiers
    for region in (attrs for attrs in page.find("div") if "tabindex" in attrs):
        assert {"aria-label", "aria-labelledby"} & set(region)
    assert all("scope" in attrs for attrs in page.find("th"))


def test_typesetting():
    assert typeset("it's -5 %, [-1.0, 2.0], p < 0.001") == (
        "it’s −5\N{NO-BREAK SPACE}%, [−1.0,\N{NO-BREAK SPACE}2.0], "
        "p\N{NO-BREAK SPACE}<\N{NO-BREAK SPACE}0.001"
    )
    assert typeset("2026-01-02, pgd-20") == "2026-01-02, pgd-20"
    assert norms("<l_2>, l_inf radius 8/255") == "&lt;l_2&gt;, l<sub>∞</sub> radius 8/255"
    assert escape_markdown("a_b\n| <c>") == r"a\_b \| &lt;c&gt;"


def test_commands_can_be_pasted():
    assert command_line(["prog", "--a=x y"]) == "prog '--a=x y'"
    assert command_line(["--a=1"]) == "python -m tf_lottery.main --a=1"
    long = command_line(["--a=" + "x" * 50, "--b=" + "y" * 50, "value"])
    assert long.splitlines() == [
        "python -m tf_lottery.main \\",
        f"  --a={'x' * 50} \\",
        f"  --b={'y' * 50} value",
    ]
