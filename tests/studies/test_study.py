"""An experiment run on digits: its document, recomputed from the stages' files."""

import json

import numpy as np
import pytest
from msgspec.structs import replace

from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.store import Store
from tf_lottery.lottery.totals import Costs, break_even
from tf_lottery.lottery.work import Workshop
from tf_lottery.main import main
from tf_lottery.options import command as flags
from tf_lottery.report.results import Point, Reference, read_results, write_results
from tf_lottery.report.verdicts import verdicts
from tf_lottery.studies.paper.factors import FIG6
from tf_lottery.studies.study import Study, _figure
from tf_lottery.study_cli import make_design

SMALL = (
    "--experiment=table3", "--dataset=digits", "--train_examples=64", "--validation_examples=30",
    "--test_examples=20", "--model=convnet", "--width_multiplier=0.05", "--batch_size=16",
    "--epochs=2", "--search_epochs=1", "--warmup_epochs=1", "--sweep_epochs=1,2", "--eps=0.1",
    "--steps=1", "--validation_attack=pgd1", "--attacks=pgd20",
)  # fmt: skip


def design(*more):
    return make_design(flags.parse([*SMALL, *more]))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("study") / "stages")
    study = Study(design())
    workshop = Workshop(store)
    cached = run_stages(study.targets, workshop, lambda line: None)
    return study, workshop, study.document(workshop, cached, ["--experiment=table3"])


def test_the_document_can_be_written_and_read(done, tmp_path):
    path = tmp_path / "results.json"
    write_results(path, done[2])
    assert read_results(path) == done[2]
    assert [verdict.id for verdict in verdicts(done[2])] == [
        "robust_1", "cost_1", "robust_2", "cost_2",
    ]  # fmt: skip


def test_rows_say_what_the_stages_say(done):
    study, workshop, document = done
    assert document.seeds == [0]
    for row in document.rows:
        entry = study.cells[row.name, 0].entry
        history = workshop.history(entry.train)
        assert [record.validation_robust for record in row.curve] == [
            record["validation_robust"] for record in history
        ]
        for which in ("best", "last"):
            path = workshop.store.path(entry.evaluations[which]) / "evaluation.json"
            found = json.loads(path.read_text())
            assert getattr(row.tests["natural"], which) == found["natural"]
            assert getattr(row.tests["pgd20"], which) == found["robust"]["pgd20"]
        assert row.test_examples == 20
        ledger = workshop.store.manifest(entry.train)["ledger"]
        assert row.train_flops == ledger["flops"]
        assert row.train_passes == (
            ledger["forward_passes"]
            + ledger["input_gradient_passes"]
            + ledger["weight_gradient_passes"]
        )
        # An FGSM step costs 5F and a PGD-1 step too; the search is one epoch of two.
        epochs = 1 if row.name == "ticket, 1 epoch" else 2
        search = 0 if row.kind == "dense" else 1
        assert row.total_flops_over_dense == pytest.approx((epochs + search) / 2)
        assert row.density == pytest.approx(1 if row.kind == "dense" else 0.2, abs=0.01)
    dense, short, full = document.rows
    assert dense.break_even is None
    for row in (short, full):
        reached = row.epochs_to_dense
        saved = dense.epochs_to_dense - (reached or 0)
        if reached is None or saved <= 0:
            assert row.break_even is None
        else:  # all epochs cost the same here, one of them is the search's
            assert row.break_even == max(1, np.ceil(1 / saved - 1e-9))
    assert dense.curve[0].distance is None
    assert short.curve[0].distance > 0
    assert not document.searches


def test_claims_are_paired_on_the_same_images(done):
    for claim in done[2].claims:
        assert bool(claim.pairs) == claim.measure.startswith("test_")


def test_the_transfer_matrix_has_the_white_box_on_its_diagonal(done):
    document = done[2]
    transfer = document.transfer
    assert transfer.arms == [arm.name for arm in document.arms]
    (matrix,) = transfer.matrices
    assert np.shape(matrix) == (3, 3)
    for index, row in enumerate(document.rows):
        assert matrix[index][index] <= row.tests["natural"].best + 1e-9


