"""Files that somebody was sent: clean errors, nothing run, nothing escaped, nothing huge made."""

import copy
import dataclasses
import json
import os
import random
import shutil
import string
import tracemalloc
import types
from pathlib import Path

import numpy as np
import pytest

from tf_lottery.engine.store import read_manifest, verify
from tf_lottery.errors import LotteryError, TicketError
from tf_lottery.files import document_digest
from tf_lottery.main import main
from tf_lottery.options import command as flags
from tf_lottery.options.flags import TOPICS
from tf_lottery.report import robustness
from tf_lottery.report.results import read_results
from tf_lottery.report.study import write_report
from tf_lottery.tickets import NetworkSpec, Ticket

GOLDEN = Path(__file__).parent / "golden" / "0.1.0"
STAGE = next((GOLDEN / "stages").glob("train-*"))
ODD = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**400, 1e308, -0.0, float("nan"), float("inf"),
    "", "x" * 10_000, "../../etc/passwd", "/etc/passwd", "a\x00b", "\ud800", "<script>", [], {},
    [[]], {"": {}}, [1e9] * 50, {"format": 1},
]  # fmt: skip


def spots(tree, path=()):
    """Where in a JSON tree a value may be replaced."""
    yield path
    items = []
    if isinstance(tree, (dict, list)):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield from spots(value, (*path, key))


def mutated(tree, choose):
    """A copy with one to three values replaced, removed or moved."""
    tree = copy.deepcopy(tree)
    for _ in range(choose.randint(1, 3)):
        path = choose.choice(list(spots(tree)))
        if not path:
            return copy.deepcopy(choose.choice(ODD))
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        how = choose.randrange(4)
        if how == 0 and isinstance(parent, dict):
            del parent[path[-1]]
        elif how == 1 and isinstance(parent, dict):
            parent[choose.choice(["__class__", "../x", "extra"])] = parent.pop(path[-1])
        else:
            parent[path[-1]] = copy.deepcopy(choose.choice(ODD))
    return tree


def spoilt(content, choose):
    """Bytes with a few changed, removed or repeated."""
    content = bytearray(content)
    for _ in range(choose.randint(1, 4)):
        at = choose.randrange(len(content) + 1)
        how = choose.randrange(4)
        if how == 0:
            content[at : at + 1] = choose.randbytes(choose.randint(0, 4))
        elif how == 1:
            del content[at : at + choose.randint(1, 40)]
        elif how == 2:
            content[at:at] = content[: choose.randint(0, 60)]
        else:
            content[at:at] = choose.choice([b"[" * 5000, b'{"a":' * 2000, b"\xff", b"1e999", b"\0"])
    return bytes(content)


def written(path, tree, choose, digest):
    """A mutated document, half of them with a digest that fits; or spoilt bytes."""
    if choose.random() < 0.4:
        path.write_bytes(spoilt(json.dumps(tree).encode(), choose))
        return
    tree = mutated(tree, choose)
    if digest and isinstance(tree, dict) and choose.random() < 0.7:
        rest = {name: value for name, value in tree.items() if name != digest}
        tree[digest] = document_digest(rest)
    path.write_text(json.dumps(tree))


