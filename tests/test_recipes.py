"""The recipes of CONTRIBUTING.md, executed: its modules, its commands, its changes."""

import dataclasses
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import TINY, stage

import tf_lottery
from tf_lottery import models, weights
from tf_lottery.engine.stage import in_order
from tf_lottery.engine.store import Store
from tf_lottery.lottery.graph import make_entry
from tf_lottery.lottery.resources import Resources
from tf_lottery.main import main
from tf_lottery.options.build import lottery_config
from tf_lottery.options.settings import fingerprint
from tf_lottery.tickets import Ticket

ROOT = Path(tf_lottery.__file__).parents[1]
HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What stands in one: files by name, commands as arguments, changes as lines by file."""

    files: dict[str, str]
    commands: list[list[str]]
    changes: list[tuple[str, list[str]]]


def read_recipes(name, heading):
    text = (ROOT / name).read_text()
    text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = {}
    for section in text.split("\n### ")[1:]:
        title, recipe = section.partition("\n")[0], Recipe({}, [], [])
        for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", section, re.M | re.S):
            if language == "python" and (file := re.match(r"# (\S+\.py)\n", block)):
                recipe.files[file[1]] = block
            elif language == "sh" and block.startswith(("PYTHONPATH=. ", ".venv/bin/tf_lottery ")):
                words = shlex.split(block.replace("\\\n", ""))
                recipe.commands.append(words[words.index(".venv/bin/tf_lottery") + 1 :])
            elif language == "diff":
                first, *lines = block.splitlines()
                recipe.changes.append((first.removeprefix("--- "), lines))
        found[title] = recipe
    return found


RECIPES = read_recipes("CONTRIBUTING.md", "Recipes")
README = read_recipes("README.md", "What to do next")


def changed(text, lines):
    """A file's text after the change; what is not new must stand in it once."""
    old, new = (
        "".join(f"{line[1:]}\n" for line in lines if line[:1] in kept or not line)
        for kept in ((" ", "-"), (" ", "+"))
    )
    assert text.count(old) == 1, old
    return text.replace(old, new)


