"""When a run reached an accuracy; rows recomputed from the stages' files."""

import json

import numpy as np
import pytest

from tf_lottery.engine.store import Store
from tf_lottery.lottery.graph import entries
from tf_lottery.lottery.totals import accuracy_goal, epochs_to_reach
from tf_lottery.lottery.work import Workshop
from tf_lottery.options.build import lottery_config
from tf_lottery.report import write_report, write_results
from tf_lottery.studies.comparison import is_finished, run_comparison, run_settings
from tf_lottery.tickets import Ticket


def history(*robust, natural=None, seconds=10.0):
    return [
        {
            "epoch": epoch,
            "validation_natural": (natural or robust)[epoch - 1],
            "validation_robust": None if natural else value,
            "seconds": seconds * epoch,  # 10, 20, 30, ...
        }
        for epoch, value in enumerate(robust, 1)
    ]


@pytest.mark.parametrize(
    ("goal", "epochs", "seconds"),
    [
        (0.2, 1, 10),  # the first epoch cannot be interpolated
        (0.1, 1, 10),
        (0.3, 1.5, 10 + 0.5 * 20),
        (0.4, 2, 30),
        (0.5, 3.25, 10 + 20 + 30 + 0.25 * 40),  # from the last epoch, not from the best before
        (1.1, 4, 100),
        (1.2, None, None),
    ],
)
def test_epochs_to_reach_by_hand(goal, epochs, seconds):
    found = epochs_to_reach(history(0.2, 0.4, 0.3, 1.1), goal)
    assert found == pytest.approx((epochs, seconds)) if epochs else found == (None, None)


def test_natural_runs_are_judged_by_clean_accuracy():
    rows = history(0, 0, natural=(0.5, 0.7))
    assert accuracy_goal(rows) == 0.7
    assert epochs_to_reach(rows, 0.6) == pytest.approx((1.5, 20))


def test_the_goal_is_the_best_not_the_last():
    assert accuracy_goal(history(0.2, 0.9, 0.3)) == 0.9
    assert epochs_to_reach(history(0.2, 0.9, 0.3), 0.9) == pytest.approx((2, 30))


# A real run, as small as it can be -------------------------------------------

KINDS = ("dense", "boosting", "reinit")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("comparison")
    config = lottery_config(
        width_multiplier=0.125,
        train_examples=256,
        test_examples=60,
        epochs=2,
        search_epochs=1,
        eps=0.1,
        steps=2,
        attacks=("fgsm", "pgd3"),
        validation_attack="pgd2",
        compare=KINDS,
        seed=5,
    )
    store = Store(workdir / "stages")
    workshop = Workshop(store, workdir / "tensorboard")
    assert not is_finished(config, store, workdir)
    document = run_comparison(config, workshop, workdir)
    write_results(workdir / "results.json", document)
    assert not is_finished(config, store, workdir)  # the report is missing
    write_report(workdir)
    return config, workdir, store, document, entries(config)


def test_a_run_is_finished_afterwards(run):
    config, workdir, store, _, _ = run
    assert is_finished(config, store, workdir)


def test_accuracies_are_those_of_the_stages_examples(run):
    _, _, store, document, chosen = run
    for row, entry in zip(document["rows"], chosen, strict=True):
        assert row["name"] == row["kind"] == entry.kind
        for which, stage in entry.evaluations.items():
            with np.load(store.path(stage) / "examples.npz") as found:
                clean = found["clean_prediction"] == found["label"]
                assert row["natural"][which] == pytest.approx(clean.mean())
                for attack in ("fgsm", "pgd3"):
                    robust = clean & (found[f"prediction_{attack}"] == found["label"])
                    assert row[attack][which] == pytest.approx(robust.mean())
                assert len(found["label"]) == row["test_examples"] == 60
        assert row["pgd3"]["best"] <= row["natural"]["best"]