class Readers:
    """Each reads one damaged file of its kind; only ``LotteryError`` may come out."""

    def __init__(self, place):
        self.place = place
        shutil.copytree(GOLDEN / "ticket", place / "ticket")
        self.ticket_json = json.loads((GOLDEN / "ticket" / "ticket.json").read_text())
        self.masks = (GOLDEN / "ticket" / "masks.npz").read_bytes()
        self.manifest_json = json.loads((STAGE / "manifest.json").read_text())
        names = ("results.json", "experiment.json", "evaluation/evaluation.json")
        self.documents = {name: json.loads((GOLDEN / name).read_text()) for name in names}

    def ticket(self, choose):
        home = self.place / "ticket"
        (home / "masks.npz").write_bytes(self.masks)
        if choose.random() < 0.25:
            (home / "ticket.json").write_text(json.dumps(self.ticket_json))
            (home / "masks.npz").write_bytes(spoilt(self.masks, choose))
        else:
            written(home / "ticket.json", self.ticket_json, choose, "document_digest")
        Ticket.load(home)

    def manifest(self, choose):
        path = self.place / "manifest.json"
        written(path, self.manifest_json, choose, "")
        key = types.SimpleNamespace(key=self.manifest_json["key"])
        found = read_manifest(path.read_bytes(), path, key)
        for name in [*self.manifest_json["files"], "../ticket/ticket.json"]:
            verify(STAGE, found, name)

    def document(self, choose):
        name, tree = choose.choice(list(self.documents.items()))
        path = self.place / "document.json"
        written(path, tree, choose, "document_digest")
        read = read_results if "/" not in name else robustness.read_evaluation
        read(path)

    def flag(self, choose):
        names = [name for topic in TOPICS.values() for name in topic]
        values = [
            *map(str, ODD[:14]), "8/255", "1/0", "pgd10,cw", "a,b,,", "--seed=1", "=", "\n", "%s",
            "".join(choose.choices(string.printable, k=12)), "1e400", "-5", "true", "\ud800",
        ]  # fmt: skip
        words = []
        for _ in range(choose.randint(1, 6)):
            word = f"--{choose.choice(['', 'no'])}{choose.choice(names)}"
            words.append(word + choose.choice(["", "=" + choose.choice(values)]))
        if choose.random() < 0.3:
            path = self.place / "fuzz.flags"
            path.write_bytes("\n".join(words).encode(errors="surrogatepass"))
            if choose.random() < 0.3:
                path.write_bytes(spoilt(path.read_bytes(), choose))
            words = [f"--flagfile={path}"]
        command = flags.parse(words)
        if not isinstance(command, str):
            command.config()


def fuzz(place, cases, seed):
    """Cases by reader, and how many were refused."""
    readers, choose = Readers(place), random.Random(seed)
    kinds = [readers.ticket, readers.manifest, readers.document, readers.flag]
    counts = {kind.__name__: [0, 0] for kind in kinds}
    for case in range(cases):
        kind = kinds[case % len(kinds)]
        counts[kind.__name__][0] += 1
        try:
            kind(choose)
        except LotteryError as error:
            counts[kind.__name__][1] += 1
            said = str(error)
            assert "\n" not in said.strip() or kind is readers.flag, said
        except Exception as error:
            raise AssertionError(f"seed {seed}, case {case}, {kind.__name__}") from error
    return counts


def test_only_clean_errors(tmp_path):
    counts = fuzz(tmp_path, 2000, seed=0)
    assert all(refused > 100 for _, refused in counts.values()), counts


@pytest.mark.slow
def test_only_clean_errors_in_fifty_thousand_cases(tmp_path):
    print(fuzz(tmp_path, 50_000, seed=1))


def repaired(home, **changes):
    """A ticket with other entries and a digest of its document that fits."""
    document = json.loads((home / "ticket.json").read_text())
    document |= changes
    rest = {name: value for name, value in document.items() if name != "document_digest"}
    document["document_digest"] = document_digest(rest)
    (home / "ticket.json").write_text(json.dumps(document))


@pytest.fixture
def ticket(tmp_path):
    shutil.copytree(GOLDEN / "ticket", tmp_path / "ticket")
    return tmp_path / "ticket"


@pytest.mark.parametrize(
    "network",
    [
        {"width_multiplier": 1e9},
        {"input_shape": [2**20, 2**20, 3]},
        {"num_classes": 2**40},
        {"name": "wide_resnet", "depth": 34, "width": 10**7},
    ],
)
def test_a_small_ticket_cannot_ask_for_a_huge_network(ticket, network):
    """All digests fit; what is too large is refused before it is made."""
    document = json.loads((ticket / "ticket.json").read_text())
    loaded = Ticket.load(ticket)
    spec = NetworkSpec.from_json(document["network"] | network)
    repaired(ticket, network=spec.to_json(), digest=dataclasses.replace(loaded, spec=spec).digest)
    claimed = Ticket.load(ticket)  # masks alone
    assert main(["--mode=inspect", f"--ticket={ticket}"]) == 0
    tracemalloc.start()
    with pytest.raises(TicketError, match="masks are not those of its network"):
        claimed.network()
    assert tracemalloc.get_traced_memory()[1] < 2e8
    tracemalloc.stop()


def test_a_mask_cannot_claim_more_than_it_holds(ticket):
    document = json.loads((ticket / "ticket.json").read_text())
    shapes = {**document["shapes"], "conv1": [2**11, 2**11, 2**5, 2**5]}
    repaired(ticket, shapes=shapes)
    with pytest.raises(TicketError):
        Ticket.load(ticket)