def test_the_ledger_names_the_arms_of_each_stage(done):
    document = done[2]
    searches = [entry for entry in document.ledger if entry.label.startswith("search")]
    assert [entry.models for entry in searches] == [["ticket, 1 epoch", "ticket, 2 epochs"]]
    assert all(entry.seed == 0 and entry.cached is False for entry in document.ledger)
    assert {entry.kind for entry in document.ledger} == {
        "init", "train", "prune", "evaluate", "transfer",
    }  # fmt: skip


def test_a_document_is_told_from_that_of_another_run_or_another_version(done):
    study, _, document = done
    assert study.is_told_by(document)
    reference = Reference("curves.csv", {"x": [Point(1, 0.5, None)]})
    assert not study.is_told_by(document, reference)
    assert not Study(design("--seed=1")).is_told_by(document)
    others = [
        replace(document, package_version="0.0.1"),
        replace(document, claims=[replace(document.claims[0], text="another")]),
        replace(
            document, arms=[replace(arm, published={"run:epochs": 5}) for arm in document.arms]
        ),
        replace(document, figures=[]),
        replace(document, transfer=replace(document.transfer, published=[[0.5]])),
        replace(document, ledger=document.ledger[1:]),
        replace(document, ledger=[replace(document.ledger[0], stage="train-0123456789abcdef")]),
    ]
    for other in others:
        assert not study.is_told_by(other)
    # What the stages gave is theirs to say.
    assert study.is_told_by(replace(document, rows=[replace(document.rows[0], density=0.5)]))


def test_width_and_depth_have_a_figure_each():
    design = make_design(flags.parse(["--experiment=fig6", "--sweep_depths=10,16"]))
    for spec, word in zip(FIG6.figures, ("width", "depth"), strict=True):
        arms = _figure(spec, design.arms).arms
        assert arms
        assert all(f"({word})" in name for name in arms)
    assert len(arms) == 4


def test_small_and_large_networks_have_a_dense_baseline_each(tmp_path):
    made = Study(make_design(flags.parse(["--experiment=fig9", "--replicates=2"])))
    arms = {arm.name: made.baseline(arm) for arm in made.design.arms}
    assert arms == {
        "lenet, dense": "lenet, dense", "lenet, ticket": "lenet, dense",
        "vgg, dense": "vgg, dense", "vgg, ticket": "vgg, dense",
    }  # fmt: skip
    wanted = [made.cells[f"{m}, dense", s].entry.train.key for s in made.seeds
              for m in ("lenet", "vgg")]  # fmt: skip
    assert [stage.key for stage in made.baselines] == wanted


def even(epochs):
    return tuple((np.arange(1, epochs + 1) / epochs).tolist())


@pytest.mark.parametrize(
    ("search", "accuracies", "times"),
    [
        (0, (0.5,), 1), (6, (0.5,), 1), (9, (0.5,), 1), (10, (0.5,), 2), (18, (0.5,), 2),
        (18, (0.1, 0.5), 3),  # 8 of 10 are saved each time
        (5, (0.1, 0.2, 0.3), None),  # never reached
        (5, (0.1,) * 9 + (0.5,), None),  # reached, but not sooner
    ],
)  # fmt: skip
def test_break_even(search, accuracies, times):
    """The dense run reaches its best, 0.5, in the last of 10 epochs of cost 1 each."""

    def history(values):
        return [
            {"epoch": i, "validation_natural": value, "validation_robust": None, "seconds": 1.0}
            for i, value in enumerate(values, 1)
        ]

    own = Costs({"flops": search}, {"flops": len(accuracies)}, "run", even(len(accuracies)))
    dense = Costs({"flops": 0}, {"flops": 10}, "none", even(10))
    assert break_even(own, history(accuracies), dense, history([0.1] * 9 + [0.5])) == times