@pytest.fixture
def follow(tmp_path, monkeypatch):
    """Writes a recipe's modules, runs its command on a tiny network; gives the work directory."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (tmp_path, ROOT, HERE / "engine"))))
    monkeypatch.setattr(models, "_allowed", set())
    monkeypatch.chdir(tmp_path)

    def follow(recipe):
        for name, text in recipe.files.items():
            if "/" not in name:
                Path(name).write_text(text)
                monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
        for command in recipe.commands:
            assert main([*TINY, *command]) == 0
        return tmp_path / command[-1].removeprefix("--workdir=") if recipe.commands else None

    return follow


def rows(workdir):
    found = json.loads((workdir / "results.json").read_text())["rows"]
    return {row["name"]: row for row in found}


def tiny(**options):
    """The settings of ``TINY``."""
    given = dict(word.removeprefix("--").split("=") for word in TINY)
    numbers = {k: float(v) if "." in v else int(v) for k, v in given.items() if v[:1].isdigit()}
    natural = {"objective": "natural", "search_objective": "natural"}
    return lottery_config(**{**natural, **numbers, "attacks": (), **options})


def test_every_recipe_is_followed_here():
    titles = {
        "A model", "An attack", "An objective", "A pruning score", "A ticket finder",
        "Masks that change", "A data set", "An option", "An executor",
    }  # fmt: skip
    assert set(RECIPES) == titles
    assert all(recipe.files or recipe.changes for recipe in RECIPES.values())
    listed = re.findall(r"^\| \[(.+?)\]\(#", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    assert [name.capitalize() for name in listed] == list(RECIPES)


def test_a_model(follow):
    workdir = follow(RECIPES["A model"])
    assert rows(workdir)["dense"]["model"] == "my_models.mlp"
    final = weights.read_arrays(stage(workdir, "train: dense")[0] / "final.npz")
    assert {name: value.shape for name, value in final.items()} == {
        "dense/kernel": (64, 256),
        "dense/bias": (256,),
        "dense_1/kernel": (256, 10),
        "dense_1/bias": (10,),
    }


def test_an_attack(follow):
    workdir = follow(RECIPES["An attack"])
    own = importlib.import_module("my_attacks")
    logits = np.array([[3.0, 1.0], [0.5, 2.0]], "float32")
    np.testing.assert_array_equal(own.true_logit(logits, np.array([0, 0])), [-3, -0.5])
    row, names = rows(workdir)["dense"], ("my_attacks:TrueLogit", "my_attacks:Brighter")
    assert all(0 <= row[name]["last"] <= row["natural"]["last"] for name in names)
    directory, manifest = stage(workdir, "evaluate: dense (last epoch)")
    assert [a.get("method") for a in manifest["settings"]["attacks"]] == [None, *names]
    config = tiny(attacks=("pgd10", *names))
    shop = Resources(Store(workdir / "stages"))
    data, network = shop.data(config), shop.network(config)
    final = weights.read_arrays(stage(workdir, "train: dense")[0] / "final.npz")
    weights.set_weights(network, final)
    found = weights.read_arrays(directory / "examples.npz")
    # By hand: ten images between the clean one and one that is brighter by eps.
    x, y = data.test_images / np.float32(255), data.test_labels
    standing = network(x).numpy().argmax(-1) == y
    for i in range(10):
        brighter = np.minimum(x + np.float32((i + 1) / 10 * 8 / 255), 1)
        standing &= network(brighter).numpy().argmax(-1) == y
    np.testing.assert_array_equal(found["prediction_my_attacks:Brighter"] == y, standing)


def test_an_objective(follow):
    workdir = follow(RECIPES["An objective"])
    directory, manifest = stage(workdir, "train: dense")
    assert manifest["settings"]["train"]["objective"]["name"] == "my_objectives:logit_pairing"
    ledger = json.loads((directory / "ledger.json").read_text())
    assert ledger["forward_passes"] == ledger["input_gradient_passes"] == 64 * (2 + 3)
    assert ledger["weight_gradient_passes"] == 64 * 2
    own = importlib.import_module("my_objectives")

    class Step:
        x, y = 0, np.array([1, 0])

        def attack(self):
            return 1

        def logits(self, x):
            return np.array([[[1.0, 2.0], [0.0, 0.0]], [[1.0, 4.0], [0.0, 0.0]]], "float32")[x]

    loss, logits = own.logit_pairing(Step())
    expected = (np.log1p(np.exp(-3)) + np.log(2)) / 2 + 0.5 * 4 / 4
    assert float(loss) == pytest.approx(expected)
    np.testing.assert_array_equal(logits, Step().logits(1))


def kept_and_gone(ticket, scores):
    kept = np.concatenate([scores[layer][mask] for layer, mask in ticket.masks.items()])
    gone = np.concatenate([scores[layer][~mask] for layer, mask in ticket.masks.items()])
    return kept, gone


def test_a_pruning_score(follow, tmp_path):
    follow(RECIPES["A pruning score"])
    (command,) = RECIPES["A pruning score"].commands
    assert "--score=my_scores:taylor" in command
    tickets = {}
    for score in ("my_scores:taylor", "my_scores:rms_magnitude", "magnitude"):
        ticket = tf_lottery.find_ticket(tiny(score=score), tmp_path / "store")
        assert ticket.found["pruning"]["score"] == score
        tickets[score] = ticket
    searched = Store(tmp_path / "store").file(
        make_entry(tiny(), "boosting").ticket.parents["trained"], "final.npz"
    )
    final = weights.read_arrays(searched)
    kernels = {layer: final[f"{layer}/kernel"] for layer in ticket.masks}
    by_hand = {k: np.abs(w) / np.sqrt(np.mean(w.astype(float) ** 2)) for k, w in kernels.items()}
    kept, gone = kept_and_gone(tickets["my_scores:rms_magnitude"], by_hand)
    assert len(kept) == round(0.2 * (len(kept) + len(gone)))
    assert kept.min() >= gone.max() * (1 - 1e-9)
    kept, gone = kept_and_gone(tickets["magnitude"], by_hand)
    assert kept.min() < gone.max()  # or any score would do
    assert tickets["my_scores:taylor"].found["cost"]["forward_passes"] == 64 + 32


def test_a_ticket_finder(follow):
    workdir = follow(RECIPES["A ticket finder"])
    found = rows(workdir)
    assert list(found) == ["dense", "boosting", "my_finders:at_init"]
    assert found["my_finders:at_init"]["search_flops"] == 0 < found["boosting"]["search_flops"]
    ticket = Ticket.load(workdir / "tickets" / "my_finders-at_init")
    initial = ticket.initial_weights()
    scores = {layer: np.abs(initial[f"{layer}/kernel"]) for layer in ticket.masks}
    kept, gone = kept_and_gone(ticket, {k: v / v.mean() for k, v in scores.items()})
    assert len(kept) == round(0.2 * (len(kept) + len(gone)))
    assert kept.min() >= gone.max() * (1 - 1e-6)


def test_masks_that_change(follow):
    workdir = follow(RECIPES["Masks that change"])
    start = Ticket.load(stage(workdir, "prune: sparse start")[0] / "ticket")
    end = Ticket.load(workdir / "tickets" / "my_masks-rigl")
    assert end.weights_kept == start.weights_kept
    assert end.found == {"by": "RigL"}
    new = {layer: mask & ~start.masks[layer] for layer, mask in end.masks.items()}
    assert sum(mask.sum() for mask in new.values()) > start.weights_kept / 10
    for layer, mask in end.masks.items():  # 160 steps: it has changed twice, by a third at most
        assert mask.sum() == start.masks[layer].sum()
        assert new[layer].sum() <= 2 * (mask.sum() // 3)
    directory, _ = stage(workdir, "search: RigL")
    final = weights.read_arrays(directory / "final.npz")
    assert not any(final[f"{layer}/kernel"][~mask].any() for layer, mask in end.masks.items())
    row = rows(workdir)["my_masks:rigl"]
    flops = Resources(None).forward_flops(tiny())
    assert row["search_flops"] == 3 * 40 * 64 * flops
    assert row["search_seconds"] > 0


def test_all_of_the_readmes_own(follow):
    (recipe,) = (recipe for recipe in README.values() if "mine.py" in recipe.files)
    (command,) = recipe.commands
    shorter = ["--width_multiplier=1", *(word for word in command if "epochs" not in word)]
    workdir = follow(dataclasses.replace(recipe, commands=[shorter]))
    found = rows(workdir)
    assert list(found) == ["dense", "boosting", "mine:finder"]
    assert all(row["model"] == "mine.network" for row in found.values())
    assert {"pgd10", "mine:TrueLogit"} <= set(found["dense"])
    flops = 2 * (64 * 64 + 64 * 10)
    assert found["dense"]["train_flops"] == 64 * flops * (2 * 3 + 10 * 2)
    assert found["mine:finder"]["search_flops"] == 32 * flops * 3
    kept = {each["kept"] for row in found.values() for each in row.get("layers", ())}
    assert sum(each["kept"] for each in found["mine:finder"]["layers"]) == round(0.2 * flops / 2)
    assert len(kept) > 2


def test_an_executor(follow, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(HERE / "engine")
    toys = importlib.import_module("toys")
    follow(RECIPES["An executor"])
    run_on_queue = importlib.import_module("my_queue").run_on_queue
    store, record, said = Store(tmp_path / "store"), tmp_path / "record", []
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    make = toys.functools.partial(toys.Worker, store, str(record))
    targets = toys.ten(b=toys.functools.partial(toys.die, times=1))
    found = run_on_queue(targets, store, make, 2, jobs, said.append)
    assert toys.values(store, targets) == toys.TEN
    assert set(found.values()) == {False}
    assert len(toys.processes(record)) == 11  # b died once
    assert any("worker of b ended with -9" in line for line in said)
    assert set(run_on_queue(targets, store, make, 2, jobs, said.append).values()) == {True}


# Changes of the package, made in a copy of it.

GROWN = """
import json, sys
from tf_lottery.main import main
from tf_lottery.options.build import lottery_config
from tf_lottery.options.settings import fingerprint
commands = json.loads(sys.argv[1])
print(json.dumps([fingerprint(lottery_config()), [main(command) for command in commands]]))
"""


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """Runs command lines with every change that the recipes make: all in one process."""
    folder = tmp_path_factory.mktemp("grown")
    shutil.copytree(ROOT / "tf_lottery", folder / "tf_lottery")
    for recipe in RECIPES.values():
        for name, text in recipe.files.items():
            (folder / name).write_text(text)
        for name, lines in recipe.changes:
            path = folder / name
            path.write_text(changed(path.read_text(), lines))
    (folder / "scans").mkdir()
    rng = np.random.default_rng(0)
    arrays = {
        f"{part}_{what}": rng.integers(0, high, shape, np.uint8)
        for part, n in (("train", 96), ("test", 20))
        for what, high, shape in (("images", 256, (n, 8, 8, 1)), ("labels", 2, n))
    }
    np.savez(folder / "scans" / "scans.npz", **arrays)
    common = [*TINY, "--compare=boosting", "--store=store"]
    (scans,), (nesterov,) = RECIPES["A data set"].commands, RECIPES["An option"].commands
    commands = [
        ["--help"],
        [*common, "--workdir=runs/plain"],
        [*common, *nesterov],
        [*common, *scans, "--model=mlp", "--score=rms_magnitude"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", GROWN, json.dumps(commands)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    unchanged, codes = json.loads(done.stdout.splitlines()[-1])
    assert codes == [0] * len(commands), done.stderr
    assert unchanged == fingerprint(lottery_config())  # what people have stays valid
    return folder, done.stdout


def manifests(folder, kind):
    paths = sorted((folder / "store").glob(f"{kind}-*/manifest.json"))
    return [json.loads(path.read_text()) for path in paths]


def test_changes_of_the_package_leave_the_keys_alone(grown):
    folder, _ = grown
    ours = {stage.key for stage in in_order(make_entry(tiny(), "boosting").stages)}
    assert ours <= {path.name.rpartition("-")[2] for path in (folder / "store").iterdir()}


def test_an_option(grown):
    folder, said = grown
    (line,) = (line for line in said.splitlines() if "--[no]nesterov" in line)
    assert line.endswith("Nesterov's momentum. [off]")
    chosen = [m["settings"] for m in manifests(folder, "train") if m["label"] == "train: boosting"]
    with_it = [each for each in chosen if each["train"].get("nesterov") is True]
    assert len(with_it) == 1
    assert len(chosen) == 3
    finals = {}
    for manifest in manifests(folder, "train"):
        given = manifest["settings"]
        if manifest["label"] == "search: boosting" and given["data"]["name"] == "digits":
            path = folder / "store" / f"train-{manifest['key']}" / "final.npz"
            finals["nesterov" in given["train"]] = weights.read_arrays(path)["logits/kernel"]
    assert finals[False].shape == finals[True].shape
    assert not np.array_equal(finals[False], finals[True])


def test_a_data_set_a_built_in_model_and_a_built_in_score(grown):
    folder, _ = grown
    workdir = folder / "runs" / "scans"
    document = json.loads((workdir / "results.json").read_text())
    assert document["data"]["classes"] == ["healthy", "ill"]
    (row,) = document["rows"]
    assert (row["dataset"], row["model"]) == ("scans", "mlp-w0.05")
    pruned = json.loads((workdir / "tickets" / "boosting" / "ticket.json").read_text())
    assert pruned["found"]["pruning"]["score"] == "rms_magnitude"
    # 256 x 0.05 is 13 hidden units.
    assert {each["layer"]: each["weights"] for each in pruned["layers"]} == {
        "dense": 64 * 13,
        "logits": 13 * 2,
    }
