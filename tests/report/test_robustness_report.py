import re
import subprocess
import sys

import pytest
from pages import Page

from tf_lottery.errors import StoreError
from tf_lottery.report.formats import interval, percent, point_interval, points
from tf_lottery.report.pages import escape_markdown, typeset
from tf_lottery.report.robustness import write_evaluation, write_robustness_report
from tf_lottery.report.robustness.findings import claim_words, findings

TWELVE = [f"model number {i} of twelve" for i in range(12)]


def _write(folder, document):
    write_evaluation(folder / "evaluation.json", document)
    path = write_robustness_report(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8"), (folder / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def full(tmp_path_factory, make_evaluation):
    document = make_evaluation()
    return document, *_write(tmp_path_factory.mktemp("full"), document)


def _rows(text):
    return [[" ".join(cell.split()) for cell in row] for row in Page(text).rows if row]


def test_figures_have_alternative_texts(full):
    images = Page(full[1]).find("img")
    assert len(images) == full[2].count("](figures/") == 4
    assert all(len(image["alt"]) > 40 for image in images)
    assert "crafted on dense: dense 45.0 %" in images[-1]["alt"]


def test_every_accuracy_is_in_the_table(full):
    document, text, markdown = full
    for model in document.models:
        shares = [model.natural, *model.robust.values(), model.worst]
        expected = [f"{percent(share)} {interval(share, 1000)}" for share in shares]
        assert [f"{model.name} {model.what}", "1,000", *expected] in _rows(text)
        cells = " | ".join(f"{percent(share)} ({interval(share, 1000)})" for share in shares)
        assert f"| {model.name} ({model.what}) | 1,000 | {cells} |\n" in markdown


def test_every_pair_is_in_the_table(full):
    document, text, markdown = full
    rows = [row[-7:] for row in _rows(text)]  # those of one first model share its name
    assert len(document.pairs) == 15
    for pair in document.pairs:
        gap, bounds = points(pair.difference), point_interval(pair.low, pair.high)
        found = [row for row in rows if row[:2] == [pair.b, pair.measure]]
        counts = [str(pair.only_a), str(pair.only_b)]
        (row,) = [row for row in found if row[3:5] == counts]
        assert row[2] == " ".join(typeset(f"{gap} {bounds}").split())
        assert row[6] == claim_words(pair)
        assert (row[6] == "no difference can be claimed") == (pair.p >= 0.05)
        cells = f"| {pair.a} | {pair.b} | {pair.measure} | {gap} {escape_markdown(bounds)} | "
        assert f"{cells}{' | '.join(counts)} |" in markdown


def test_transfer_matrix_is_rows_to_columns(full):
    document, text, markdown = full
    names, matrix = document.transfer.models, document.transfer.accuracy
    rows = _rows(text)
    start = rows.index(names)
    for i, name in enumerate(names):
        expected = [percent(share) for share in matrix[i]]
        expected[i] += " white box"
        assert rows[start + 1 + i] == [name, *expected]
    assert f"| dense | **45.0** (white box) | {percent(matrix[0][1])} |" in markdown


def test_every_finding_and_check_is_on_the_page(full):
    document, text, markdown = full
    plain = "".join(Page(text).text)
    checks = [check for found in document.diagnosis.values() for check in found]
    for told in [*findings(document), *checks]:
        assert typeset(told.text) in plain
        assert escape_markdown(told.text) in markdown
    labels = re.findall(r'<span class="label">(.+?)</span>', text)
    assert labels.count("! warning") == 2 + 3


def test_costs_sum_up(full):
    document, text, markdown = full
    total = sum(cost.seconds for model in document.models for cost in model.cost.values())
    (sums,) = [row for row in _rows(text) if row[0] == "All"]
    assert float(sums[2]) == pytest.approx(total, abs=0.06)
    assert "| **All** |" in markdown
    # 1,020 forward passes for each of 1,000 images.
    row = ["autoattack", "12.2", "1.02 M 1.02 k", "1.02 M 1.02 k"]
    assert row in [row[-4:] for row in _rows(text)]


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
    single, attacked = len(document.models) == 1, bool(document.attacks)
    assert ("No attack was run" in text) == (not attacked)
    assert ("Pairs of models" in text) == (not single)
    assert ("Classified by" in text) == (attacked and not single)
    assert ('id="diagnosis"' in text) == attacked
    assert ('id="figures"' in text) == attacked
    assert ("worst" in "".join(page.text)) == (len(document.attacks) > 1)
    assert ("<summary>All 330 comparisons" in text) == (len(document.models) == 12)
    assert markdown.startswith("# Robustness: ")
    for block in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        lines = block.splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
        assert re.fullmatch(r"\|( :?-+:? \|)+", lines[1])


def test_what_was_not_measured_is_a_dash(tmp_path, make_evaluation):
    document = make_evaluation(examples=100)
    document.curves = document.transfer = None
    document.models[1].worst = None
    text, markdown = _write(tmp_path, document)
    assert [image["alt"][:12] for image in Page(text).find("img")] == ["Stacked bars"]
    assert "correctly under autoattack" in text
    (row,) = [row for row in _rows(text) if "boosting SavedModel" in row[0]]
    assert row[-1] == "–"
    assert re.search(r"\| boosting \(.* – \|\n", markdown)


HOSTILE = "<script>alert('x')</script>|`*_[a](javascript:b)\"&"


def test_hostile_strings_are_text(tmp_path, make_evaluation):
    document = make_evaluation(models=("dense", HOSTILE), examples=100, warn=[HOSTILE])
    document.settings = {HOSTILE: HOSTILE}
    document.data.classes[0] = document.data.name = HOSTILE
    document.machine.cpu = document.machine.devices[0] = HOSTILE
    document.command.append(f"--dataset={HOSTILE}\n# heading")
    document.models[0].what = f"{HOSTILE}\n# heading"
    document.diagnosis["dense"][0].text = HOSTILE
    text, markdown = _write(tmp_path, document)
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert HOSTILE in "".join(page.text)
    prose = "\n".join(line for line in markdown.splitlines() if not line.startswith("    "))
    assert "<script>" not in prose
    assert "\n# heading" not in prose
    assert not re.search(r"(?<!\\)\]\(javascript", prose)
    for block in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1


def test_report_is_reproducible(tmp_path, make_evaluation):
    before = _write(tmp_path, make_evaluation(models=("dense",), examples=100))
    assert _write(tmp_path, make_evaluation(models=("dense",), examples=100)) == before


def test_a_missing_document_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"evaluation\.json: no such file"):
        write_robustness_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_robustness_needs_no_tensorflow():
    code = (
        "import sys, tf_lottery.report.robustness; "
        "print([m in sys.modules for m in ('tensorflow', 'matplotlib.pyplot')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[False, False]\n"
