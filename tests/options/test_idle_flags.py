"""What is typed in vain is told; what a flagfile says for another mode is passed over."""

import pytest

from tf_lottery.main import main
from tf_lottery.options import command as flags
from tf_lottery.options.effects import refuse_idle_flags


def complaint(capsys, arguments):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


IDLE = [
    ("report", "replicates", "3"),
    ("report", "experiment", "fig1"),
    ("report", "experiment", "nosuch"),
    ("report", "sweep_epochs", "1,2"),
    ("report", "epochs", "5"),
    ("report", "jobs", "2"),
    ("report", "model_path", "x"),
    ("evaluate", "experiment", "fig1"),
    ("evaluate", "replicates", "3"),
    ("evaluate", "sweep_rates", "0.1"),
    ("evaluate", "reference_csv", "curves.csv"),
    ("evaluate", "jobs", "2"),
    ("evaluate", "export_dir", "x"),
    ("export", "transfer_attack", "pgd5"),
    ("export", "reference_csv", "curves.csv"),
    ("inspect", "experiment", "fig1"),
    ("inspect", "model_path", "x"),
    ("run", "model_path", "x"),
    ("run", "export_dir", "x"),
    ("plan", "evaluation_dir", "x"),
    ("plan", "eval_batch_size", "9"),
]


@pytest.mark.parametrize(("mode", "name", "value"), IDLE)
def test_a_flag_that_does_nothing_in_the_mode_is_told(mode, name, value, tmp_path, capsys):
    # The flag's own value, and what the mode lacks, come after that.
    line = complaint(capsys, [f"--mode={mode}", f"--{name}={value}", f"--workdir={tmp_path}/w"])
    assert line == f"tf_lottery: --{name} does nothing in --mode={mode}, leave it out"
    assert list(tmp_path.iterdir()) == []


def test_every_way_to_type_a_flag_counts(capsys):
    for words in (["--noaugment"], ["-epochs=3"], ["--epochs", "3"], ["--jit_compile"]):
        assert "does nothing in --mode=report" in complaint(capsys, ["--mode=report", *words])


@pytest.mark.parametrize("mode", ["evaluate", "export", "inspect", "report"])
def test_a_flagfile_may_say_more_than_a_mode_needs(mode, tmp_path):
    path = tmp_path / "run.flags"
    path.write_text("--experiment=fig1\n--epochs=3\n--replicates=2\n--jobs=2\n--workdir=w\n")
    command = flags.parse([f"--flagfile={path}", f"--mode={mode}"])
    assert command.given == {"experiment", "epochs", "replicates", "jobs", "workdir", "mode"}
    assert command.typed == {"mode"}
    refuse_idle_flags(command)


