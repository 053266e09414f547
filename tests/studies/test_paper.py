"""The declared experiments: ids, arms, claims, settings of the paper."""

import re
from pathlib import Path

import pytest

import tf_lottery
from tf_lottery.errors import UsageError
from tf_lottery.options import command as flags
from tf_lottery.options.settings import KINDS
from tf_lottery.studies.definition import Base, Sweep
from tf_lottery.studies.experiments import EXPERIMENTS, SWEEPS, find_experiment
from tf_lottery.studies.paper import PAPER
from tf_lottery.studies.study import Study
from tf_lottery.study_cli import make_design

ROOT = Path(tf_lottery.__file__).parents[1]
PROMISED = {
    "fig1", "fig2", "fig3", "fig4", "fig5", "fig6", "fig7", "fig8", "fig9", "fig10", "table3",
    "table5", "search_epochs",
}  # fmt: skip
MEASURE = re.compile(
    r"(validation(_natural|_robust)?|distance)@(\d+|best|last)"
    r"|test(_natural|_worst|_pgd20|_pgd100|_cw)?@(best|last)|run:[a-z_]+"
)


def design(*arguments):
    return make_design(flags.parse(list(arguments)))


def test_all_experiments_of_the_paper_are_there():
    assert {experiment.id for experiment in PAPER} == PROMISED
    assert set(EXPERIMENTS) == {*PROMISED, "frontier"}


@pytest.mark.parametrize(
    ("alias", "name"), [("table1", "fig2"), ("table2", "fig8"), ("fgsm_steps", "search_epochs")]
)
def test_tables_are_found_by_their_own_name(alias, name):
    assert find_experiment(alias) is EXPERIMENTS[name]


def test_an_unknown_experiment_is_told_with_the_list():
    with pytest.raises(UsageError, match=r"--experiment: unknown value 'fig11'.* fig1, .*table2"):
        find_experiment("fig11")


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_the_parts_fit_together(name):
    made = design(f"--experiment={name}")
    names = [arm.name for arm in made.arms]
    assert len(set(names)) == len(names)
    assert all(arm.kind in KINDS for arm in made.arms)
    experiment = made.experiment
    assert experiment.baseline in (None, *names)
    for claim in made.claims:
        assert claim.ours in names
        assert (claim.theirs in names) != (claim.theirs is None and claim.value is not None)
        assert MEASURE.fullmatch(claim.measure)
        assert (claim.margin > 0) == (claim.expect in ("not_less", "same"))
    assert len({claim.id for claim in made.claims}) == len(made.claims)
    for figure in experiment.figures:
        if figure.form == "sweep":
            assert all(MEASURE.fullmatch(measure) for measure in figure.measures)
            assert sum(arm.x is not None for arm in made.arms) > 1
        if figure.form == "epochs":
            assert set(figure.measures) <= {"validation_natural", "validation_robust", "distance"}
    for arm in made.arms:
        assert all(MEASURE.fullmatch(measure) for measure in arm.published)
    tested = {attack.name for attack in made.configs[names[0]].attacks}
    measures = {claim.measure for claim in made.claims}
    measures |= {m for figure in experiment.figures for m in figure.measures}
    measures |= {m for arm in made.arms for m in arm.published}
    for measure in measures:
        attack = re.match(r"test_(pgd\d+|cw)@", measure)
        assert attack is None or attack[1] in tested
        if "robust" in measure:
            assert all(config.train.validation_attack for config in made.configs.values())


def test_without_other_flags_the_scale_is_the_papers():
    for name in PROMISED:
        assert design(f"--experiment={name}").scale == ""


