import base64
import html
import json
import os
import re
import subprocess
import sys

import pytest
from pages import Page
from tf_lottery.report.report import escape_markdown, norms, typeset

from tf_lottery.errors import StoreError
from tf_lottery.report.formats import interval, percent, point_interval, points
from tf_lottery.report.robustness import write_evaluation, write_robustness_report
from tf_lottery.report.robustness.verdict import claim_words, findings

TWELVE = [f"model number {i} of twelve" for i in range(12)]


def _write(folder, document):
    write_evaluation(folder / "evaluation.json", document)
    path = write_robustness_report(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8"), (folder / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def full(tmp_path_factory, make_evaluation):
    folder = tmp_path_factory.mktemp("full")
    document = make_evaluation()
    return folder, document, *_write(folder, document)


def _cells(row):
    return [" ".join(cell.split()) for cell in row]


def test_html_is_well_formed_and_asks_nothing_of_the_network(full):
    page = Page(full[2])
    assert page.find("html") == [{"lang": "en"}]
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?:|url\(|@import", full[2])
    for attrs in (attrs for _, attrs in page.tags):
        assert attrs.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert attrs.get("href", "#").startswith("#")
    identifiers = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    for _, attrs in page.tags:
        for key in ("href", "aria-labelledby"):
            if key in attrs:
                assert attrs[key].lstrip("#") in identifiers
    assert any("http-equiv" in meta for meta in page.find("meta"))


def test_images_are_the_figures_and_have_alternative_texts(full):
    images = Page(full[2]).find("img")
    assert len(images) == 4
    embedded = {base64.b64decode(image["src"].partition(",")[2]) for image in images}
    assert embedded == {path.read_bytes() for path in (full[0] / "figures").iterdir()}
    assert all(len(image["alt"]) > 40 for image in images)
    heat_map = images[-1]["alt"]
    assert "crafted on dense: dense 45.0 %" in heat_map


def test_every_accuracy_is_in_the_table(full):
    _, document, text, markdown = full
    rows = [_cells(row) for row in Page(text).rows if row]
    for model in document["models"]:
        shares = [model["natural"], *model["robust"].values(), model["worst"]]
        expected = [f"{percent(share)} {interval(share, 1000)}" for share in shares]
        assert [f"{model['name']} {model['what']}", "1,000", *expected] in rows
        cells = " | ".join(f"{percent(share)} ({interval(share, 1000)})" for share in shares)
        assert f" | 1,000 | {cells} |\n" in markdown


def test_every_pair_is_in_the_table(full):
    _, document, text, markdown = full
    rows = [_cells(row) for row in Page(text).rows if row]
    assert len(document["pairs"]) == 15
    for pair in document["pairs"]:
        gap, bounds = points(pair["difference"]), point_interval(pair["low"], pair["high"])
        (row,) = [r for r in rows if r[:3] == [pair["a"], pair["b"], pair["measure"]]]
        assert row[3] == " ".join(typeset(f"{gap} {bounds}").split())
        assert row[4:6] == [str(pair["only_a"]), str(pair["only_b"])]
        assert row[7] == claim_words(pair)
        assert (row[7] == "no difference can be claimed") == (pair["p"] >= 0.05)
    assert markdown.count("no difference can be claimed |") == text.count(
        '<td class="text wrap">no difference can be claimed</td>'
    )


def test_transfer_matrix_is_rows_to_columns(full):
    _, document, text, markdown = full
    rows = [_cells(row) for row in Page(text).rows if row]
    names, matrix = document["transfer"]["models"], document["transfer"]["accuracy"]
    start = rows.index(names)
    for i, name in enumerate(names):
        expected = [percent(share) for share in matrix[i]]
        expected[i] += " white box"
        assert rows[start + 1 + i] == [name, *expected]
    assert f"| dense | **45.0** | {percent(matrix[0][1])} |" in markdown


def test_every_finding_and_check_is_on_the_page(full):
    _, document, text, markdown = full
    plain = "".join(Page(text).text)
    for finding in findings(document):
        assert typeset(finding.text) in plain
        assert escape_markdown(finding.text) in markdown
    for checks in document["diagnosis"].values():
        for check in checks:
            assert typeset(check["text"]) in plain
            assert escape_markdown(check["text"]) in markdown


def test_outcomes_are_words_not_colours_alone(full):
    _, document, text, _ = full
    labels = re.findall(r'<li class="is-(\w+)"><span class="label">(.) ([a-z ]+)</span>', text)
    words = {"warn": "warning", "pass": "passed", "even": "no difference", "skipped": "skipped"}
    for outcome, mark, label in labels:
        assert label == words.get(outcome, label)
        assert mark in "▲▼=·✓!–"
    checks = [check for checks in document["diagnosis"].values() for check in checks]
    warnings = sum(check["outcome"] == "warn" for check in checks)
    found = sum(finding.outcome == "warn" for finding in findings(document))
    assert sum(outcome == "warn" for outcome, _, _ in labels) == warnings + found == 2 + 3


def test_costs_sum_up(full):
    _, document, text, markdown = full
    total = sum(cost["seconds"] for model in document["models"] for cost in model["cost"].values())
    rows = [_cells(row) for row in Page(text).rows if row]
    (sums,) = [row for row in rows if row[0] == "All"]
    assert float(sums[1]) == pytest.approx(total, abs=0.06)
    assert "| **All** |" in markdown
    # 1,020 forward passes for each of 1,000 images.
    assert ["autoattack", "12.2", "1.02 M 1.02 k", "1.02 M 1.02 k"] in [row[-4:] for row in rows]


def test_markdown_links_and_tables(full):
    folder, _, _, text = full
    links = re.findall(r"!\[[^]]+\]\((.+?)\)", text)
    assert len(links) == 4
    assert all((folder / link).is_file() for link in links)
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(blocks) == 5
    for block in blocks:
        lines = block.splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
        assert re.fullmatch(r"\|( :?-+:? \|)+", lines[1])


@pytest.mark.parametrize(
    "arguments",
    [
        {"models": ("dense",)},
        {"attacks": ()},
        {"models": ("dense",), "attacks": ()},
        {"attacks": ("square",), "norm": "l2"},
        {"models": TWELVE, "norm": "l2"},
    ],
)
def test_partial_and_large_documents(tmp_path, make_evaluation, arguments):
    document = make_evaluation(**arguments, examples=100)
    text, markdown = _write(tmp_path, document)
    page = Page(text)
    single, attacked = len(document["models"]) == 1, bool(document["attacks"])
    assert ("No attack was run" in text) == (not attacked)
    assert ("Pairs of models" in text) == (not single)
    assert ("Classified by" in text) == (attacked and not single)
    assert ('id="diagnosis"' in text) == attacked
    assert ('id="figures"' in text) == attacked
    assert ("worst" in "".join(page.text)) == (len(document["attacks"]) > 1)
    titles = re.findall(r"<b>Table (\d)\.", text)
    assert titles == [str(n) for n in range(1, len(titles) + 1)]
    assert "Undefined" not in text + markdown
    folded = any("comparisons" in part for part in page.text) and "<summary>All 330" in text
    assert folded == (len(document["models"]) == 12)
    assert markdown.startswith("# Robustness: ")


def test_null_curves_and_shares(tmp_path, make_evaluation):
    document = make_evaluation(examples=100)
    document["curves"] = document["transfer"] = None
    document["models"][1]["worst"] = None
    text, markdown = _write(tmp_path, document)
    assert [image["alt"][:12] for image in Page(text).find("img")] == ["Stacked bars"]
    assert "correctly under autoattack" in text
    (row,) = [_cells(row) for row in Page(text).rows if row and "boosting SavedModel" in row[0]]
    assert row[-1] == "–"
    assert re.search(r"\| boosting \|.* – \|\n", markdown)


HOSTILE = "<script>alert('x')</script>|`*_[a](javascript:b)\"&"


def test_hostile_strings_are_text(tmp_path, make_evaluation):
    document = make_evaluation(models=("dense", HOSTILE), examples=100, warn=[HOSTILE])
    document["settings"] = {HOSTILE: HOSTILE}
    document["data"]["classes"][0] = document["data"]["name"] = HOSTILE
    document["machine"]["cpu"] = document["machine"]["devices"][0] = HOSTILE
    document["command"].append(f"--dataset={HOSTILE}\n# heading")
    document["models"][0]["what"] = f"{HOSTILE}\n# heading"
    document["diagnosis"]["dense"][0]["text"] = HOSTILE
    text, markdown = _write(tmp_path, document)
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert HOSTILE in "".join(page.text)
    assert html.escape("<script>", quote=False) in text
    prose = "\n".join(line for line in markdown.splitlines() if not line.startswith("    "))
    assert "<script>" not in prose
    assert "\n# heading" not in prose
    assert not re.search(r"(?<!\\)\]\(javascript", prose)
    blocks = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    for block in blocks:
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1


def test_report_is_reproducible_and_replaced_as_a_whole(tmp_path, make_evaluation, monkeypatch):
    document = make_evaluation(models=("dense",), examples=100)
    before, _ = _write(tmp_path, document)
    assert write_robustness_report(tmp_path).read_text(encoding="utf-8") == before
    write_evaluation(tmp_path / "evaluation.json", make_evaluation(attacks=(), examples=100))
    replace = os.replace

    def fail(source, target):
        if str(target).endswith(".html"):
            raise OSError("disk gone")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk gone"):
        write_robustness_report(tmp_path)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_missing_document_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"evaluation\.json: no such file"):
        write_robustness_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_norms_are_typeset_where_they_are_meant():
    assert norms("l_inf radius 8/255, l_2 radius < 1") == (
        "l<sub>∞</sub> radius 8/255, l<sub>2</sub> radius &lt; 1"
    )
    assert norms("<b>model l_2") == "&lt;b&gt;model l_2"


def test_p_values_do_not_break():
    assert typeset("test, p < 0.001") == "test, p\N{NO-BREAK SPACE}<\N{NO-BREAK SPACE}0.001"


def test_robustness_needs_no_tensorflow():
    code = (
        "import json, sys, tf_lottery.report.robustness; "
        "print(json.dumps([m in sys.modules for m in ('tensorflow', 'matplotlib.pyplot')]))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert json.loads(answer.stdout) == [False, False]