@pytest.mark.parametrize("mode", ["run", "plan"])
def test_the_settings_of_a_run_go_with_its_plan(mode):
    refuse_idle_flags(
        flags.parse(
            [
                "--experiment=fig2", f"--mode={mode}", "--sweep_epochs=1,2", "--executor=ray",
                "--ray_address=h:1", "--ray_cpus=2", "--reference_csv=c.csv",
            ]
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep_rates=0.1"], "--sweep_rates goes with --experiment"),
        (["--reference_csv="], "--reference_csv goes with --experiment"),
        (["--channel_floor=0.2"], "--channel_floor goes with --structure=channels, not weights"),
        (
            ["--ticket_momentum=0.5", "--compare=dense"],
            "--ticket_momentum goes with a kind beside dense in --compare",
        ),
        (
            ["--search_momentum=0.5", "--search=random"],
            "--search_momentum goes with a search that is trained, not with "
            "--compare=boosting,dense,reinit and --search=random",
        ),
        (
            ["--search_momentum=0.5", "--compare=dense,flying_bird"],
            "--search_momentum goes with a search that is trained, not with "
            "--compare=dense,flying_bird",
        ),
        (["--search_momentum=0.5", "--search=snip"], "--search_momentum goes with a search"),
        (["--beta=3"], "--beta goes with trades or mart or nuat, not fgsm,pgd"),
        (["--ticket_beta=3", "--objective=trades", "--ticket_objective=pgd7"], "not pgd7"),
        (["--replays=4"], "--replays goes with free, not fgsm,pgd"),
        (
            ["--phases=natural:1,fgsm:1", "--objective=pgd"],
            "--objective goes without --phases, which say it",
        ),
        (
            ["--search_phases=natural:1,fgsm:1", "--search_objective=pgd"],
            "--search_objective goes without --search_phases, which say it",
        ),
        (
            ["--growth=gradient"],
            "--growth goes with --sparsity_update, or flying_bird in --compare",
        ),
        (["--sparsity_update=flying_bird", "--compare=dense,dense_twin"], "goes with a ticket in"),
        (
            ["--steps=4", "--objective=fgsm", "--ticket_objective=pgd7"],
            "--steps goes with pgd or trades or mart, not fgsm,pgd7",
        ),
        (
            ["--steps=4", "--objective=fgsm", "--search_objective=pgd", "--compare=dense"],
            "--steps goes with pgd or trades or mart, not fgsm",
        ),
        (
            [
                "--steps=4",
                "--objective=fgsm",
                "--ticket_objective=fgsm",
                "--search_objective=pgd",
                "--search=random",
            ],
            "--steps goes with pgd or trades or mart, not fgsm",
        ),
        (
            ["--step_size=0.1", "--objective=n_fgsm", "--search_objective=natural"],
            "--step_size goes with pgd or trades or mart, not n_fgsm,natural",
        ),
        (
            ["--norandom_start", "--objective=trades"],
            "--random_start goes with pgd, not fgsm,trades",
        ),
        (["--search_steps=3"], "--search_steps goes with pgd or trades or mart, not fgsm"),
        (["--skip_broken_images"], "--skip_broken_images goes with --dataset=folder:DIR, not"),
        (["--ray_cpus=2"], "--ray_cpus goes with --executor=ray"),
        (["--ray_gpus=1"], "--ray_gpus goes with --executor=ray"),
        (["--jobs=2", "--executor=ray"], "--jobs goes with --executor=local, not ray"),
    ],
)
def test_a_flag_without_its_companion_is_told(arguments, message, capsys):
    assert message in complaint(capsys, arguments)


def test_an_experiment_without_a_name_is_none(capsys):
    line = complaint(capsys, ["--experiment="])
    assert "--experiment: unknown value ''" in line
    assert "fig1" in line


def test_jobs_of_a_flagfile_do_not_keep_from_ray(tmp_path):
    path = tmp_path / "run.flags"
    path.write_text("--experiment=fig1\n--jobs=2\n")
    refuse_idle_flags(flags.parse([f"--flagfile={path}", "--executor=ray"]))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--beta=3", "--ticket_objective=trades"],
        ["--beta=3", "--phases=mart:2,pgd:1"],
        ["--beta=3", "--objective=package.module:function"],
        ["--replays=4", "--ticket_phases=free:4,pgd:1"],
        ["--search_epochs=3", "--compare=dense,winning", "--search=random"],
        ["--search_epochs=3", "--search=early"],
        ["--search_objective=pgd", "--search=snip"],
        ["--objective=natural", "--search_objective=natural", "--compare=dense"],
        ["--search_steps=3", "--search_objective=pgd", "--compare=grasp"],
        ["--steps=3"],
        ["--step_size=0.1", "--objective=pgd5", "--compare=dense"],
        ["--norandom_start", "--objective=fgsm", "--ticket_objective=pgd4"],
        ["--steps=4", "--objective=fgsm", "--search_phases=natural:1,mart:1"],
        ["--steps=4", "--objective=package.module:function"],
        ["--search_epochs=3", "--compare=package.module:function"],
        ["--ticket_momentum=0.5", "--compare=dense,dense_twin"],
        ["--growth=gradient", "--compare=flying_bird"],
        ["--growth=gradient", "--sparsity_update=flying_bird_plus"],
        ["--phases=natural:1,fgsm:1", "--ticket_objective=pgd"],
    ],
)
def test_a_flag_that_a_training_looks_at_may_be_given(arguments):
    refuse_idle_flags(flags.parse(arguments))


def test_what_a_flagfile_says_of_a_training_may_be_in_vain(tmp_path):
    path = tmp_path / "run.flags"
    path.write_text("--beta=3\n--search_epochs=4\n--ticket_momentum=0.5\n--objective=pgd\n")
    given = [f"--flagfile={path}", "--compare=dense", "--phases=natural:1,fgsm:1"]
    refuse_idle_flags(flags.parse(given))