def test_the_papers_settings():
    made = design("--experiment=fig1")
    config = made.configs["boosting"]
    assert config.data.name == "cifar10"
    assert config.data.validation_examples == 5000
    assert config.model.label == "vgg16"
    assert config.model.normalize
    assert (config.search.epochs, config.ticket_train.epochs) == (100, 100)
    assert config.search.schedule.peak == 0.01
    assert config.search.schedule.warmup_epochs == 0
    assert config.winning_search.schedule.peak == 0.1
    assert config.ticket_train.schedule.warmup_epochs == 9
    assert config.prune.sparsity == 0.8
    robust = design("--experiment=table3").configs["dense"]
    assert robust.model.label == "wide_resnet-34-10"
    assert robust.train.batch_size == 128
    assert not robust.model.normalize
    assert robust.train.objective.attack.steps == 10
    assert robust.train.objective.attack.step_size == pytest.approx(2 / 255)
    assert robust.search.objective.name == "fgsm"
    assert [a.name for a in robust.attacks] == ["pgd20", "pgd100", "cw"]


def test_the_baseline_of_table_2_exists_at_both_rates():
    made = design("--experiment=table2")
    assert made.configs["dense"].train.schedule.peak == 0.1
    slow = made.configs["dense, small rate"].train.schedule
    assert (slow.peak, slow.warmup_epochs) == (0.01, 0)


def test_a_sweep_of_ratios_shares_one_search_a_seed():
    made = Study(design("--experiment=fig5", "--replicates=2", "--sweep_sparsity=0.5,0.8,0.9"))
    searches = {search.key for cell in made.cells.values() for search in cell.entry.searches}
    assert len(made.cells) == 2 * 3 * 2
    assert len(searches) == 2


def test_replicates_differ_in_every_seed_but_the_first_is_the_roots():
    alone = Study(design("--experiment=fig1", "--seed=3"))
    made = Study(design("--experiment=fig1", "--seed=3", "--replicates=3"))
    assert made.seeds[0] == 3
    assert len(set(made.seeds)) == 3
    # One replicate more does no work twice.
    assert made.cells["dense", 3].entry.train.key == alone.cells["dense", 3].entry.train.key
    keys = {made.cells["dense", seed].entry.train.key for seed in made.seeds}
    assert len(keys) == 3
    starts = {made.cells["dense", seed].entry.train.parents["start"].key for seed in made.seeds}
    assert len(starts) == 3


def test_labels_tell_arms_and_seeds_apart():
    made = Study(design("--experiment=fig4", "--replicates=2"))
    labels = {}
    for cell in made.cells.values():
        for stage in cell.entry.evaluations.values():
            for each in (stage, *stage.parents.values()):
                labels.setdefault(each.label, set()).add(each.key)
    assert all(len(keys) == 1 for keys in labels.values())


def test_less_than_the_paper_is_told():
    scale = design("--experiment=fig1", "--epochs=6", "--width_multiplier=1/4").scale
    assert scale == (
        "other settings: --width_multiplier 0.25 instead of 1; --epochs 6 instead of 100; "
        "--search_epochs its default instead of 100"
    )
    assert "--train_examples 500 instead of all" in design("--experiment=fig1",
                                                          "--train_examples=500").scale  # fmt: skip
    assert "--model resnet18" not in design("--experiment=fig1", "--model=resnet18").scale
    assert "--model lenet instead of vgg" in design("--experiment=fig7", "--model=lenet").scale
    sweep = design("--experiment=fig2", "--sweep_epochs=2,6").scale
    assert sweep == "other settings: --sweep_epochs 2,6 instead of 20,40,60,80,100"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fig1", "--replicates=0"], "--replicates: got 0, must be 1 or more"),
        (["fig5", "--sparsity=0.5"], "--sparsity: experiment fig5 sets it itself.*sweep_sparsity"),
        (["fig1", "--compare=dense"], "--compare: experiment fig1 sets it itself"),
        (["fig1", "--objective=pgd"], "--objective: got 'pgd'.*'natural' or left out"),
        (["fig1", "--attacks=pgd20"], "--attacks: "),
        (["fig1", "--sweep_epochs=3"], "--sweep_epochs: experiment fig1 does not sweep that"),
        (["fig2", "--sweep_rates=3"], "--sweep_rates: .* it has --sweep_epochs"),
        (["fig2", "--sweep_epochs="], "--sweep_epochs: got ''"),
        (["fig2", "--sweep_epochs=2,2"], "each value once"),
        (["fig2", "--sweep_epochs=2.5"], "--sweep_epochs: got '2.5', must be a whole number"),
        (["fig5", "--sweep_sparsity=1"], "--sweep_sparsity: got '1', must be a number, 0 to 0.999"),
        (["fig4", "--sweep_rates=0"], "--sweep_rates: got '0'"),
        (["fig6", "--sweep_depths=11"], "^--sweep_depths: got 11"),
        (["fig2", "--sweep_epochs=inf"], "--sweep_epochs: got 'inf'"),
        (["fig9", "--model=lenet"], "two networks called 'lenet, dense'"),
        (["fig1", "--ticket=x"], "--ticket: an experiment searches its own"),
    ],
)
def test_what_an_experiment_refuses(arguments, message):
    with pytest.raises(UsageError, match=message):
        design(f"--experiment={arguments[0]}", *arguments[1:])


