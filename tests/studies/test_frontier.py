"""The frontier's arms: budgets that are kept, whole schedules, and what is asked of them."""

from dataclasses import asdict

import pytest

from tf_lottery.channels import choose_channels
from tf_lottery.cutting import cut
from tf_lottery.errors import UsageError
from tf_lottery.lottery.costs import training_cost
from tf_lottery.lottery.graph import make_entry
from tf_lottery.models import build_model, forward_flops
from tf_lottery.objectives import passes_of
from tf_lottery.options import command as flags
from tf_lottery.options.build import lottery_config
from tf_lottery.options.channels import ChannelOptions
from tf_lottery.pruning.masks import wrap
from tf_lottery.studies import frontier
from tf_lottery.studies.frontier import BEST, BUDGETS, TRAININGS
from tf_lottery.study_cli import make_design
from tf_lottery.weights import get_weights

SMALL = ("--experiment=frontier", "--model=vgg", "--depth=8", "--width_multiplier=0.25")


def design(*arguments):
    return make_design(flags.parse([*SMALL, "--epochs=40", *arguments]))


@pytest.fixture(scope="module")
def made():
    return design()


def spent(config, kind):
    """F of search and retraining, of an image of the whole network."""
    entry = make_entry(config, kind)
    trainings = [stage.runtime["train"] for stage in (*entry.searches, entry.train)]
    search, train = (
        sum(training_cost(one, one.batch_size, 1).flops / one.batch_size for one in part)
        for part in (trainings[:-1], trainings[-1:])
    )
    return search, train


@pytest.mark.parametrize(
    "objective", ["natural", "free", "fgsm", "n_fgsm", "pgd", "pgd3", "trades"]
)
def test_passes_are_those_of_the_ledger(objective):
    config = lottery_config(objective=objective, search_objective=objective, steps=7)
    assert frontier.passes(objective, 7) == sum(passes_of(config.train.objective))


def test_no_budget_is_passed_and_hardly_any_is_left(made):
    whole = spent(made.configs["dense"], "dense")[1]
    assert whole == 40 * 23
    checked = 0
    for arm in made.arms:
        if arm.name in ("dense", frontier.SMALL_RATE):
            continue
        config = made.configs[arm.name]
        search, train = spent(config, arm.kind)
        width = 1 - config.prune.channel_sparsity if config.prune.channels else 1.0
        if config.model.width_multiplier < 0.25:
            width = config.model.width_multiplier / 0.25
        total, budget = search + width**2 * train, arm.x * whole
        assert total <= budget * (1 + 1e-9), arm.name
        # Not another epoch of retraining would fit: of two objectives, of the cheaper one.
        epoch = min(sum(passes_of(part.objective)) for part in config.ticket_train.parts)
        assert total + width**2 * epoch > budget * (1 - 1e-9), arm.name
        checked += 1
    assert checked > 100


def test_every_way_is_there_at_every_budget_that_it_fits(made):
    at = {
        budget: {arm.series or arm.name for arm in made.arms if arm.x == budget}
        for budget in BUDGETS
    }
    quarter = at[1 / 4]
    assert {f"dense, {name}" for name in TRAININGS} <= quarter
    ways = (*frontier.TICKETS, frontier.REINIT, *frontier.SMALL.values())
    assert {f"{way.name}, {name}" for way in ways for name in BEST} <= quarter
    # The baseline is dense PGD training for all of the cost.
    assert at[1] == quarter - {"dense, PGD"} | {"dense", frontier.SMALL_RATE}
    # 40 epochs of PGD are 1.25 for 1/32 of the cost, and N-FGSM 5 for as much: no search of six.
    assert "dense, PGD" in at[1 / 32]
    assert not any(series.startswith("early") for series in at[1 / 32])
    assert len({arm.name for arm in made.arms}) == len(made.arms)


def test_settings_of_some_arms(made):
    tail = made.configs["dense, N-FGSM, PGD at the end: 1/4"].ticket_train
    assert [(part.objective.name, part.epochs) for part in tail.parts] == [
        ("n_fgsm", 36),
        ("pgd", 2),
    ]
    assert tail.parts[1].objective.attack.steps == 10
    assert (tail.schedule.name, tail.schedule.warmup_epochs) == ("triangular", 0)
    assert made.configs["dense, PGD: 1/2"].ticket_train.schedule == (
        made.configs["dense"].train.schedule
    )
    paper = made.configs[frontier.PAPER_TICKET]
    assert (paper.search.objective.name, paper.ticket_train.objective.name) == ("fgsm", "pgd")
    assert made.configs[frontier.SMALL_RATE].train.schedule.peak == paper.search.schedule.peak
    cut = made.configs["50% of channels cut, N-FGSM: 1/8"]
    assert cut.prune.channels
    assert cut.prune.channel_score == "filter_norm"
    assert (cut.search.objective.name, cut.search.epochs) == ("natural", 7)
    small = made.configs["dense, 50% wide, N-FGSM: 1/8"].model.width_multiplier
    assert small == 0.125
    assert made.configs["random 90% sparse, N-FGSM: 1/8"].prune.sparsity == 0.9
    assert {made.configs[arm.name].train.objective.name for arm in made.arms} == {"pgd"}