def test_costs_are_those_of_the_histories(run):
    config, _, store, document, chosen = run
    histories = {
        entry.kind: json.loads((store.path(entry.train) / "history.json").read_text())
        for entry in chosen
    }
    searched = json.loads((store.path(chosen[1].searches[0]) / "history.json").read_text())
    search_seconds = sum(epoch["seconds"] for epoch in searched)
    dense_seconds = sum(epoch["seconds"] for epoch in histories["dense"])
    flops_per_image = document["rows"][0]["train_flops"] / (2 * 256 * (3 + 2 * 2))
    assert flops_per_image == int(flops_per_image)
    for row, entry in zip(document["rows"], chosen, strict=True):
        seconds = sum(epoch["seconds"] for epoch in histories[entry.kind])
        search = 0 if entry.kind == "dense" else search_seconds
        assert row["train_seconds"] == pytest.approx(seconds)
        assert row["search_seconds"] == pytest.approx(search)
        assert row["total_over_dense"] == pytest.approx((seconds + search) / dense_seconds)
        assert row["train_flops"] == 2 * 256 * 7 * flops_per_image
        search_flops = 0 if entry.kind == "dense" else 256 * 5 * flops_per_image
        assert row["search_flops"] == search_flops
        assert row["total_flops_over_dense"] == pytest.approx(
            (search_flops + row["train_flops"]) / row["train_flops"]
        )
        assert row["epochs"] == 2
        robust = [epoch["validation_robust"] for epoch in histories[entry.kind]]
        assert row["best_epoch"] == 1 + int(np.argmax(robust))
    assert config.seed == document["rows"][0]["seed"] == 5


def test_the_dense_row_reaches_itself(run):
    _, _, store, document, chosen = run
    dense = document["rows"][0]
    rows = json.loads((store.path(chosen[0].train) / "history.json").read_text())
    epochs, seconds = epochs_to_reach(rows, max(row["validation_robust"] for row in rows))
    assert dense["epochs_to_dense"] == pytest.approx(epochs)
    assert dense["seconds_to_dense_over_dense"] == pytest.approx(1)
    assert dense["density"] == 1
    assert seconds <= dense["train_seconds"] + 1e-9


def test_density_layers_curves_and_ledger(run):
    _, workdir, store, document, chosen = run
    ticket = Ticket.load(workdir / "tickets" / "boosting")
    kept = sum(int(mask.sum()) for mask in ticket.masks.values())
    total = sum(mask.size for mask in ticket.masks.values())
    assert kept == round(0.2 * total)
    assert document["rows"][1]["density"] == kept / total
    assert set(document["layers"]) == {"boosting", "reinit"}
    assert set(document["curves"]) == {"dense", "boosting", "reinit", "search: boosting"}
    ledger = {entry["stage"]: entry for entry in document["ledger"]}
    assert set(ledger) == {path.name for path in store.root.iterdir() if path.name != "partial"}
    assert not any(entry["cached"] for entry in ledger.values())
    search = ledger[chosen[1].searches[0].name]
    assert search["models"] == ["boosting", "reinit"]
    assert ledger[chosen[0].train.name]["models"] == ["dense"]


def test_a_ticket_is_part_of_a_runs_identity(run):
    config, workdir, _, document, _ = run
    ticket = Ticket.load(workdir / "tickets" / "boosting")
    assert document["settings"] == run_settings(config)
    assert "ticket" not in run_settings(config)
    assert run_settings(config, ticket)["ticket"] == ticket.digest


def test_pictures_are_real_and_attacked_within_eps(run):
    _, workdir, _, _, _ = run
    with np.load(workdir / "pictures.npz") as found:
        clean, adversarial = found["clean"].astype(int), found["adversarial"].astype(int)
        assert np.abs(clean - adversarial).max() <= np.ceil(0.1 * 255)
        assert np.abs(clean - adversarial).max() > 0.05 * 255
        assert str(found["model"]) == "boosting"
        assert str(found["attack"]) == "pgd3"


@pytest.mark.parametrize("order", [("dense", "winning"), ("winning", "dense")])
def test_every_row_has_its_curve_even_if_search_and_dense_training_are_one_stage(tmp_path, order):
    config = lottery_config(
        width_multiplier=0.05,
        train_examples=64,
        test_examples=10,
        epochs=1,
        objective="natural",
        search_objective="natural",
        attacks=(),
        compare=order,
    )
    store = Store(tmp_path / "stages")
    document = run_comparison(config, Workshop(store), tmp_path)
    assert {row["name"] for row in document["rows"]} <= set(document["curves"])
    winning = next(row for row in document["rows"] if row["name"] == "winning")
    dense = next(row for row in document["rows"] if row["name"] == "dense")
    assert winning["search_seconds"] == dense["train_seconds"]  # one and the same stage