def test_sweeps_come_in_order():
    sweep = Sweep("sweep_epochs", (1, 2), whole=True)
    assert sweep.check([5.0, 2.0]) == (2, 5)
    assert isinstance(sweep.check([5.0])[0], int)


def test_published_values_go_with_the_share_of_the_training():
    base = Base({"epochs": 10, "model": "vgg", "search_learning_rate": 0}, {})
    assert base.of_full(2, {20: 0.5, 40: 0.6}) == 0.5
    assert base.of_full(3, {20: 0.5, 40: 0.6}) is None
    arms = {arm.name: arm for arm in design("--experiment=fig2", "--epochs=10",
                                           "--sweep_epochs=2,3,10").arms}  # fmt: skip
    assert arms["boosting, 2 epochs"].published == {"test_natural@last": 0.9125}
    assert arms["boosting, 3 epochs"].published == {}
    assert arms["winning, 10 epochs"].published == {"test_natural@last": 0.92}


FLAGFILES = sorted((ROOT / "flags").glob("*/*.flags")) if (ROOT / "flags").exists() else []


def test_there_is_a_flagfile_of_both_scales_for_every_experiment():
    names = {path.relative_to(ROOT / "flags").with_suffix("").as_posix() for path in FLAGFILES}
    assert names >= {f"{scale}/{name}" for scale in ("paper", "small") for name in PROMISED}


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_flagfiles(path):
    made = design(f"--flagfile={path}")
    assert Study(made).targets
    text = path.read_text()
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert f"./run.sh flags/{path.parent.name}/{path.name}" in text
    assert "Hardware" in text
    assert max(map(len, header)) <= 100
    assert path.stem.startswith(made.experiment.id)
    if path.parent.name == "paper":
        assert made.scale == ""
        assert set(re.findall(r"^--(\w+)", text, re.M)) >= {"dataset", "seed", "replicates"}
    else:
        assert made.scale
        assert len(made.seeds) >= 3
    for sweep in made.experiment.sweeps:
        assert f"--{sweep.flag}=" in text


def test_what_curves_say_after_an_epoch_is_not_declared():
    # ``lay_over`` takes such values for the curves' own and replaces them.
    for name in PROMISED:
        for arm in design(f"--experiment={name}").arms:
            assert not [word for word in arm.published if word.startswith("validation")]


def test_the_longest_search_stands_for_the_longest_published_one():
    def runs(*arguments):
        arms = design("--experiment=search_epochs", *arguments).arms
        return {
            arm.name.removeprefix("boosting, search of "): arm.reference
            for arm in arms
            if arm.kind == "boosting"
        }

    whole = runs()
    assert whole["1"] == "fgsm_steps/1/init_enhance_madry_m0.01_warmup0.1_nn"
    assert whole["40"] == "fgsm_steps/40/init_enhance_madry_m0.01_warmup0.1_nn"
    assert whole["100"] == "nat_fgsm_madry/fgsm/init_enhance_madry_m0.01_warmup0.1_nn"
    # However long the retraining is: 4 of 20 epochs of search are 20 of 100.
    small = runs("--epochs=5", "--sweep_search_epochs=1,4,10,20")
    assert small == {
        "1": whole["1"], "4": whole["20"], "20": whole["100"],
        "10": "fgsm_steps/50/init_enhance_madry_m0.01_warmup0.1_nn",
    }  # fmt: skip


