"""A ticket whose masks change while it is trained, from the initialisation to the export."""

import json

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.stage import in_order
from tf_lottery.engine.store import Store
from tf_lottery.errors import UsageError
from tf_lottery.lottery.plan import plan
from tf_lottery.lottery.work import Workshop
from tf_lottery.options.build import DEFAULTS
from tf_lottery.studies.comparison import compare
from tf_lottery.studies.design import Design
from tf_lottery.studies.leavings import leave
from tf_lottery.studies.study import Study
from tf_lottery.tickets import Ticket
from tf_lottery.training import callbacks, flying_bird

OPTIONS = {
    **DEFAULTS,
    "width_multiplier": 0.1,
    "train_examples": 64,
    "test_examples": 20,
    "batch_size": 16,
    "epochs": 10,
    "search_epochs": 1,
    "objective": "natural",
    "search_objective": "natural",
    "attacks": (),
    "compare": ("dense", "flying_bird"),
    "sparsity_update": "flying_bird_plus",
    "update_interval": 3,
    "growth": "gradient",
    "deterministic": True,
}


def make_study(options, ticket=None):
    experiment = compare(options["compare"], bool(options["attacks"]))
    digest = None if ticket is None else ticket.digest
    return Study(Design(experiment, options, frozenset(), {}, 1, digest), ticket)


def carried_out(study, workdir):
    workshop = Workshop(Store(workdir / "stages"))
    study.check(workshop)
    cached = run_stages(study.targets, workshop, lambda line: None)
    leave(study, workshop, workdir, cached)
    return study.document(workshop, cached)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Its validation worsens from the first epoch on, and its gap widens: masks get sparser."""
    workdir = tmp_path_factory.mktemp("dynamic")
    measured = callbacks.History.on_epoch_end

    def worse_and_worse(self, epoch, logs=None):
        measured(self, epoch, {**logs, "val_natural": 0.6 - 0.05 * epoch})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.History, "on_epoch_end", worse_and_worse)
        patch.setattr(flying_bird, "_rose", lambda rows, last: (True, False))
        study = make_study(OPTIONS)
        planned = plan(study.targets, Workshop(Store(workdir / "stages", read_only=True)))
        document = carried_out(study, workdir)
    entry = study.cells["flying_bird", 0].entry
    return workdir, entry, document, {item.stage.key: item.flops for item in planned}


def fits(values, masks):
    return all(not values[f"{name}/kernel"][~mask].any() for name, mask in masks.items())


def test_the_start_has_the_layer_densities_of_ideal_gas_quotas(run):
    workdir, entry, _, _ = run
    start = Ticket.load(Store(workdir / "stages").file(entry.ticket, "ticket"))
    # A layer of n weights keeps n F / (F + n), rounded: the same F for all.
    factors = [
        (lambda n, kept: ((kept - 1) * n / (n - kept + 1), (kept + 1) * n / (n - kept - 1)))(
            layer["weights"], layer["kept"]
        )
        for layer in start.layers
    ]
    assert max(low for low, _ in factors) < min(high for _, high in factors)
    assert start.weights_kept == round(0.2 * start.weights_total)
    assert len({round(layer["kept"] / layer["weights"], 2) for layer in start.layers}) > 1
    assert any(np.any(mask[:-1] < mask[1:]) for mask in map(np.ravel, start.masks.values()))


def test_the_row_tells_of_the_last_masks(run):
    workdir, entry, document, _ = run
    row = next(row for row in document.rows if row.kind == "flying_bird")
    last = Ticket.load(workdir / "tickets" / "flying_bird")
    start = Ticket.load(Store(workdir / "stages").file(entry.ticket, "ticket"))
    assert row.density == last.density < start.density
    assert [(layer.layer, layer.kept) for layer in row.layers] == [
        (layer["layer"], layer["kept"]) for layer in last.layers
    ]
    store = Store(workdir / "stages")
    assert fits(weights.read_arrays(store.file(entry.train, "final.npz")), last.masks)
    assert last.parent == start.digest
    assert last.init_digest == start.init_digest
    found = last.found["pruning"]
    # 40 steps: 3, 6, ..., 18, and every fourth from 24 on, but not 40.
    assert found["updates"] == 10
    assert (found["name"], found["interval"], found["growth"]) == (
        "flying_bird_plus", 3, "gradient",
    )  # fmt: skip
    assert found["start_density"] == start.density
    ledger = json.loads((store.path(entry.train) / "ledger.json").read_text())
    assert last.found["cost"]["flops"] == ledger["flops"]


def test_the_export_has_the_masks_of_the_best_epoch(run):
    workdir, entry, document, _ = run
    row = next(row for row in document.rows if row.kind == "flying_bird")
    assert row.best_epoch == 1
    store = Store(workdir / "stages")
    best = weights.read_arrays(store.file(entry.train, "best.npz"))
    last = Ticket.load(workdir / "tickets" / "flying_bird")
    assert not fits(best, last.masks)
    path = workdir / "saved_model" / "flying_bird" / "metadata.json"
    metadata = json.loads(path.read_text())
    # The first epochs have as many weights as the start, and the export says so.
    start = Ticket.load(store.file(entry.ticket, "ticket"))
    assert metadata["ticket"]["weights_kept"] == start.weights_kept > last.weights_kept
    kernels = [best[f"{name}/kernel"] for name in last.masks]
    assert metadata["nonzero_weights"] == sum(int(np.count_nonzero(k)) for k in kernels)
    assert metadata["nonzero_weights"] <= start.weights_kept
    assert metadata["ticket"]["digest"] != last.digest


def test_the_plan_is_what_the_ledger_says(run):
    workdir, entry, document, planned = run
    store = Store(workdir / "stages")
    ledger = json.loads((store.path(entry.train) / "ledger.json").read_text())
    assert planned[entry.train.key] == ledger["flops"]
    # Ten updates look at a batch of 16 each: passes of ten steps more than 40.
    assert ledger["examples"] == 640
    assert ledger["forward_passes"] == 640 + 160
    dense, bird = document.rows
    assert bird.train_flops / dense.train_flops == 800 / 640
    assert {s.kind for s in in_order([entry.ticket])} == {"init", "prune"}


def test_dense_networks_have_no_masks_to_change():
    with pytest.raises(UsageError, match=r"--sparsity_update: got 'flying_bird_plus'.*no ticket"):
        make_study({**OPTIONS, "compare": ("dense",)})


def test_its_ticket_can_be_given_and_retrained(run, tmp_path):
    workdir, _, _, _ = run
    last = Ticket.load(workdir / "tickets" / "flying_bird")
    options = {**OPTIONS, "compare": ("boosting",), "sparsity_update": "none", "epochs": 1}
    study = make_study(options, last)
    (row,) = carried_out(study, tmp_path).rows
    assert row.density == last.density
    assert row.search_source == "ticket"
    assert row.search_flops == last.found["cost"]["flops"]
    entry = study.cells["boosting", 0].entry
    final = weights.read_arrays(Store(tmp_path / "stages").file(entry.train, "final.npz"))
    assert fits(final, last.masks)
    assert Ticket.load(tmp_path / "tickets" / "boosting").digest == last.digest
