"""When a run reached an accuracy; rows recomputed from the stages' files."""

import json

import numpy as np
import pytest

from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.store import Store
from tf_lottery.lottery.totals import accuracy_goal, epochs_to_reach
from tf_lottery.lottery.work import Workshop
from tf_lottery.options.build import DEFAULTS, lottery_config
from tf_lottery.options.settings import settings
from tf_lottery.report.results import read_results, write_results
from tf_lottery.statistics import paired_difference
from tf_lottery.studies.comparison import compare
from tf_lottery.studies.design import Design
from tf_lottery.studies.leavings import leave, left
from tf_lottery.studies.study import Study
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
OPTIONS = {
    **DEFAULTS,
    "width_multiplier": 0.125,
    "train_examples": 256,
    "test_examples": 60,
    "epochs": 2,
    "search_epochs": 1,
    "eps": 0.1,
    "steps": 2,
    "attacks": ("fgsm", "pgd3"),
    "validation_attack": "pgd2",
    "compare": KINDS,
    "seed": 5,
}


def make_study(options, ticket=None, replicates=1):
    experiment = compare(options["compare"], bool(options["attacks"]))
    digest = None if ticket is None else ticket.digest
    return Study(Design(experiment, options, frozenset(), {}, replicates, digest), ticket)


def carried_out(study, workdir, store=None):
    workshop = Workshop(store or Store(workdir / "stages"), workdir / "tensorboard")
    cached = run_stages(study.targets, workshop)
    leave(study, workshop, workdir, cached)
    return study.document(workshop, cached)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("comparison")
    study = make_study(OPTIONS)
    assert not any(path.exists() for path in left(study, workdir))
    document = carried_out(study, workdir)
    assert all(path.exists() for path in left(study, workdir))
    return study, workdir, Store(workdir / "stages"), document


def entries(study):
    return {arm: cell.entry for (arm, _), cell in study.cells.items()}


def history_of(store, stage):
    return json.loads((store.path(stage) / "history.json").read_text())


def examples(store, stage):
    with np.load(store.path(stage) / "examples.npz") as found:
        return dict(found)


def test_the_document_is_told_by_its_study_and_survives_the_disk(run, tmp_path):
    study, _, _, document = run
    write_results(tmp_path / "results.json", document)
    read = read_results(tmp_path / "results.json")
    assert read == document
    assert study.is_told_by(read)
    assert not make_study({**OPTIONS, "seed": 6}).is_told_by(read)


def test_accuracies_are_those_of_the_stages_examples(run):
    study, _, store, document = run
    for row in document.rows:
        assert row.name == row.kind
        for which, stage in entries(study)[row.name].evaluations.items():
            found = examples(store, stage)
            told = json.loads((store.path(stage) / "evaluation.json").read_text())
            clean = found["clean_prediction"] == found["label"]
            assert getattr(row.tests["natural"], which) == pytest.approx(clean.mean())
            assert told["natural"] == pytest.approx(clean.mean())
            standing = clean
            for attack in ("fgsm", "pgd3"):
                robust = clean & (found[f"prediction_{attack}"] == found["label"])
                standing = standing & robust
                assert getattr(row.tests[attack], which) == pytest.approx(robust.mean())
                assert told["robust"][attack] == pytest.approx(robust.mean())
            assert getattr(row.tests["worst"], which) == pytest.approx(standing.mean())
            assert len(found["label"]) == row.test_examples == 60


def test_claims_about_test_images_are_paired_image_by_image(run):
    study, _, store, document = run
    claim = next(claim for claim in document.claims if claim.id == "last_boosting_dense")
    right = []
    for name in ("boosting", "dense"):
        found = examples(store, entries(study)[name].evaluations["last"])
        flags = found["clean_prediction"] == found["label"]
        for attack in ("fgsm", "pgd3"):
            flags &= found[f"prediction_{attack}"] == found["label"]
        right.append(flags)
    ours, theirs = right
    (pair,) = claim.pairs
    assert (pair.seed, pair.examples) == (5, 60)
    assert pair.only_ours == (ours & ~theirs).sum()
    assert pair.only_theirs == (theirs & ~ours).sum()
    gap, _, _ = paired_difference(pair.only_ours, pair.only_theirs, 60)
    shares = {row.name: row.tests["worst"].last for row in document.rows}
    assert gap == pytest.approx(shares["boosting"] - shares["dense"])
    curves = [claim for claim in document.claims if claim.measure.startswith("validation")]
    assert curves
    assert not any(claim.pairs for claim in curves)  # nobody kept who was right there


def test_costs_are_those_of_the_histories(run):
    study, _, store, document = run
    chosen = entries(study)
    histories = {name: history_of(store, entry.train) for name, entry in chosen.items()}
    searched = history_of(store, chosen["boosting"].searches[0])
    search_seconds = sum(epoch["seconds"] for epoch in searched)
    dense_seconds = sum(epoch["seconds"] for epoch in histories["dense"])
    flops_per_image = document.rows[0].train_flops / (2 * 256 * (3 + 2 * 2))
    assert flops_per_image == int(flops_per_image)
    for row in document.rows:
        seconds = sum(epoch["seconds"] for epoch in histories[row.name])
        search = 0 if row.kind == "dense" else search_seconds
        assert row.train_seconds == pytest.approx(seconds)
        assert row.search_seconds == pytest.approx(search)
        assert row.total_over_dense == pytest.approx((seconds + search) / dense_seconds)
        assert row.train_flops == 2 * 256 * 7 * flops_per_image
        assert row.train_passes == 2 * 256 * 7
        search_flops = 0 if row.kind == "dense" else 256 * 5 * flops_per_image
        assert row.search_flops == search_flops
        assert row.total_flops_over_dense == pytest.approx(
            (search_flops + row.train_flops) / row.train_flops
        )
        assert row.epochs == 2
        robust = [epoch["validation_robust"] for epoch in histories[row.name]]
        assert row.best_epoch == 1 + int(np.argmax(robust))
        assert [record.validation_robust for record in row.curve] == robust
        assert row.seed == 5


