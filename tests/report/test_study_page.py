"""The report of a study: one HTML file and its Markdown twin, with every number and claim."""

import base64
import json
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import studies
from msgspec.structs import replace
from pages import Page

from tf_lottery.errors import StoreError
from tf_lottery.options.attacks import attack_from_name
from tf_lottery.report import tables
from tf_lottery.report.limits import limits
from tf_lottery.report.pages import escape_markdown, typeset
from tf_lottery.report.results import read_results, write_results
from tf_lottery.report.study import write_report
from tf_lottery.report.verdicts import tally, verdicts


def written(folder, document, pictures=None):
    """The HTML and the Markdown of a document's report."""
    write_results(folder / "results.json", document)
    if pictures is not None:
        np.savez(folder / "pictures.npz", **pictures)
    path = write_report(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8"), (folder / "report.md").read_text(encoding="utf-8")


MAKERS = {
    "comparison": lambda: studies.make_comparison(studies.KINDS, pairs=True),
    "two seeds": lambda: studies.make_comparison(seeds=(0, 1)),
    "experiment": studies.make_experiment,
    "sweep": lambda: studies.make_sweep(5),
    "transfer": studies.make_transfer,
}


@pytest.fixture(scope="module", params=MAKERS)
def report(request, tmp_path_factory):
    """(folder, document, HTML, Markdown)."""
    folder = tmp_path_factory.mktemp("report")
    document = MAKERS[request.param]()
    pictures = None if document.is_experiment else studies.make_pictures()
    return folder, document, *written(folder, document, pictures)


def cells(row):
    return [" ".join(cell.split()) for cell in row]


def markdown_tables(text):
    """Rows of cells, table by table, without the rule below the head."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        yield [[cell.strip() for cell in row] for row in (rows[0], *rows[2:])]


def test_html_is_well_formed_and_asks_nothing_of_the_network(report):
    page = Page(report[2])
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?:|url\(|@import", report[2])
    for attrs in (attrs for _, attrs in page.tags):
        assert attrs.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert attrs.get("href", "#").startswith("#")
    identifiers = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    for _, attrs in page.tags:
        for key in ("href", "aria-labelledby"):
            assert attrs.get(key, "#").lstrip("#") in (*identifiers, "")


def test_every_figure_is_embedded_and_linked(report):
    folder, document, html, markdown = report
    images = Page(html).find("img")
    embedded = [base64.b64decode(image["src"].partition(",")[2]) for image in images]
    files = [folder / "figures" / f"{figure.name}.png" for figure in document.figures]
    assert embedded == [path.read_bytes() for path in files]
    assert all(len(image["alt"]) > 40 for image in images)
    links = re.findall(r"\]\((figures/[^)]+)\)", markdown)
    assert sorted(links) == sorted(f"figures/{p.name}" for p in (folder / "figures").iterdir())


def test_every_claim_and_limit_is_there(report):
    _, document, html, markdown = report
    plain = "".join(Page(html).text)
    found = verdicts(document)
    said = [verdict.detail for verdict in found] + list(limits(document))
    said += [verdict.claim for verdict in found] + [verdict.found for verdict in found]
    said += [tally(found)] if found else []
    for text in said:
        assert typeset(text) in plain
        assert escape_markdown(text) in markdown
    classes = re.findall(r'<li class="is-(yes|no|not-decided|not-measured)">', html)
    assert classes == [verdict.outcome.replace(" ", "-") for verdict in found]


def test_tables_have_as_many_cells_as_heads(report):
    html, markdown = report[2:]
    for table in markdown_tables(markdown):
        assert len({len(row) for row in table}) == 1
    for table in re.findall(r"<table(?! class=\"pairs\").*?</table>", html, re.DOTALL):
        head, body = table.split("</thead>")
        first, *second = re.findall(r"<tr.*?</tr>", head, re.DOTALL)
        spans = [int(n) for n in re.findall(r'colspan="(\d+)"', first)]
        wide = len(re.findall(r"<th ", first)) - len(spans) + sum(spans)
        assert not second or len(re.findall(r"<th ", second[0])) == sum(spans)
        shared = 0
        for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL):
            spanned = re.search(r'rowspan="(\d+)"', row)
            name_above = shared > 0
            shared = int(spanned[1]) - 1 if spanned else max(0, shared - 1)
            assert len(re.findall(r"<t[dh]\b", row)) + name_above == wide


def test_both_pages_hold_the_numbers_of_every_table(report):
    _, document, html, markdown = report
    rows = [cells(row) for row in Page(html).rows]
    told = [row for table in markdown_tables(markdown) for row in table]
    grids = [tables.accuracies(document), tables.costs(document), tables.gains(document),
             tables.others(document), tables.transfer(document)]  # fmt: skip
    for grid in filter(None, grids):
        for row in grid.rows:
            wanted = [row.name] + [
                typeset(" ".join([cell.text, *cell.small.split("\n")]).strip())
                for cell in row.full
            ]  # fmt: skip
            assert wanted in rows
            numbers = [re.sub(r"[*()\\,]", "", cell) for cell in wanted[1:]]
            same = [re.sub(r"[*()\\,]", "", typeset(cell)) for row in told for cell in row[1:]]
            assert set(numbers) <= {" ".join(cell.split()) for cell in same}


def test_numbers_of_tables_run_without_gaps(report):
    for text in report[2:]:
        numbers = re.findall(r"(?:<b>|\*\*)Table (\d+)\.", text)
        assert numbers == [str(i) for i in range(1, len(numbers) + 1)]
        assert len(numbers) >= 3
        assert "Undefined" not in text


def test_the_same_document_gives_the_same_bytes(report):
    folder, _, *texts = report
    figures = {path: path.read_bytes() for path in (folder / "figures").iterdir()}
    for path in figures:
        path.unlink()
    assert list(written(folder, read_results(folder / "results.json"))) == texts
    assert {path: path.read_bytes() for path in (folder / "figures").iterdir()} == figures


def test_the_ledger_sums_to_what_was_spent(report):
    _, document, html, _ = report
    sums = {row[0]: row for row in (cells(row) for row in Page(html).rows) if row}
    count, seconds = len(document.ledger), sum(entry.seconds for entry in document.ledger)
    fresh = [entry for entry in document.ledger if not entry.cached]
    shown = sums["All stages"][1:4]
    assert shown[1] == f"{count:,}"
    assert shown[2].split(" + ")[0] in (f"{seconds:,.0f}", f"{seconds:.1f}")
    assert sums["This run"][2] == f"{len(fresh):,}"
    stages = re.findall(r"<small>((?:train|evaluate)-\w{8})</small>", html)
    assert stages == [entry.stage for entry in document.ledger]


def test_the_least_that_a_document_may_hold(tmp_path):
    document = studies.make_experiment(seeds=(0,), attacks=(), epochs=1)
    document.study.scale = document.study.question = ""
    document.claims, document.figures, document.ledger = [], [], []
    document.baseline = document.reference = None
    for arm in document.arms:
        arm.published = {}
    for row in document.rows:
        row.curve, row.tests, row.test_examples, row.layers = [], {}, 0, []
        row.total_flops_over_dense = row.search_passes = row.train_passes = None
    html, markdown = written(tmp_path, document)
    assert 'id="figures"' not in html
    assert "Not the paper" not in html + markdown
    assert not list((tmp_path / "figures").glob("*"))
    assert len(re.findall(r"<b>Table \d", html)) == 2


def test_costs_against_a_dense_training_that_was_not_run(tmp_path):
    document = studies.make_experiment()
    document.baseline = None
    for row in document.rows:
        row.total_over_dense = None
    for text in written(tmp_path, document):
        assert "counted and not run" in text
        assert "When it pays" not in text


def test_arms_with_a_baseline_of_their_own(tmp_path):
    document = studies.make_experiment(studies.KINDS[:4])
    document.baseline, (a, b, c, d) = None, document.arms
    a.baseline = b.baseline = a.name
    c.baseline = d.baseline = c.name
    html, markdown = written(tmp_path, document)
    assert f"({a.name}, {c.name})" in html
    assert f"({a.name}, {c.name})" in markdown
    rows = [cells(row) for row in Page(html).rows]
    assert [c.name, "–", "–", "–", "–"] in rows  # nothing is "never" for a baseline


def test_names_with_commas_are_told_apart(tmp_path):
    document = studies.make_experiment(studies.KINDS)
    names = dict(zip(studies.KINDS, ("a, 1", "a, 2", "b, 1", "b, 2", "c"), strict=True))
    _, markdown = written(tmp_path, studies.renamed(document, names))
    assert "| a, 2; b, 1 |" in markdown  # the search that boosting and reinit share


# Next steps and origin. ------------------------------------------------------------------


def commands(markdown):
    text = re.sub(r" \\\n +", " ", markdown)
    return [shlex.split(line) for line in text.splitlines() if line.startswith("    ")]


def test_next_steps_are_commands_one_can_paste(tmp_path):
    folder = tmp_path / "my runs"
    folder.mkdir()
    _, markdown = written(folder, studies.make_comparison())
    found = [word for command in commands(markdown) for word in command]
    for word in (
        f"--logdir={folder}/tensorboard", f"--model_path={folder}/saved_model/boosting",
        f"--ticket={folder}/tickets/boosting", f"--workdir={folder}", "--eval_eps=8/255",
        "--workdir=/tmp/my runs/study",
    ):  # fmt: skip
        assert word in found
    _, paper = written(tmp_path, studies.make_experiment())
    assert len(commands(paper)) == 1  # an experiment keeps no networks


def test_next_steps_lead_to_the_directories_of_kinds_from_elsewhere(tmp_path):
    document = studies.make_comparison(("dense", "my.package:find"))
    _, markdown = written(tmp_path, document)
    assert f"--ticket={tmp_path}/tickets/my.package-find" in markdown


def test_an_l2_study_goes_on_in_l2(tmp_path):
    document = studies.make_comparison(attacks=("pgd20",))
    document.attacks = [attack_from_name("pgd20", 0.5, norm="l2")]
    html, markdown = written(tmp_path, document)
    found = [word for command in commands(markdown) for word in command]
    assert {"--eval_eps=0.5", "--eval_norm=l2"} <= set(found)
    assert "l<sub>2</sub> radius 0.5" in html


def test_settings_data_and_machine_are_told(tmp_path):
    document = studies.make_comparison()
    document.settings["search"] = {"schedule": {"peak": 0.0125}}
    document.machine.devices = ["CPU", "GPU"]
    for text in written(tmp_path, document):
        for word in ("search.schedule.peak", "0.0125", "ab" * 32, "Example CPU", "CPU, GPU"):
            assert word in text


def test_every_attack_is_explained_and_the_worst_where_there_are_several(tmp_path):
    for names in (("pgd20",), ("fgsm", "autoattack", "square")):
        document = studies.make_comparison(("dense", "boosting"), names)
        for text in written(tmp_path / names[0], document):
            assert ("every one of these attacks" in text) == (len(names) > 1)
            if len(names) > 1:
                assert "apgd" in text
                assert "5,000 queries" in text


# Strangers' words, and failures. ---------------------------------------------------------


def test_hostile_strings_are_text(tmp_path):
    word = studies.HOSTILE
    document = studies.make_experiment()
    document = studies.renamed(document, {"boosting": word})
    about = document.study
    about.source = about.title = about.question = about.paper = about.scale = word
    document.machine.cpu = document.data.name = document.data.classes[0] = word
    document.command = [f"--x={word}\n# heading", word]
    document.settings = {word: word}
    for arm in document.arms:
        arm.model = word
    for row in document.rows:
        row.model = row.dataset = word
    document.reference.file = word
    document.claims = [replace(each, text=word, paper=word) for each in document.claims]
    document.figures = [
        replace(each, title=word, x_label=word, y_label=word) for each in document.figures
    ]
    for entry in document.ledger:
        entry.label = entry.kind = word
    html, markdown = written(tmp_path, document)
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "".join(page.text).count("alert(") > 20
    prose = "\n".join(line for line in markdown.splitlines() if not line.startswith("    "))
    assert "<script" not in prose
    assert "\n# heading" not in prose
    assert not re.search(r"(?<!\\)\[a\]|(?<!\\)\]\(javascript", prose)
    for table in markdown_tables(markdown):
        assert len({len(row) for row in table}) == 1
    assert read_results(tmp_path / "results.json") == document


def test_a_damaged_document_or_a_full_disk_leaves_the_old_report(tmp_path, monkeypatch):
    before = written(tmp_path, studies.make_comparison(("dense",), epochs=2))
    stored = json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(stored | {"arms": []}))
    with pytest.raises(StoreError):
        write_report(tmp_path)
    write_results(tmp_path / "results.json", studies.make_comparison(("boosting",), epochs=2))
    swap = os.replace

    def fail(source, target):
        if str(target).endswith(".html"):
            raise OSError(5, "disk gone")
        swap(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk gone"):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before[0]
    assert not list(tmp_path.rglob("*.tmp"))


def test_reporting_needs_no_tensorflow():
    code = (
        "import sys, tf_lottery.report.study, tf_lottery.report.summary;"
        "print(sorted({'tensorflow', 'tf_keras', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