@pytest.mark.parametrize("name", ["../masks.npz", "/etc/passwd", "rewind.npz/../../x", "other.npz"])
def test_a_ticket_names_its_own_files_alone(ticket, name):
    document = json.loads((ticket / "ticket.json").read_text())
    repaired(ticket, files={**document["files"], name: "0" * 64})
    with pytest.raises(TicketError, match="names the files"):
        Ticket.load(ticket)


def test_a_pickle_is_not_opened(ticket, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    np.savez(ticket / "masks.npz", conv1=np.array([Evil()], dtype=object))
    content = (ticket / "masks.npz").read_bytes()
    import hashlib

    repaired(ticket, files={"masks.npz": hashlib.sha256(content).hexdigest()})
    with pytest.raises(TicketError):
        Ticket.load(ticket)
    assert not (tmp_path / "run").exists()


def test_a_stage_does_not_lead_out_of_its_directory(tmp_path):
    shutil.copytree(STAGE, tmp_path / STAGE.name)
    home = tmp_path / STAGE.name
    (home / "best.npz").unlink()
    (home / "best.npz").symlink_to(STAGE / "best.npz")
    manifest = json.loads((home / "manifest.json").read_text())
    with pytest.raises(LotteryError, match=r"best\.npz"):
        verify(home, manifest, "best.npz")
    with pytest.raises(LotteryError):
        verify(home, manifest, "../secret")


def scripted(tree):
    """Every text with a script in it, but for words that are looked up."""
    if isinstance(tree, dict):
        return {key: scripted(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [scripted(value) for value in tree]
    return f"{tree}<script>alert(1)</script>" if isinstance(tree, str) else tree


def check_escaped(place):
    html = (place / "report.html").read_text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html
    text = (place / "report.md").read_text().split("```")
    prose = "".join(text[::2])  # what stands in a block of code is shown as it is
    prose = "\n".join(line for line in prose.splitlines() if not line.startswith("    "))
    assert "<script>alert" not in prose


def test_a_report_escapes_what_results_say(tmp_path):
    document = json.loads((GOLDEN / "results.json").read_text())
    for part in ("command", "machine", "settings"):
        document[part] = scripted(document[part])
    for row in document["rows"]:
        for name in ("model", "dataset"):
            row[name] = scripted(row[name])
    for entry in document["ledger"]:
        entry["stage"] = scripted(entry["stage"])
    (tmp_path / "results.json").write_text(json.dumps(document))
    shutil.copy(GOLDEN / "pictures.npz", tmp_path)
    write_report(tmp_path)
    check_escaped(tmp_path)


def test_a_report_escapes_what_an_evaluation_says(tmp_path):
    document = json.loads((GOLDEN / "evaluation" / "evaluation.json").read_text())
    for part in ("command", "machine"):
        document[part] = scripted(document[part])
    for model in document["models"]:
        for name in ("what", "digest"):
            model[name] = scripted(model[name])
    for checks in document["diagnosis"].values():
        for check in checks:
            check["text"] = scripted(check["text"])
    (tmp_path / "evaluation.json").write_text(json.dumps(document))
    robustness.write_robustness_report(tmp_path)
    check_escaped(tmp_path)


def test_a_report_escapes_what_an_experiment_says(tmp_path):
    document = json.loads((GOLDEN / "experiment.json").read_text())
    for part in ("command", "machine", "scale"):
        document[part] = scripted(document[part])
    for name in ("source", "title", "question", "paper"):
        document["experiment"][name] = scripted(document["experiment"][name])
    for claim in document["claims"]:
        for name in ("text", "paper"):
            claim[name] = scripted(claim[name])
    for entry in document["ledger"]:
        entry["stage"] = scripted(entry["stage"])
    (tmp_path / "experiment.json").write_text(json.dumps(document))
    write_report(tmp_path)
    check_escaped(tmp_path)


def test_a_flagfile_cannot_include_itself_for_ever(tmp_path):
    path = tmp_path / "loop.flags"
    path.write_text(f"--flagfile={path}\n--seed=1\n")
    command = flags.parse([f"--flagfile={path}"])  # absl skips what it is reading already
    assert command.options["seed"] == 1