def test_what_is_asked_is_of_arms_that_are_there(made):
    names = {arm.name for arm in made.arms}
    assert {name for claim in made.claims for name in (claim.ours, claim.theirs)} <= names
    assert len({claim.id for claim in made.claims}) == len(made.claims)
    assert {claim.measure for claim in made.claims} == {"test_autoattack@best"}
    told = {claim.id: claim for claim in made.claims}
    assert (told["cheap_0_4"].expect, told["cheap_0_4"].margin) == ("not_less", 0.005)
    assert told["cheap_0_4"].ours == "dense, N-FGSM: 1/4"
    better = told["boosting_ticket_its_mask_re_initialised_1_8"]
    assert (better.expect, better.margin) == ("more", 0.0)
    assert better.text == (
        "at 1/8 of the cost boosting ticket beats its mask re-initialised under N-FGSM, PGD at "
        "the end"
    )
    assert better.theirs == "its mask re-initialised, N-FGSM, PGD at the end: 1/8"
    series = {arm.series for arm in made.arms} | names
    for figure in frontier.FRONTIER.figures:
        assert set(figure.arms) <= series
        assert figure.form == "frontier"


def test_budgets_of_ones_own():
    found = design("--sweep_budgets=0.3,0.05")
    assert {arm.x for arm in found.arms} == {1.0, 0.51, 0.3, 0.05}
    assert "dense, N-FGSM: 0.3" in found.configs
    assert "dense, N-FGSM: 1/20" in found.configs
    assert {claim.id.rsplit("_", 1)[1] for claim in found.claims} == {
        "own",
        "fair",
        "20",
        "3.33333",
    }


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("--sweep_budgets=0", "--sweep_budgets: got '0', must be a number, 0.000976562 to 1"),
        ("--sweep_budgets=1.5", "--sweep_budgets: got '1.5', must be a number"),
        ("--ticket_epochs=3", "--ticket_epochs: experiment frontier sets it itself"),
        ("--objective=fgsm", "--objective: got 'fgsm', must be 'pgd' or left out"),
        ("--sweep_budgets=0.001", "--sweep_budgets: got '0.001', must be more, of 40 epochs: not"),
        ("--awp_gamma=0.01", "--awp_gamma: experiment frontier sets it itself"),
        ("--ticket_steps=20", "--ticket_steps: experiment frontier sets it itself"),
        ("--sparsity=0.5", "--sparsity: experiment frontier sets it itself"),
        ("--sweep_epochs=3", "--sweep_epochs: experiment frontier does not sweep that"),
    ],
)
def test_bad_command_lines(argument, line):
    with pytest.raises(UsageError) as caught:
        design(argument)
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize("gone", sorted(frontier.CUT))
@pytest.mark.parametrize(
    ("name", "sizes"), [("vgg", {"depth": 8, "width_multiplier": 0.25}), ("resnet18", {})]
)
def test_what_cut_channels_leave_is_about_as_estimated(name, sizes, gone):
    def flops(network):
        return sum(forward_flops(network).values())

    network = build_model(name, (16, 16, 3), 10, 0, **sizes)
    way = frontier.CUT[gone]
    chosen = {**asdict(ChannelOptions()), **way.options}
    masked = wrap(network)
    masked.set_masks(choose_channels(network, get_weights(network), chosen).masks)
    found = flops(cut(masked)[0].network) / flops(network)
    assert found == pytest.approx(way.width**2, rel=0.2)
    # And the dense network as small is.
    narrow = {**sizes, "width_multiplier": way.width * sizes.get("width_multiplier", 1)}
    small = flops(build_model(name, (16, 16, 3), 10, 0, **narrow)) / flops(network)
    assert small == pytest.approx(way.width**2, rel=0.1)


def test_a_training_of_few_epochs_has_no_ticket_of_the_paper():
    found = make_design(flags.parse([*SMALL, "--epochs=1", "--sweep_budgets=0.5"]))
    assert frontier.PAPER_TICKET not in found.configs
    assert frontier.SMALL_RATE in found.configs
