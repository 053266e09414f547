import base64
import html
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from pages import Page
from tf_lottery.report.report import escape_markdown, typeset

from tf_lottery.options.settings import KINDS
from tf_lottery.report import findings, write_report, write_results
from tf_lottery.report.captions import captions
from tf_lottery.report.formats import interval, percent, seconds


def _write(folder, document, pictures=None):
    write_results(folder / "results.json", document)
    if pictures:
        np.savez(folder / "pictures.npz", **pictures)
    path = write_report(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def full(tmp_path_factory, make_document, make_pictures):
    folder = tmp_path_factory.mktemp("full")
    document = make_document(KINDS, ("fgsm", "pgd20"))
    text = _write(folder, document, make_pictures())
    return folder, document, text


def test_html_is_well_formed_and_asks_nothing_of_the_network(full):
    _, _, text = full
    page = Page(text)
    assert page.find("html") == [{"lang": "en"}]
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?:|url\(|@import", text)
    for attrs in (attrs for _, attrs in page.tags):
        assert attrs.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert attrs.get("href", "#").startswith("#")
    identifiers = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    for _, attrs in page.tags:
        for key in ("href", "aria-labelledby"):
            if key in attrs:
                assert attrs[key].lstrip("#") in identifiers
    assert any(meta.get("name") == "viewport" for meta in page.find("meta"))


def test_images_are_the_figures_and_have_alternative_texts(full):
    folder, _, text = full
    images = Page(text).find("img")
    assert len(images) == 6
    embedded = {base64.b64decode(image["src"].partition(",")[2]) for image in images}
    assert embedded == {path.read_bytes() for path in (folder / "figures").iterdir()}
    assert all(len(image["alt"]) > 40 for image in images)


def test_tables_show_every_number(full):
    _, document, text = full
    rows = {row[0].split()[0]: row for row in reversed(Page(text).rows) if row and row[0].split()}
    tables = [row for row in Page(text).rows if row]
    for row in document["rows"]:
        expected = [f"{100 * row['density']:.1f}", "360"]
        for name in ("natural", "fgsm", "pgd20", "worst"):
            for which in ("best", "last"):
                share = row[name][which]
                expected.append(f"{100 * share:.1f} {interval(share, 360)}")
        assert [cell.strip() for cell in rows[row["name"]][1:]] == expected
        flops = row["search_flops"] / 1e9
        cost = [
            "20",
            "18",
            seconds(row["search_seconds"]),
            seconds(row["train_seconds"]),
            f"{(row['search_seconds'] + row['train_seconds']) / 100:.2f}",
            f"{flops:.1f} G" if flops else "0",
            "120 G",
            f"{(flops + 120) / 120:.2f}",
        ]
        found = [r for r in tables if r[0].strip() == row["name"] and len(r) == 12]
        assert [cell.strip() for cell in found[0][1:9]] == cost
        reached = {"dense": "–", "boosting": "5.2", "winning": "17.5"}.get(row["name"], "never")
        assert found[0][9].strip() == reached
        to_dense = ["0.57", "0.61"] if row["name"] in ("boosting", "winning") else ["–", "–"]
        assert [cell.strip() for cell in found[0][10:]] == to_dense


def test_ledger_sums(full):
    _, document, text = full
    sums = {r[0].strip(): [cell.strip() for cell in r[1:]] for r in Page(text).rows if r}
    total = sum(entry["seconds"] for entry in document["ledger"])
    fresh = sum(entry["seconds"] for entry in document["ledger"] if not entry["cached"])
    assert (total, fresh) == (543.0, 463.0)
    assert sums["All stages"][0] == "543"
    assert sums["All stages"][-2] == "543 G"
    assert sums["Of which this run"][0] == "463"
    assert text.count(">store<") == 2
    assert text.count(">this run<") == 5


def test_every_finding_is_on_the_page(full):
    folder, document, text = full
    plain = "".join(Page(text).text)
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    for finding in findings(document):
        assert typeset(finding.text) in plain
        assert escape_markdown(finding.text) in markdown


def test_markdown_links_and_tables(full):
    folder, document, _ = full
    text = (folder / "report.md").read_text(encoding="utf-8")
    links = re.findall(r"!\[[^]]+\]\((.+?)\)", text)
    assert len(links) == 6
    assert all((folder / link).is_file() for link in links)
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(blocks) == 4
    for block in blocks:
        lines = block.splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
        assert re.fullmatch(r"\|( :?-+:? \|)+", lines[1])
    boosting = document["rows"][1]
    share = boosting["pgd20"]["best"]
    cell = f"| {percent(share)} / {percent(boosting['pgd20']['last'])} ({interval(share, 360)}) |"
    assert cell in text


@pytest.mark.parametrize(
    "arguments",
    [
        {"attacks": ()},
        {"kinds": ("boosting", "reinit")},
        {"kinds": ("dense",), "attacks": ()},
        {"kinds": ("random_mask",), "epochs": 1},
    ],
)
def test_partial_documents(tmp_path, make_document, arguments):
    document = make_document(**arguments)
    text = _write(tmp_path, document)
    page = Page(text)
    assert "adversarial_examples" not in {p.stem for p in (tmp_path / "figures").iterdir()}
    assert ("No attack was run" in text) == (not document["attacks"])
    if not any(row["kind"] == "dense" for row in document["rows"]):
        assert all("never" not in cell for row in page.rows for cell in row)
        assert "dotted level" not in text


HOSTILE = "<script>alert('x')</script>|`*_[a](javascript:b)\"&"


def test_hostile_strings_are_text(tmp_path, make_document, make_pictures):
    document = make_document()
    document["settings"]["note"] = HOSTILE
    document["settings"][HOSTILE] = 1
    document["data"]["classes"][0] = HOSTILE
    document["data"]["name"] = document["machine"]["cpu"] = HOSTILE
    document["command"].append(f"--dataset={HOSTILE}\n# heading")
    document["ledger"][0]["label"] = HOSTILE
    document["layers"]["boosting"][0]["layer"] = HOSTILE
    for row in document["rows"]:
        row["dataset"] = row["model"] = HOSTILE
    document["curves"][HOSTILE] = document["curves"].pop("boosting")
    document["rows"][1]["name"] = HOSTILE
    document["layers"][HOSTILE] = document["layers"].pop("boosting")
    text = _write(tmp_path, document, make_pictures(names=[HOSTILE, "one", "two"]))
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert HOSTILE in "".join(page.text)
    assert html.escape("<script>", quote=False) in text
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    prose = "\n".join(line for line in markdown.splitlines() if not line.startswith("    "))
    assert "<script>" not in prose
    assert "\n# heading" not in prose
    assert not re.search(r"(?<!\\)\]\(javascript", prose)


def test_next_steps_are_commands_one_can_paste(tmp_path, make_document):
    folder = tmp_path / "my runs"
    folder.mkdir()
    text = "".join(Page(_write(folder, make_document())).text)
    for command in ("--mode=evaluate", "--mode=inspect", "--mode=report", "tensorboard"):
        assert command in text
    assert f"'--ticket={folder}/tickets/boosting'" in text
    assert f"'--model_path={folder}/saved_model/boosting'" in text
    assert "--eval_eps=0.1" in text


def test_report_is_reproducible_and_replaced_as_a_whole(tmp_path, make_document, monkeypatch):
    before = _write(tmp_path, make_document())
    assert write_report(tmp_path).read_text(encoding="utf-8") == before
    write_results(tmp_path / "results.json", make_document(("dense",)))
    replace = os.replace

    def fail(source, target):
        if str(target).endswith(".html"):
            raise OSError("disk gone")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk gone"):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("attacks", "words"), [(("fgsm", "pgd20"), "worst of fgsm, pgd20"), (("pgd20",), "pgd20")]
)
def test_what_robust_means_is_explained(tmp_path, make_document, attacks, words):
    plain = "".join(Page(_write(tmp_path, make_document(attacks=attacks))).text)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"“Robust” on test images, in the findings, is {words}." in plain
    assert f'"Robust" on test images, in the findings, is {words}.' in markdown
    for text in (plain, markdown):
        assert ("when clean and under every" in text) == (len(attacks) > 1)


def test_a_recorded_search_cost_is_named_as_such(tmp_path, make_document):
    document = make_document()
    note = "Search cost of boosting: as recorded in the given ticket."
    assert note not in _write(tmp_path, document)
    assert note not in (tmp_path / "report.md").read_text(encoding="utf-8")
    document["rows"][1]["search_source"] = "ticket"
    assert note in _write(tmp_path, document)
    assert note in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_captions_assert_no_outcome(make_document):
    found = captions(make_document(), None)
    assert "A boosting ticket would show as a line that rises" in found["accuracy_per_epoch"].text
    text = " ".join(caption.text for caption in found.values())
    assert not re.search(r"it rises|ticket shows|ticket pays", text)


def test_typesetting():
    assert typeset("-0.3 points, [-5.9, 5.5], 95 % of it's best-epoch pgd-20") == (
        "−0.3 points, [−5.9,\N{NO-BREAK SPACE}5.5], 95\N{NO-BREAK SPACE}% of it’s best-epoch pgd-20"
    )


def test_reporting_needs_no_tensorflow():
    code = (
        "import json, sys, tf_lottery.report; "
        "print(json.dumps([m in sys.modules for m in ('tensorflow', 'matplotlib.pyplot')]))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert json.loads(answer.stdout) == [False, False]


def test_optional_facts_are_shown(tmp_path, make_document, make_pictures):
    document = make_document()
    document["machine"]["devices"] = ["CPU", "GPU"]
    pictures = make_pictures() | {"model": np.array("boosting"), "attack": np.array("pgd20")}
    plain = "".join(Page(_write(tmp_path, document, pictures)).text)
    assert "CPU, GPU" in plain
    assert "pgd20 against boosting. The first 3 of the stored pictures" in plain