def test_the_dense_row_reaches_itself(run):
    study, _, store, document = run
    dense = document.rows[0]
    rows = history_of(store, entries(study)["dense"].train)
    epochs, seconds = epochs_to_reach(rows, max(row["validation_robust"] for row in rows))
    assert dense.epochs_to_dense == pytest.approx(epochs)
    assert dense.seconds_to_dense_over_dense == pytest.approx(1)
    assert dense.density == 1
    assert dense.search_source == "none"
    assert seconds <= dense.train_seconds + 1e-9


def test_density_layers_searches_and_ledger(run):
    study, workdir, store, document = run
    ticket = Ticket.load(workdir / "tickets" / "boosting")
    kept = sum(int(mask.sum()) for mask in ticket.masks.values())
    total = sum(mask.size for mask in ticket.masks.values())
    assert kept == round(0.2 * total)
    dense, boosting, reinit = document.rows
    assert boosting.density == kept / total
    assert not dense.layers
    assert sum(layer.kept for layer in boosting.layers) == kept
    assert boosting.layers == reinit.layers
    assert list(document.searches) == ["search: boosting"]
    ledger = {entry.stage: entry for entry in document.ledger}
    names = {path.name for path in store.root.iterdir() if path.name != "partial"}
    # Attacks that other evaluations may share are paid for by the evaluation that ran them.
    assert set(ledger) == {name for name in names if not name.startswith("attack-")}
    assert not any(entry.cached for entry in document.ledger)
    chosen = entries(study)
    assert ledger[chosen["boosting"].searches[0].name].models == ["boosting", "reinit"]
    assert ledger[chosen["dense"].train.name].models == ["dense"]


def test_what_identifies_a_run(run):
    _, workdir, _, document = run
    ticket = Ticket.load(workdir / "tickets" / "boosting")
    plain = settings(lottery_config(**OPTIONS))
    assert document.settings == json.loads(json.dumps(plain))
    assert make_study(OPTIONS, ticket).design.settings == {**plain, "ticket": ticket.digest}
    assert make_study(OPTIONS, None, 3).design.settings == {**plain, "replicates": 3}


def test_pictures_are_real_and_attacked_within_eps(run):
    _, workdir, _, _ = run
    with np.load(workdir / "pictures.npz") as found:
        clean, adversarial = found["clean"].astype(int), found["adversarial"].astype(int)
        assert np.abs(clean - adversarial).max() <= np.ceil(0.1 * 255)
        assert np.abs(clean - adversarial).max() > 0.05 * 255
        assert str(found["model"]) == "boosting"
        assert str(found["attack"]) == "pgd3"


def test_replicates_are_rows_of_other_seeds(run, tmp_path):
    _, _, store, document = run
    small = {**OPTIONS, "compare": ("dense", "boosting")}
    both = make_study(small, None, 2)
    assert both.seeds[0] == 5
    found = carried_out(both, tmp_path, store)
    assert [(row.name, row.seed) for row in found.rows] == [
        (name, seed) for name in ("dense", "boosting") for seed in both.seeds
    ]
    # The first seed's networks are those of the run before.
    assert found.runs("boosting")[0].tests == document.runs("boosting")[0].tests
    assert found.runs("boosting")[0].tests != found.runs("boosting")[1].tests
    other = f"boosting-seed-{both.seeds[1]}"
    digests = {Ticket.load(tmp_path / "tickets" / name).digest for name in ("boosting", other)}
    assert len(digests) == 2
    claim = next(claim for claim in found.claims if claim.id == "last_boosting_dense")
    assert [pair.seed for pair in claim.pairs] == both.seeds


def test_a_shared_search_is_told_once_under_several_seeds(run, tmp_path):
    _, _, store, _ = run
    small = {**OPTIONS, "compare": ("boosting", "reinit")}
    found = carried_out(make_study(small, None, 2), tmp_path, store)
    assert list(found.searches) == ["search: boosting"]


def test_leavings_of_another_comparison_go_and_nothing_else(run, tmp_path):
    study, _, store, _ = run
    for name in ("winning", "winning-seed-7", "exported"):
        (tmp_path / "saved_model" / name).mkdir(parents=True)
    carried_out(study, tmp_path, store)
    assert {path.name for path in (tmp_path / "saved_model").iterdir()} == {*KINDS, "exported"}


@pytest.mark.parametrize("order", [("dense", "winning"), ("winning", "dense")])
def test_search_and_dense_training_may_be_one_stage(tmp_path, order):
    natural = {"objective": "natural", "search_objective": "natural", "attacks": ()}
    options = {**OPTIONS, **natural, "width_multiplier": 0.05, "train_examples": 64,
               "test_examples": 10, "epochs": 1, "compare": order}  # fmt: skip
    document = carried_out(make_study(options), tmp_path)
    winning, dense = document.runs("winning")[0], document.runs("dense")[0]
    assert winning.curve
    assert dense.curve
    assert winning.search_seconds == dense.train_seconds  # one and the same stage
    assert not (tmp_path / "pictures.npz").exists()