def test_the_command_runs_resumes_and_adds_replicates(tmp_path, capsys):
    reference = tmp_path / "curves.csv"
    reference.write_text("run,epoch,valid_clean,valid_robust\nx,0,50,\n")
    arguments = [
        "--experiment=fig3", *SMALL[1:11], "--warmup_epochs=1", f"--workdir={tmp_path / 'run'}",
    ]  # fmt: skip
    assert main(["--mode=plan", *arguments]) == 0
    planned = capsys.readouterr().out
    assert "Fig. 3" in planned
    assert "to do" in planned
    # Two searches of 1 epoch and two trainings of 2, against one dense training of 2.
    assert "all training together: 3.00 x the FLOPs of one dense training of each" in planned
    assert not (tmp_path / "run").exists()
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "search: boosting" in printed
    for name in ("results.json", "report.html", "report.md", "figures/distance_per_epoch.svg"):
        assert (tmp_path / "run" / name).is_file()
    assert list((tmp_path / "run" / "tensorboard" / "report").iterdir())
    first = read_results(tmp_path / "run" / "results.json")
    assert all(row.curve[0].distance > 0 for row in first.rows)
    assert "note: The distance" not in printed
    for row in first.rows:
        # A search of 1 epoch and a training of 2, over a dense training of 2.
        assert row.total_flops_over_dense == pytest.approx(1.5)
        assert row.total_over_dense is None
    assert (
        "one dense training of all epochs, counted" in (tmp_path / "run" / "report.md").read_text()
    )
    # Another seed joins; what is there is not done again.
    assert main([*arguments, "--replicates=2"]) == 0
    printed = capsys.readouterr().out
    assert "(seed 0)" not in printed.split("Fig. 3: ")[0]
    second = read_results(tmp_path / "run" / "results.json")
    assert [row.curve for row in second.rows if row.seed == 0] == [r.curve for r in first.rows]
    assert len(second.seeds) == 2
    # Once more: there is nothing to do, and nothing is written.
    path = tmp_path / "run" / "results.json"
    before = path.stat().st_mtime_ns
    assert main([*arguments, "--replicates=2"]) == 0
    printed = capsys.readouterr().out
    assert "everything is finished already; nothing was run" in printed
    assert "report        " in printed
    assert path.stat().st_mtime_ns == before
    # What is missing of the work directory comes back from the stages.
    (tmp_path / "run" / "report.md").unlink()
    assert main([*arguments, "--replicates=2"]) == 0
    assert "finished already" not in capsys.readouterr().out
    assert (tmp_path / "run" / "report.md").is_file()
    # One seed fewer would lose results.
    assert main(arguments) == 1
    assert "--replicates=1 would drop" in capsys.readouterr().err
    # A comparison does not write over them.
    assert main([*SMALL[1:11], f"--workdir={tmp_path / 'run'}"]) == 1
    assert "not of 'Comparison of" in capsys.readouterr().err
    # Other settings do not mix.
    assert main([*arguments, "--sparsity=0.5"]) == 1
    assert "options.sparsity" in capsys.readouterr().err
    # Trainings of a version that did not record the distance: what is missing and what to do.
    stage = next(e.stage for e in second.ledger if e.label == "train: boosting")
    history = tmp_path / "run" / "stages" / stage / "history.json"
    rows = json.loads(history.read_text())
    history.write_text(json.dumps([{k: v for k, v in r.items() if k != "distance"} for r in rows]))
    path = history.with_name("manifest.json")
    manifest = json.loads(path.read_text())
    del manifest["sha256"], manifest["digest"]  # which such versions did not write either
    manifest["files"]["history.json"] = history.stat().st_size
    path.write_text(json.dumps(manifest))
    (tmp_path / "run" / "report.html").unlink()  # or the results at hand are taken
    assert main([*arguments, "--replicates=2"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "is missing for boosting: the store holds trainings of a version" in printed
    assert f"remove the directory {stage} from the store" in printed
    (tmp_path / "run" / "report.html").unlink()
    assert main(["--mode=report", f"--workdir={tmp_path / 'run'}"]) == 0
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experiment=fig99"], "--experiment: unknown value 'fig99'"),
        (["--experiment=fig1", "--replicates=0"], "--replicates: got 0"),
        (["--replicates=0"], "--replicates: got 0"),
        (["--mode=plan", "--sweep_rates=0.1"], "--sweep_rates goes with --experiment"),
        (["--jobs=0"], "--jobs: got 0"),
        (["--experiment=fig1", "--ray_gpus=-1"], "--ray_gpus: got -1"),
    ],
)
def test_bad_flags_are_one_line_before_tensorflow(arguments, message, tmp_path, capsys):
    assert main([*arguments, f"--workdir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_bad_reference_is_told_before_anything_is_run(tmp_path, capsys):
    path = tmp_path / "curves.csv"
    path.write_text("run,epoch\n")
    arguments = ["--experiment=fig1", f"--reference_csv={path}", f"--workdir={tmp_path / 'run'}"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "--reference_csv" in error
    assert "valid_clean" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
