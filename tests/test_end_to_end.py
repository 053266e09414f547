"""The main job from the command line to what lies in the work directory."""

import contextlib
import io
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tf_lottery import files, weights
from tf_lottery.engine.store import seal
from tf_lottery.main import main
from tf_lottery.tickets import Ticket

KINDS = ("dense", "boosting", "reinit", "random_mask", "winning")
SETTINGS = [
    "--dataset=digits",
    "--width_multiplier=0.25",
    "--epochs=2",
    "--search_epochs=1",
    "--eps=0.15",
    "--steps=3",
    "--test_examples=120",
    "--attacks=fgsm,pgd20",
    "--validation_attack=pgd3",
]
COMPARE = f"--compare={','.join(KINDS)}"
# Documented in docs and DESIGN; each attack adds its own key.
ROW_KEYS = {
    "name", "kind", "model", "dataset", "seed", "density", "natural", "fgsm", "pgd20", "epochs",
    "search_seconds", "train_seconds", "search_flops", "train_flops", "total_over_dense",
    "best_epoch", "test_examples", "total_flops_over_dense", "epochs_to_dense",
    "seconds_to_dense_over_dense", "flops_to_dense_over_dense", "search_source", "worst",
    "search_passes", "train_passes", "curve",
}  # fmt: skip
OPTIONAL = {"layers", "break_even", "stopped"}  # of tickets; left out where they say nothing


