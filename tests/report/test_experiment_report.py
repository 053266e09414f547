import base64
import html
import json
import re
import subprocess
import sys

import pytest
from experiments import build_claim, build_experiment
from pages import Page
from tf_lottery.report.experiment import (
    EXPERIMENT,
    experiment_table,
    verdicts,
    write_experiment,
    write_experiment_report,
)
from tf_lottery.report.experiment.captions import captions
from tf_lottery.report.experiment.document import baselines
from tf_lottery.report.experiment.limits import limits, unmeasured
from tf_lottery.report.experiment.problems import problem
from tf_lottery.report.report import escape_markdown, typeset

from tf_lottery.errors import StoreError


def _write(folder, document):
    write_experiment(folder / EXPERIMENT, document)
    path = write_experiment_report(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8"), (folder / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    document = build_experiment()
    return folder, document, *_write(folder, document)


def _rows(text):
    return [[" ".join(cell.split()) for cell in row] for row in Page(text).rows]


def test_html_is_well_formed_and_asks_nothing_of_the_network(full):
    page = Page(full[2])
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


def test_figures_are_embedded_and_beside_the_page(full):
    folder, _, text, markdown = full
    images = Page(text).find("img")
    embedded = {base64.b64decode(image["src"].partition(",")[2]) for image in images}
    files = sorted((folder / "figures").iterdir())
    assert [path.name for path in files] == [
        "accuracy.png", "accuracy.svg", "distance.png", "distance.svg",
    ]  # fmt: skip
    assert embedded == {path.read_bytes() for path in files if path.suffix == ".png"}
    links = re.findall(r"\[(?:[^\]\\]|\\.)*\]\((figures/.+?)\)", markdown)
    assert sorted(links) == [f"figures/{path.name}" for path in files]
    assert all(len(image["alt"]) > 40 for image in images)


def test_the_parts_stand_in_reading_order(full):
    text = full[2]
    titles = ["Question.", "The paper.", "Not the paper’s settings.", "Verdicts</h2>",
              "Figures</h2>", "Results</h2>", "Cost</h2>", "Limits</h2>",
              "Settings and environment</h2>"]  # fmt: skip
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    assert "<h1>Fig. 1: Boosting tickets learn faster</h1>" in text
    assert "3 arms · 3 seeds (0, 1, 2) · vgg8-w0.25 on cifar10" in text
    assert "Reduced: vgg8-w0.25, 2,000 of 45,000 training images" in text


def test_every_verdict_caption_and_limit_is_on_the_page(full):
    _, document, text, markdown = full
    plain = "".join(Page(text).text)
    for verdict in verdicts(document):
        assert typeset(f"{verdict.claim}: {verdict.outcome}") in plain
        for words in (verdict.found, verdict.paper):
            assert typeset(words) in plain
            assert escape_markdown(words) in markdown
        assert escape_markdown(verdict.detail) in markdown
    for caption in captions(document).values():
        assert escape_markdown(caption.text) in markdown
    for limit in limits(document):
        assert typeset(limit) in plain
        assert escape_markdown(limit) in markdown


def test_outcomes_are_words_not_colours_alone(full):
    labels = re.findall(r'<li class="is-(\w+)"><span class="label">(.) ([a-z ]+)</span>', full[2])
    found = [label for label in labels if label[2] in ("yes", "no", "not decided", "not measured")]
    assert found == [
        ("pass", "✓", "yes"), ("note", "–", "not measured"), ("pass", "✓", "yes"),
        ("behind", "✗", "no"), ("pass", "✓", "yes"),
    ]  # fmt: skip


def test_tables_hold_the_numbers_of_all_arms(full):
    _, document, text, markdown = full
    rows = _rows(text)
    for arm in document["arms"]:
        mean = 100 * sum(run["test"]["natural"]["best"] for run in arm["runs"]) / 3
        found = [row for row in rows if row and row[0] == arm["name"] and len(row) == 8]
        assert found
        assert found[0][4].startswith(f"{mean:.1f} ±")
        assert re.search(rf"\| {re.escape(arm['name'])} \|.* {mean:.1f} ±", markdown)
    assert ["paper (full scale)", "", "54.0", "", "87.0", "", "", ""] in rows
    never = ["never"] * 4
    assert ["re-initialised", *never] in rows
    assert "| re-initialised | never | never | never | never |" in markdown


def test_the_ledger_is_folded(full):
    _, document, text, _ = full
    assert "<summary>All 21 stages</summary>" in text
    assert "<summary>By kind and arm</summary>" in text
    assert "<details open>" not in text
    stages = re.findall(r"<small>((?:train|evaluate)-\w{8})</small>", text)
    assert stages == [entry["stage"] for entry in document["ledger"]]
    rows = _rows(text)
    total = sum(entry["seconds"] for entry in document["ledger"])
    (found,) = [row for row in rows if row and row[0] == "All stages"]
    assert found[1:3] == ["21", f"{total:,.0f} + 42.0 validation"]


def test_tables_are_numbered_without_gaps(full):
    for text in full[2:]:
        numbers = re.findall(r"(?:<b>|\*\*)Table (\d)\.", text)
        assert numbers == [str(i) for i in range(1, len(numbers) + 1)]
        assert len(numbers) == 5


def test_markdown_tables(full):
    blocks = re.findall(r"(?:^\|.*\n)+", full[3], re.MULTILINE)
    assert len(blocks) == 7
    for block in blocks:
        lines = block.splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
        assert re.fullmatch(r"\|( :?-+:? \|)+", lines[1])


def test_settings_and_command(full):
    for text in full[2:]:
        plain = html.unescape(text)
        assert "python -m tf_lottery.main \\" in plain
        assert "'--workdir=/tmp/my runs/fig5'" in plain
        assert "train.epochs" in plain
        assert "ab" * 32 in plain


def test_one_seed_says_what_its_intervals_cover(tmp_path):
    document = build_experiment(seeds=(3,))
    for text in _write(tmp_path, document):
        assert "1 seed, interval over the images only" in text
        assert "1 seed, 95 % Wilson intervals over the images only" in text
        assert "One seed (3)" in text
        assert "t-interval" not in text


@pytest.mark.parametrize(
    ("form", "arms"), [("sweep", 22), ("sweep", 6), ("transfer", 4), ("transfer", 12)]
)
def test_other_forms(tmp_path, form, arms):
    document = build_experiment(form, seeds=(0, 1), arms=arms, epochs=5)
    text, markdown = _write(tmp_path, document)
    assert ("Classified by" in text) == (form == "transfer")
    numbers = re.findall(r"<b>Table (\d)\.", text)
    assert numbers == [str(i) for i in range(1, len(numbers) + 1)]
    assert len(Page(text).find("img")) == (1 if form == "transfer" else 2)
    if form == "transfer":
        first, second = (matrix[0][1] for matrix in document["transfer"]["matrices"])
        assert f" {50 * (first + second):.1f} ±" in markdown
        assert text.count("<small>white box</small>") == min(arms, 8)
        assert text.count("paper 58.7") == 1
        assert markdown.count(", paper 58.7 |") == 1
    assert "Undefined" not in text + markdown


def test_the_least_that_a_document_may_hold(tmp_path):
    document = build_experiment(seeds=(0,), attacks=(), epochs=1)
    document |= {
        "scale": "", "claims": [], "figures": [], "ledger": [], "baseline": None,
        "reference": None,
    }  # fmt: skip
    for arm in document["arms"]:
        arm["published"] = {}
        arm["runs"][0] |= {"curve": [], "test": None}
    text, markdown = _write(tmp_path, document)
    assert "Those of the paper." in text
    assert "Not the paper" not in text + markdown
    assert "No claim is put to the test here." in text
    assert 'id="figures"' not in text
    assert re.findall(r"<b>Table (\d)\.", text) == ["1", "2"]
    assert "Undefined" not in text + markdown
    assert list((tmp_path / "figures").glob("*")) == [] or not (tmp_path / "figures").exists()


HOSTILE = "<script>alert('x')</script>|`*_[a](javascript:b)\"& $x_1$"


def test_hostile_strings_are_text(tmp_path):
    document = build_experiment(arms=3)
    for key in ("source", "title", "question", "paper"):
        document["experiment"][key] = HOSTILE
    document["scale"] = document["machine"]["cpu"] = document["data"]["name"] = HOSTILE
    old = document["arms"][1]["name"]
    document["arms"][1]["name"] = document["arms"][1]["series"] = HOSTILE
    document["arms"][1]["model"] = HOSTILE
    document["settings"] = {HOSTILE: HOSTILE}
    document["claims"] = [build_claim(HOSTILE, "dense", text=HOSTILE, paper=HOSTILE)]
    for entry in document["ledger"]:
        entry["models"] = [HOSTILE if name == old else name for name in entry["models"]]
        entry["label"] = entry["kind"] = HOSTILE
    for figure in document["figures"]:
        figure["title"] = figure["x_label"] = figure["y_label"] = HOSTILE
    document["baseline"] = HOSTILE
    text, markdown = _write(tmp_path, document)
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "".join(page.text).count("alert(") > 20
    assert "<script" not in markdown
    assert not re.search(r"(?<!\\)\[a\]", markdown)
    for block in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_the_same_document_gives_the_same_bytes(tmp_path):
    document = build_experiment(seeds=(0, 1), arms=2, epochs=3)
    for name in ("a", "b"):
        _write(tmp_path / name, document)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*")]
    assert len(files) == 7
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


def test_a_damaged_document_leaves_the_old_report(tmp_path):
    _write(tmp_path, build_experiment(seeds=(0,), arms=2, epochs=2))
    before = (tmp_path / "report.html").read_bytes()
    (tmp_path / EXPERIMENT).write_text(json.dumps({"format": 1, "arms": []}))
    with pytest.raises(StoreError, match="lacks"):
        write_experiment_report(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before


def test_limits_are_those_of_the_document():
    text = " ".join(limits(build_experiment()))
    assert "Not the paper's settings (reduced" in text
    assert "With so few" in text
    assert "Unstructured masks save no arithmetic" in text
    assert "earlier run" in text
    assert "upper bound" in text
    document = build_experiment(seeds=range(5), attacks=())
    document |= {"scale": "", "baseline": None, "ledger": [], "claims": [], "figures": []}
    document["arms"] = document["arms"][:1]
    for run in document["arms"][0]["runs"]:
        run["total_flops_over_dense"] = None
    text = " ".join(limits(document))
    for words in ("scale", "With so few", "Unstructured", "earlier run", "upper bound", "claims"):
        assert words not in text
    assert "no baseline" in text
    assert "No attack was run" in text
    document["figures"] = build_experiment()["figures"]
    document["data"]["validation_used"] = 100
    assert "measured on 100 of 500 images" in " ".join(limits(document))


def test_no_tensorflow_is_imported():
    code = (
        "import sys, tf_lottery.report.experiment;"
        "print(sorted({'tensorflow', 'tf_keras', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_arms_with_a_baseline_of_their_own(tmp_path):
    document = build_experiment(arms=4)
    names = [arm["name"] for arm in document["arms"]]
    document["baseline"] = None
    pairs = dict(zip(names, [names[0], names[0], names[2], names[2]], strict=True))
    for arm in document["arms"]:
        arm["baseline"] = pairs[arm["name"]]
    assert baselines(document) == [names[0], names[2]]
    text, markdown = _write(tmp_path, document)
    assert f"over the arm’s own baseline ({names[0]}, {names[2]}), which is 1." in text
    assert f"reached the best of its baseline ({names[0]}, {names[2]}), and" in markdown
    # Nothing is "never" where an arm is its own baseline; its control never got there.
    rows = _rows(text)
    assert [names[0], "–", "–", "–", "–"] in rows
    document["arms"][1]["baseline"] = "nobody"
    assert problem(document) == f"arm {names[1]!r}: baseline: unknown 'nobody'"


def test_costs_against_a_dense_training_that_was_not_run(tmp_path):
    document = build_experiment(arms=3)
    document["baseline"] = None
    for arm in document["arms"]:
        for run in arm["runs"]:
            run["total_seconds_over_dense"] = None
    text, markdown = _write(tmp_path, document)
    told = (
        "Relative: search and training over one dense training of all epochs, counted and not run"
    )
    assert told in text
    assert told in markdown
    assert "No dense network was trained here as a baseline." in text
    assert "When it pays" not in text
    heads = re.search(r"\| arm \| Epochs: all .*", markdown)[0]
    assert "FLOPs: relative" in heads
    assert "Seconds: relative" not in heads
    assert "FLOPs/dense" in experiment_table(document)


def test_names_with_commas_are_told_apart(tmp_path):
    document = build_experiment(arms=5)
    for arm, name in zip(document["arms"], ("a, 1", "a, 2", "b, 1", "b, 2", "c"), strict=True):
        for entry in document["ledger"]:
            entry["models"] = [name if old == arm["name"] else old for old in entry["models"]]
        for key in ("claims",):
            for claim in document[key]:
                for side in ("ours", "theirs"):
                    claim[side] = name if claim[side] == arm["name"] else claim[side]
        if document["baseline"] == arm["name"]:
            document["baseline"] = name
        arm["name"] = arm["series"] = name
    _, markdown = _write(tmp_path, document)
    assert "| a, 2; b, 1 |" in markdown  # of the search, which boosting and reinit share
    assert "| all 5 arms |" in markdown


def test_the_worst_case_is_explained_where_there_is_one(tmp_path):
    for attacks in (("pgd20",), ("pgd20", "cw")):
        document = build_experiment(arms=2, epochs=2, attacks=attacks)
        for text in _write(tmp_path / attacks[-1], document):
            assert ("under every one of these attacks" in text) == (len(attacks) > 1)


def test_a_distance_that_older_trainings_lack_is_explained():
    document = build_experiment()
    assert list(unmeasured(document)) == []
    for run in document["arms"][1]["runs"]:
        for record in run["curve"]:
            record["distance"] = None
    ours = document["arms"][1]["name"]
    for entry in document["ledger"]:
        if entry["kind"] == "train" and entry["models"] == [ours]:
            entry["label"] = f"train: {ours}"
    (told,) = unmeasured(document)
    assert f"is missing for {ours}: the store holds trainings of a version" in told
    for entry in document["ledger"]:
        assert (entry["stage"] in told) == (entry["label"] == f"train: {ours}")
    assert told in list(limits(document))
    # Nothing is said where nobody asks for the distance.
    document["figures"] = document["figures"][:1]
    assert list(unmeasured(document)) == []
