"""FLOPs of a ticket that is trained in another way than the dense network."""

import numpy as np
import pytest

from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.store import Store
from tf_lottery.lottery.totals import Costs, against_baseline, break_even, costs
from tf_lottery.lottery.work import Workshop
from tf_lottery.options.build import complete
from tf_lottery.studies.comparison import compare
from tf_lottery.studies.design import Design
from tf_lottery.studies.study import Study

# Of the dense training 3 + 2 * 3 = 9 passes an image and epoch; of the ticket's 3, 3 and 9.
OPTIONS = {
    "width_multiplier": 0.05, "train_examples": 64, "validation_examples": 20, "test_examples": 10,
    "batch_size": 16, "epochs": 4, "eps": 0.1, "steps": 3, "attacks": (), "search": "random",
    "ticket_phases": ("natural:2", "pgd3:1"), "compare": ("boosting",),
}  # fmt: skip


def test_without_a_baseline_the_dense_training_that_is_counted_is_the_dense_one(tmp_path):
    options = complete(OPTIONS)
    study = Study(Design(compare(("boosting",), False), options, OPTIONS.keys(), {}, 1))
    workshop = Workshop(Store(tmp_path))
    cached = run_stages(study.targets, workshop)
    (row,) = study.document(workshop, cached).rows
    assert row.total_flops_over_dense == pytest.approx((2 * 3 + 9) / (4 * 9))
    assert study.counted_flops(workshop) == row.train_flops * 36 / 15
    own = costs(study.cells["boosting", 0].entry, workshop)
    assert own.course == pytest.approx((3 / 15, 6 / 15, 1))
    assert own.train_flops_until(2.5) == pytest.approx(row.train_flops * 10.5 / 15)


def test_an_accuracy_reached_in_a_cheap_phase_took_cheap_epochs():
    def history(*values):
        return [
            {"epoch": i, "validation_natural": value, "validation_robust": None, "seconds": 1.0}
            for i, value in enumerate(values, 1)
        ]

    search = {"flops": 4.0, "seconds": 0.0}
    own = Costs(search, {"flops": 15.0, "seconds": 3.0}, "run", (3 / 15, 6 / 15, 1.0))
    none = {"flops": 0.0, "seconds": 0.0}
    course = tuple(np.arange(1, 5) / 4)
    dense = Costs(none, {"flops": 36.0, "seconds": 4.0}, "none", course)
    ours, theirs = history(0.1, 0.5, 0.6), history(0.1, 0.2, 0.3, 0.5)
    found = against_baseline(own, ours, dense, theirs)
    assert found["epochs_to_dense"] == 2
    assert found["flops_to_dense"] == pytest.approx((4 + 6) / 36)
    assert break_even(own, ours, dense, theirs) == 1
    dear = Costs({"flops": 31.0}, own.train, "run", own.course)
    assert break_even(dear, ours, dense, theirs) == 2  # each time 30 are saved