def run(*arguments):
    """Exit code and standard output of a command line in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main([*arguments])
    return code, out.getvalue()


def manifests(store):
    return {path.parent.name: path.stat().st_mtime_ns for path in store.glob("*/manifest.json")}


@dataclass
class Done:
    workdir: Path
    out: str
    document: dict = field(default_factory=dict)

    @property
    def arguments(self):
        return [*SETTINGS, COMPARE, f"--workdir={self.workdir}"]

    def row(self, kind):
        return next(row for row in self.document["rows"] if row["name"] == kind)

    def stage(self, label):
        """Directory of the finished stage of that label."""
        (found,) = (
            path.parent
            for path in (self.workdir / "stages").glob("*/manifest.json")
            if json.loads(path.read_text())["label"] == label
        )
        return found


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "w"
    code, out = run(*SETTINGS, COMPARE, f"--workdir={workdir}")
    assert code == 0
    return Done(workdir, out, json.loads((workdir / "results.json").read_text()))


@pytest.fixture
def copied(done, tmp_path):
    """The same, for tests that change it."""
    shutil.copytree(done.workdir, tmp_path / "w")  # keeps the times of the files
    return Done(tmp_path / "w", done.out, done.document)


def test_results_have_exactly_the_documented_keys(done):
    rows = done.document["rows"]
    assert [row["name"] for row in rows] == list(KINDS)
    for row in rows:
        assert set(row) - OPTIONAL == ROW_KEYS
        assert ("layers" in row) == (row["kind"] != "dense")
        assert row["kind"] == row["name"]
        assert (row["model"], row["dataset"], row["seed"]) == ("convnet-w0.25", "digits", 0)
        assert row["epochs"] == 2
        for accuracy in (row["natural"], row["fgsm"], row["pgd20"]):
            assert set(accuracy) == {"best", "last"}
            assert all(0 <= value <= 1 for value in accuracy.values())
        assert row["pgd20"]["best"] <= row["natural"]["best"]
        assert row["natural"]["best"] > 0.3
    assert done.document["settings"]["prune"]["sparsity"] == 0.8
    kept = [word for word in done.arguments if not word.startswith("--workdir")]
    assert sorted(done.document["command"]) == sorted(kept)


def test_what_a_run_leaves(done):
    w = done.workdir
    for name in ("results.json", "report.html", "report.md", "pictures.npz"):
        assert (w / name).stat().st_size > 0
    assert len(list((w / "figures").glob("*.png"))) >= 4
    assert {p.name for p in (w / "tickets").iterdir()} == set(KINDS) - {"dense"}
    assert {p.name for p in (w / "saved_model").iterdir()} == set(KINDS)
    for kind in KINDS:
        assert (w / "saved_model" / kind / "saved_model.pb").is_file()
        assert (w / "saved_model" / kind / "metadata.json").is_file()
    logs = {p.name for p in (w / "tensorboard").iterdir()}
    searches = {"search-boosting", "search-winning"}
    assert logs == searches | {"report"} | {f"train-{kind}" for kind in KINDS}
    for name in logs:
        assert list((w / "tensorboard" / name).glob("events*"))
    assert not [p for p in w.rglob("*") if p.name.endswith((".new", ".tmp"))]
    assert [p.name for p in w.iterdir() if p.name.startswith(".")] == [".lock"]


def test_the_terminal_shows_a_table_and_the_places(done):
    for kind in KINDS:
        assert any(line.startswith(kind) for line in done.out.splitlines())
    for place in ("report.html", "results.json", "saved_model", "tickets", "tensorboard"):
        assert f"{done.workdir}/{place}" in done.out


def test_densities(done):
    for kind in KINDS[1:]:
        ticket = Ticket.load(done.workdir / "tickets" / kind)
        kept = sum(int(mask.sum()) for mask in ticket.masks.values())
        total = sum(mask.size for mask in ticket.masks.values())
        assert kept == round(0.2 * total)
        assert done.row(kind)["density"] == kept / total
    assert done.row("dense")["density"] == 1


def test_tickets_rewind_to_the_masked_initial_weights(done):
    tickets = {kind: Ticket.load(done.workdir / "tickets" / kind) for kind in KINDS[1:]}
    initial = weights.read_arrays(done.stage("initialise (init)") / "weights.npz")
    fresh = weights.read_arrays(done.stage("initialise (reinit)") / "weights.npz")
    for kind, ticket in tickets.items():
        start = fresh if kind == "reinit" else initial
        rewound = weights.get_weights(ticket.network().network)
        assert set(rewound) == set(start)
        for name, value in rewound.items():
            layer, variable = name.split("/")
            if variable == "kernel":
                np.testing.assert_array_equal(value, start[name] * ticket.masks[layer])
            elif variable.startswith("moving"):
                np.testing.assert_array_equal(value, start[name])
    assert any((initial[n] != fresh[n]).any() for n in initial if n.endswith("kernel"))


def test_masks_of_the_comparisons(done):
    tickets = {kind: Ticket.load(done.workdir / "tickets" / kind) for kind in KINDS[1:]}
    boosting, random = tickets["boosting"].masks, tickets["random_mask"].masks
    for layer, mask in boosting.items():
        np.testing.assert_array_equal(mask, tickets["reinit"].masks[layer])
        assert random[layer].sum() == mask.sum()
    assert any((random[layer] != boosting[layer]).any() for layer in boosting)
    assert any((tickets["winning"].masks[layer] != boosting[layer]).any() for layer in boosting)
    for kind in ("reinit", "random_mask"):
        assert tickets[kind].parent == tickets["boosting"].digest
        assert tickets[kind].found["control"] == kind


def test_the_masks_are_the_largest_normalised_magnitudes_of_the_search(done):
    trained = weights.read_arrays(done.stage("search: boosting") / "final.npz")
    masks = Ticket.load(done.workdir / "tickets" / "boosting").masks
    scores = {}
    for layer in masks:
        magnitude = np.abs(trained[f"{layer}/kernel"].astype(np.float64))
        scores[layer] = magnitude / magnitude.mean()
    lowest_kept = min(scores[layer][mask].min() for layer, mask in masks.items())
    highest_gone = max(scores[layer][~mask].max() for layer, mask in masks.items())
    assert lowest_kept >= highest_gone


def test_weights_of_trained_tickets_stay_zero(done):
    for kind in KINDS[1:]:
        masks = Ticket.load(done.workdir / "tickets" / kind).masks
        for file in ("best.npz", "final.npz"):
            values = weights.read_arrays(done.stage(f"train: {kind}") / file)
            for layer, mask in masks.items():
                assert not values[f"{layer}/kernel"][~mask].any()
                assert values[f"{layer}/kernel"][mask].any()


def test_saved_models_have_the_tickets_zeros_and_the_best_weights(done):
    from tf_lottery.keras import tf

    for kind in KINDS:
        folder = done.workdir / "saved_model" / kind
        model = tf.saved_model.load(str(folder))
        best = weights.read_arrays(done.stage(f"train: {kind}") / "best.npz")
        for layer, kernel in model.kernels.items():
            np.testing.assert_array_equal(kernel.numpy(), best[f"{layer}/kernel"])
        metadata = json.loads((folder / "metadata.json").read_text())
        zeros = 1 - metadata["nonzero_weights"] / metadata["weights"]
        assert zeros == pytest.approx(1 - done.row(kind)["density"], abs=1e-3)
        if kind == "dense":
            assert metadata["ticket"] is None
        else:
            digest = Ticket.load(done.workdir / "tickets" / kind).digest
            assert metadata["ticket"]["digest"] == digest


def test_a_second_run_only_prints(done):
    before = manifests(done.workdir / "stages")
    files = {p: p.stat().st_mtime_ns for p in done.workdir.rglob("*") if p.is_file()}
    code, out = run(*done.arguments)
    assert code == 0
    assert "nothing was run" in out
    assert manifests(done.workdir / "stages") == before
    assert {p: p.stat().st_mtime_ns for p in done.workdir.rglob("*") if p.is_file()} == files
    table = [line for line in done.out.splitlines() if line.startswith(("model", *KINDS))]
    assert set(table) <= set(out.splitlines())


def test_deleted_results_are_rebuilt_without_any_work(copied):
    before = manifests(copied.workdir / "stages")
    (copied.workdir / "results.json").unlink()
    code, _ = run(*copied.arguments)
    assert code == 0
    assert manifests(copied.workdir / "stages") == before
    again = json.loads((copied.workdir / "results.json").read_text())
    assert again["rows"] == copied.document["rows"]
    assert again["searches"] == copied.document["searches"]
    assert all(entry["cached"] for entry in again["ledger"])


@pytest.mark.parametrize("name", ["tickets", "saved_model", "tensorboard", "report.md"])
def test_deleted_outputs_are_rebuilt_without_any_work(copied, name):
    before = manifests(copied.workdir / "stages")
    path = copied.workdir / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    code, _ = run(*copied.arguments)
    assert code == 0
    assert path.exists()
    assert manifests(copied.workdir / "stages") == before


def test_another_sparsity_reuses_the_searches(copied, tmp_path):
    store = copied.workdir / "stages"
    before = manifests(store)
    code, out = run(
        *SETTINGS,
        "--compare=boosting,winning",
        "--sparsity=0.6",
        f"--store={store}",
        f"--workdir={tmp_path}/other",
    )
    assert code == 0
    after = manifests(store)
    assert {name: after[name] for name in before} == before
    new = [json.loads((store / n / "manifest.json").read_text()) for n in set(after) - set(before)]
    assert {m["kind"] for m in new} == {"prune", "train", "evaluate", "attack", "export"}
    assert not [m["label"] for m in new if "search" in m["label"]]
    assert "search" not in "".join(line for line in out.splitlines() if line.startswith("["))
    document = json.loads((tmp_path / "other" / "results.json").read_text())
    for row in document["rows"]:
        assert row["density"] == pytest.approx(0.4, abs=1e-3)
        assert row["search_seconds"] == copied.row(row["name"])["search_seconds"]
        assert row["total_over_dense"] is None  # no dense baseline to compare with
    # The shared search's logs are here too.
    assert (tmp_path / "other" / "tensorboard" / "train-boosting").is_dir()
    assert not (tmp_path / "other" / "stages").exists()


def test_a_given_ticket_is_trained_instead_of_searched(done, tmp_path):
    given = done.workdir / "tickets" / "boosting"
    arguments = [
        *SETTINGS, "--compare=boosting", f"--ticket={given}", f"--workdir={tmp_path}/w",
    ]  # fmt: skip
    code, out = run(*arguments)
    assert code == 0
    assert "search" not in "".join(line for line in out.splitlines() if line.startswith("["))
    (row,) = json.loads((tmp_path / "w" / "results.json").read_text())["rows"]
    # What the ticket says its search cost.
    assert row["search_source"] == "ticket"
    assert row["search_flops"] == done.row("boosting")["search_flops"] > 0
    assert row["search_seconds"] == pytest.approx(done.row("boosting")["search_seconds"])
    assert row["density"] == done.row("boosting")["density"]
    ours = Ticket.load(tmp_path / "w" / "tickets" / "boosting")
    assert ours.digest == Ticket.load(given).digest
    # The same ticket, data, seed and schedule: the same network up to rounding.
    assert row["natural"]["last"] == pytest.approx(done.row("boosting")["natural"]["last"], abs=0.1)
    # Without the ticket it is another run.
    assert run(*[a for a in arguments if "--ticket" not in a])[0] == 1


# The other modes --------------------------------------------------------------


def test_plan_creates_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out = run(*SETTINGS, COMPARE, "--mode=plan", "--workdir=fresh")
    assert code == 0
    assert list(tmp_path.iterdir()) == []
    assert "28 of 28 stages to do" in out
    assert "search: boosting" in out
    # One FGSM epoch of two searches (5F) and five PGD-3 trainings of two epochs (9F).
    ratio = (2 * 5 * 1 + 5 * 9 * 2) / (9 * 2)
    assert f"all training together: {ratio:.2f} x" in out


def test_plan_knows_what_is_finished(done):
    before = manifests(done.workdir / "stages")
    code, out = run(*done.arguments, "--mode=plan")
    assert code == 0
    assert "0 of 28 stages to do" in out
    assert manifests(done.workdir / "stages") == before
    code, out = run(*done.arguments, "--mode=plan", "--sparsity=0.6")
    assert code == 0
    # Of 28, what is before the pruning is there: 2 inits, 2 searches, dense's 4 others.
    assert "20 of 28 stages to do" in out


def test_export_of_a_training_stage(done, tmp_path):
    from tf_lottery.keras import tf

    stage = done.stage("train: boosting")
    target = tmp_path / "deep" / "exported"
    code, out = run("--mode=export", f"--model_path={stage}", f"--export_dir={target}")
    assert code == 0
    assert "80.0%" in out
    best = weights.read_arrays(stage / "best.npz")
    for layer, kernel in tf.saved_model.load(str(target)).kernels.items():
        np.testing.assert_array_equal(kernel.numpy(), best[f"{layer}/kernel"])
    # It never writes over something.
    before = {p: p.stat().st_mtime_ns for p in target.rglob("*")}
    assert run("--mode=export", f"--model_path={stage}", f"--export_dir={target}")[0] == 2
    assert {p: p.stat().st_mtime_ns for p in target.rglob("*")} == before


def test_export_of_a_ticket(done, tmp_path):
    target = tmp_path / "exported"
    ticket = done.workdir / "tickets" / "boosting"
    assert run("--mode=export", f"--ticket={ticket}", f"--export_dir={target}")[0] == 0
    metadata = json.loads((target / "metadata.json").read_text())
    assert metadata["ticket"]["digest"] == Ticket.load(ticket).digest
    assert metadata["nonzero_weights"] == Ticket.load(ticket).weights_kept


def test_inspection_tells_provenance_density_and_digests(done):
    path = done.workdir / "tickets" / "boosting"
    code, out = run("--mode=inspect", f"--ticket={path}")
    assert code == 0
    ticket = Ticket.load(path)
    assert ticket.digest in out
    assert ticket.init_digest in out
    assert "search: boosting" in out or "prune: boosting" in out
    assert "fgsm" in out
    for layer in ticket.layers:
        assert any(
            line.split()[:2] == [layer["layer"], f"{layer['kept']:,}"] for line in out.splitlines()
        )


def test_reports_are_rebuilt_from_the_results(copied):
    report = copied.workdir / "report.html"
    report.unlink()
    for picture in (copied.workdir / "figures").glob("*.png"):
        picture.unlink()
    code, out = run("--mode=report", f"--workdir={copied.workdir}")
    assert code == 0
    assert report.stat().st_size > 10_000
    assert list((copied.workdir / "figures").glob("*.png"))
    assert "boosting" in out


def test_other_images_of_the_same_name_are_noticed(copied):
    for path in copied.workdir.glob("stages/train-*/network.json"):
        document = json.loads(path.read_text())
        files.write_json(path, document | {"data_digest": "0" * 64})
        manifest = json.loads((path.parent / "manifest.json").read_text())
        manifest["files"][path.name] = path.stat().st_size
        manifest["sha256"][path.name] = files.digest(path)
        files.write_json(path.parent / "manifest.json", seal(manifest))
    (copied.workdir / "report.md").unlink()  # so that there is something to do
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        code, _ = run(*SETTINGS, COMPARE, f"--workdir={copied.workdir}")
    assert code == 1
    assert "trained on other images named digits" in err.getvalue()


def test_the_worst_case_is_no_better_than_any_attack(done):
    for row in done.document["rows"]:
        for which in ("best", "last"):
            assert row["worst"][which] <= min(row["fgsm"][which], row["pgd20"][which])