def test_every_sweep_has_a_flag():
    assert set(SWEEPS) <= set(flags.FLAGS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["fig1", "--sparsity=0.1"], ["fig1", "--batch_size=4096"], ["fig1", "--noaugment"],
        ["fig1", "--ticket_epochs=1"], ["fig1", "--validation_images=100"], ["fig10", "--rounds=1"],
        ["table5", "--patience=1"], ["table5", "--epochs=1"], ["fig9", "--eps=0.01"],
        ["table3", "--attacks=pgd20"], ["fig8", "--normalize"],
    ],
)  # fmt: skip
def test_every_other_setting_is_told(arguments):
    made = design(f"--experiment={arguments[0]}", arguments[1])
    assert made.scale.startswith("other settings: ")
    assert arguments[1].lstrip("-").removeprefix("no").split("=")[0] in made.scale


@pytest.mark.parametrize(
    "argument",
    ["--depth=16", "--learning_rate=0.1", "--batch_size=64", "--search_epochs=0", "--seed=5",
     "--warmup_epochs=9", "--normalize"],
)  # fmt: skip
def test_a_default_spelt_out_is_no_other_setting(argument):
    assert design("--experiment=fig1", argument).scale == ""


def test_a_search_is_as_long_as_the_training_unless_told():
    assert design("--experiment=fig1").configs["boosting"].search.epochs == 100
    assert design("--experiment=fig1", "--epochs=4").configs["boosting"].search.epochs == 4


def test_short_schedules_have_an_epoch_at_the_peak():
    made = design("--experiment=fig2", "--epochs=10", "--sweep_epochs=2,4,10", "--warmup_epochs=3")
    warmups = {
        config.ticket_train.epochs: config.ticket_train.schedule.warmup_epochs
        for config in made.configs.values()
    }
    assert warmups == {2: 0, 4: 1, 10: 3}
    # One search serves all of them.
    assert {config.winning_search.schedule.warmup_epochs for config in made.configs.values()} == {3}
    assert len({config.winning_search for config in made.configs.values()}) == 1


def test_transfer_of_the_paper_stands_beside_ours():
    made = Study(design("--experiment=table3", "--epochs=10", "--sweep_epochs=4,5,10"))
    names = ["dense", "ticket, 4 epochs", "ticket, 5 epochs", "ticket, 10 epochs"]
    assert [arm.name for arm in made.design.arms] == names
    # Made on the row's, classified by the column's: Table 3 of the paper, its text of rows
    # "40, Madry" and "Madry, 40".
    assert made._transfer_published() == [
        [None, 0.5816, None, 0.5763],
        [0.5869, None, None, 0.5611],
        [None, None, None, None],
        [0.5861, 0.5662, None, None],
    ]
    other = Study(design("--experiment=table3", "--model=vgg"))
    assert other._transfer_published() is None


def test_transfer_uses_the_settings_of_evaluation():
    made = Study(design("--experiment=table3", "--eval_norm=l2", "--eval_eps=0.25"))
    attack = made.transfers[0].runtime["attack"]
    assert (attack.norm, attack.eps) == ("l2", 0.25)
    assert attack in made.design.configs["dense"].attacks


def test_costs_above_the_dense_training_are_expected_where_the_paper_found_them():
    expected = {c.id: c.expect for c in design("--experiment=table3").claims}
    assert expected["cost_40"] == expected["cost_70"] == "less"
    assert expected["cost_100"] == "more"


def test_published_numbers_go_with_the_papers_network_alone():
    arms = design("--experiment=table3", "--model=vgg").arms
    assert not any(arm.published for arm in arms)


def test_nothing_is_compared_with_itself():
    assert design("--experiment=fig4", "--sweep_rates=0.01").claims == []
