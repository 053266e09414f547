"""Which stages a config asks for, and what they share."""

import pytest

from tf_lottery.engine.stage import ancestors, in_order
from tf_lottery.errors import UsageError
from tf_lottery.lottery import graph
from tf_lottery.lottery.graph import entries
from tf_lottery.options.build import lottery_config
from tf_lottery.options.settings import KINDS, derive_seed, settings
from tf_lottery.pruning import sparsities


def config(**changes):
    changes = {"epochs": 6, "search_epochs": 3, "compare": KINDS, "eps": 0.1} | changes
    return lottery_config(**changes)


def by_kind(**changes):
    return {entry.kind: entry for entry in entries(config(**changes))}


def keys(stages, kind=None):
    return {stage.key for stage in stages if kind in (None, stage.kind)}


def all_stages(entry):
    return in_order(entry.stages)


def test_one_entry_a_kind_in_the_order_asked_for():
    chosen = entries(config(compare=("reinit", "dense")))
    assert [entry.kind for entry in chosen] == ["reinit", "dense"]


def test_the_dense_baseline():
    dense = by_kind()["dense"]
    assert dense.ticket is None
    assert dense.searches == []
    assert [s.kind for s in all_stages(dense)] == [
        "init",
        "train",
        "evaluate",
        "evaluate",
        "export",
    ]
    assert dense.train.settings["train"] == settings(config().train)


def test_the_boosting_ticket():
    boosting = by_kind()["boosting"]
    kinds = [s.kind for s in all_stages(boosting)]
    assert kinds == ["init", "train", "prune", "train", "evaluate", "evaluate", "export"]
    (search,) = boosting.searches
    assert search.settings["train"] == settings(config().search)
    assert search.settings["train"]["schedule"]["peak"] == 0.01
    assert boosting.ticket.parents == {"start": search.parents["start"], "trained": search}
    assert boosting.train.parents == {"ticket": boosting.ticket}
    assert boosting.train.settings["train"] == settings(config().ticket_train)
    assert boosting.export.parents == {"trained": boosting.train, "ticket": boosting.ticket}


def test_both_epochs_are_evaluated_and_the_best_exported():
    for entry in by_kind().values():
        assert set(entry.evaluations) == {"best", "last"}
        for which, stage in entry.evaluations.items():
            assert stage.settings["weights"] == which
            assert stage.parents == {"trained": entry.train}
        assert entry.export.settings == {"weights": "best"}


def test_the_winning_ticket_is_searched_at_the_large_rate_with_warmup():
    winning = by_kind()["winning"]
    (search,) = winning.searches
    schedule = search.settings["train"]["schedule"]
    assert schedule["peak"] == 0.1
    assert schedule["warmup_start"] == 0.01
    assert schedule["warmup_epochs"] == 1
    assert search.settings["train"]["epochs"] == 3
    assert by_kind()["boosting"].searches[0].key != search.key


def test_all_start_from_the_same_initialisation_but_reinit():
    chosen = by_kind()
    init = chosen["dense"].train.parents["start"]
    for kind in ("boosting", "winning", "random_mask"):
        assert keys(all_stages(chosen[kind]), "init") == {init.key}
    inits = [s for s in all_stages(chosen["reinit"]) if s.kind == "init"]
    assert len({s.key for s in inits}) == 2
    assert len({s.settings["seed"] for s in inits}) == 2
    fresh = chosen["reinit"].ticket.parents["start"]
    assert fresh.key != init.key


def test_controls_share_the_boosting_search():
    chosen = by_kind()
    for kind in ("reinit", "random_mask"):
        assert chosen[kind].ticket.parents["ticket"].key == chosen["boosting"].ticket.key
        assert keys(chosen[kind].searches) == keys(chosen["boosting"].searches)
    trains = {kind: entry.train.key for kind, entry in chosen.items()}
    assert len(set(trains.values())) == len(KINDS) - 1
    assert trains["dense_twin"] == trains["dense"]  # tickets are trained as it is
    searches = keys(s for entry in chosen.values() for s in entry.searches)
    assert len(searches) == 3  # boosting's, early's and winning's


def test_the_twin_is_the_dense_network_trained_as_the_tickets_are():
    chosen = by_kind(ticket_objective="fgsm", ticket_epochs=7)
    twin, boosting = chosen["dense_twin"], chosen["boosting"]
    assert twin.ticket is None
    assert twin.train.settings["train"] == boosting.train.settings["train"]
    assert twin.train.settings["train"]["epochs"] == 7
    assert twin.train.parents["start"].key == chosen["dense"].train.parents["start"].key
    assert twin.train.key != chosen["dense"].train.key


def test_another_sparsity_keeps_the_searches():
    ours, theirs = by_kind(sparsity=0.8), by_kind(sparsity=0.5)
    for kind in ("boosting", "winning", "reinit", "random_mask"):
        assert keys(ours[kind].searches) == keys(theirs[kind].searches)
        assert ours[kind].ticket.key != theirs[kind].ticket.key
        assert ours[kind].train.key != theirs[kind].train.key
    assert keys(all_stages(ours["dense"])) == keys(all_stages(theirs["dense"]))


@pytest.mark.parametrize(
    "change",
    [
        {"attacks": ("fgsm",)},
        {"test_examples": 50},
        {"eval_step_size": 0.01},
        {"restarts": 3},
    ],
    ids=str,
)
def test_evaluation_settings_keep_the_training(change):
    ours, theirs = by_kind(), by_kind(**change)
    for kind in KINDS:
        assert ours[kind].train.key == theirs[kind].train.key
        assert ours[kind].export.key == theirs[kind].export.key
        assert not keys(ours[kind].evaluations.values()) & keys(theirs[kind].evaluations.values())


@pytest.mark.parametrize(
    "change",
    [
        {"search_epochs": 2},
        {"search_learning_rate": 0.02},
        {"search_objective": "pgd"},
        {"seed": 1},
        {"train_examples": 500},
        {"image_size": 4},
        {"validation_examples": 50},
        {"model": "lenet"},
        {"width_multiplier": 0.5},
        {"normalize": True},
        {"batch_size": 32},
        {"momentum": 0.5},
        {"weight_decay": 0.0},
        {"augment": True},
        {"eps": 0.2},
        {"dtype_policy": "mixed_bfloat16"},
        {"deterministic": True},
    ],
    ids=str,
)
def test_what_changes_a_search_changes_its_key(change):
    assert not keys(by_kind()["boosting"].searches) & keys(by_kind(**change)["boosting"].searches)


@pytest.mark.parametrize("change", [{"epochs": 7}, {"ticket_epochs": 5}, {"steps": 3}], ids=str)
def test_what_concerns_retraining_alone_keeps_the_search(change):
    ours, theirs = by_kind()["boosting"], by_kind(**change)["boosting"]
    assert ours.ticket.key == theirs.ticket.key
    assert ours.train.key != theirs.train.key


def test_the_place_of_the_data_changes_nothing():
    ours, theirs = by_kind(), by_kind(data_dir="/elsewhere")
    for kind in KINDS:
        assert keys(all_stages(ours[kind])) == keys(all_stages(theirs[kind]))


def test_an_image_size_changes_every_key():
    """The initialisation's too: of a dense layer behind the pixels there are other weights."""
    ours, theirs = by_kind(), by_kind(image_size=4)
    for kind in KINDS:
        assert not keys(all_stages(ours[kind])) & keys(all_stages(theirs[kind]))


def test_a_run_of_dense_alone_searches_nothing():
    chosen = entries(config(compare=("dense",)))
    assert keys(s for e in chosen for s in all_stages(e) if s.kind == "prune") == set()


@pytest.mark.parametrize(
    ("changes", "rounds"),
    [
        ({"pruning_schedule": "geometric", "sparsity": 0.8}, 8),
        ({"pruning_schedule": "geometric", "sparsity": 0.36}, 2),
        ({"pruning_schedule": "decreasing", "rounds": 4}, 4),
        ({"pruning_schedule": "one_shot"}, 1),
    ],
    ids=str,
)
def test_iterative_pruning_is_a_chain(changes, rounds):
    chosen = by_kind(**changes)
    boosting = chosen["boosting"]
    searches = boosting.searches
    assert len(searches) == rounds
    prunes = [s for s in in_order([boosting.ticket]) if s.kind == "prune"]
    assert [s.settings["sparsity"] for s in prunes] == sparsities(config(**changes).prune)
    init = searches[0].parents["start"]
    for number, (search, prune) in enumerate(zip(searches, prunes, strict=True)):
        assert prune.parents["trained"] is search
        assert prune.parents["start"].key == init.key
        if number:
            assert search.parents == {"ticket": prunes[number - 1]}
            assert prune.parents["ticket"] is prunes[number - 1]
        else:
            assert search.parents == {"start": init}
            assert "ticket" not in prune.parents
    assert {s.settings["train"]["schedule"]["peak"] for s in searches} == {0.01}
    # Rounds have names of their own, so that their logs do not mix.
    assert len({s.label for s in searches}) == rounds


def test_the_first_round_is_shared_between_iterative_and_one_shot():
    one_shot, geometric = by_kind(), by_kind(pruning_schedule="geometric")
    assert geometric["boosting"].searches[0].key == one_shot["boosting"].searches[0].key


def test_rewinding_to_an_epoch_keeps_its_weights():
    chosen = by_kind(rewind_epoch=2, pruning_schedule="decreasing", rounds=3)
    boosting = chosen["boosting"]
    searches = boosting.searches
    assert searches[0].settings["train"]["keep_epochs"] == [2]
    for prune in (s for s in in_order([boosting.ticket]) if s.kind == "prune"):
        assert prune.settings["rewind_epoch"] == 2
        assert prune.parents["rewind"] is searches[0]
    assert boosting.ticket.key != by_kind()["boosting"].ticket.key
    assert "keep_epochs" not in by_kind()["boosting"].searches[0].settings["train"]


def test_random_scores_depend_on_the_seed():
    stage = by_kind(score="random")["boosting"].ticket
    assert "seed" in stage.settings
    assert "seed" not in by_kind()["boosting"].ticket.settings


class Given:
    digest = "d" * 64
    structure = "weights"


def test_a_given_ticket_takes_the_place_of_the_search():
    chosen = {e.kind: e for e in entries(config(), Given())}
    boosting = chosen["boosting"]
    assert boosting.searches == []
    assert boosting.ticket.settings == {"given": Given.digest}
    assert ancestors(boosting.ticket) == []
    for kind in ("reinit", "random_mask"):
        assert chosen[kind].ticket.parents["ticket"].key == boosting.ticket.key
        assert chosen[kind].searches == []
    # The winning ticket and the dense network are what they were.
    plain = by_kind()
    for kind in ("winning", "dense"):
        assert keys(all_stages(chosen[kind])) == keys(all_stages(plain[kind]))


def test_flying_bird_starts_sparse_and_changes_its_masks():
    chosen = by_kind()["flying_bird"]
    assert [s.kind for s in all_stages(chosen)] == [
        "init", "prune", "train", "evaluate", "evaluate", "export",
    ]  # fmt: skip
    assert chosen.searches == []
    assert chosen.ticket.key == by_kind(layer_density="igq")["random"].ticket.key
    training = settings(config().ticket_train)
    update = {"name": "flying_bird", "interval": 0, "fraction": 0.5, "growth": "random"}
    assert chosen.train.settings["train"] == {**training, "sparsity_update": update}
    assert chosen.last_ticket is chosen.train
    asked = by_kind(sparsity_update="flying_bird_plus", update_interval=7, growth="gradient")
    update = {"name": "flying_bird_plus", "interval": 7, "fraction": 0.5, "growth": "gradient"}
    assert asked["flying_bird"].train.settings["train"]["sparsity_update"] == update
    # Its options count where no other training changes masks.
    asked = by_kind(update_interval=7)
    assert asked["flying_bird"].train.settings["train"]["sparsity_update"]["interval"] == 7
    assert by_kind()["boosting"].train.key == asked["boosting"].train.key


def test_masks_change_in_the_retraining_of_tickets_alone():
    plain, changing = by_kind(), by_kind(sparsity_update="flying_bird")
    for kind in KINDS:
        assert keys(plain[kind].searches) == keys(changing[kind].searches)
        same = kind in ("dense", "dense_twin", "flying_bird")
        assert (plain[kind].train.key == changing[kind].train.key) == same
    assert plain["dense"].last_ticket is None
    assert plain["boosting"].last_ticket is plain["boosting"].ticket
    assert changing["boosting"].last_ticket is changing["boosting"].train
    assert changing["boosting"].ticket.key == plain["boosting"].ticket.key


def test_changing_masks_need_something_pruned():
    with pytest.raises(UsageError, match=r"--sparsity_update: got 'flying_bird'.*--sparsity=0"):
        config(sparsity_update="flying_bird", sparsity=0.0)


@pytest.mark.parametrize("kind", ["boosting", "reinit"])
def test_a_ticket_of_channels_has_no_masks_to_change(kind):
    cut = {"compare": (kind,), "structure": "channels", "sparsity": 0.5}
    assert by_kind(**cut)
    with pytest.raises(UsageError, match=r"--sparsity_update: got 'flying_bird'.*channels"):
        by_kind(sparsity_update="flying_bird", **cut)


def test_seeds_of_purposes_differ():
    chosen = by_kind()
    seeds = {
        chosen["random_mask"].ticket.settings["seed"],
        chosen["dense"].train.parents["start"].settings["seed"],
        chosen["reinit"].ticket.parents["start"].settings["seed"],
    }
    assert len(seeds) == 3


# Ways to a ticket --------------------------------------------------------------


@pytest.mark.parametrize("way", ["early", "snip", "grasp", "synflow", "random"])
def test_a_boosting_ticket_found_in_another_way_is_that_kind(way):
    chosen = by_kind(search=way)
    boosting = chosen["boosting"]
    assert boosting.ticket.key == by_kind()[way].ticket.key == chosen[way].ticket.key
    assert boosting.train.key == chosen[way].train.key
    assert boosting.ticket.label == f"prune: boosting ({way})"
    assert chosen[way].ticket.label == f"prune: {way}"
    assert graph.way_of(boosting.ticket) == way
    for kind in ("reinit", "random_mask"):  # of the boosting ticket, whatever it is
        assert chosen[kind].ticket.parents["ticket"].key == boosting.ticket.key
    plain = by_kind()
    assert plain["boosting"].ticket.key != boosting.ticket.key
    assert graph.way_of(plain["boosting"].ticket) == "train"
    for kind in ("winning", "dense"):
        assert keys(all_stages(chosen[kind])) == keys(all_stages(plain[kind]))


@pytest.mark.parametrize("way", ["snip", "grasp", "synflow", "random"])
def test_without_a_search(way):
    entry = by_kind()[way]
    assert entry.searches == []
    assert [s.kind for s in in_order([entry.ticket])] == ["init", "prune"]
    assert entry.ticket.parents["start"].key == by_kind()["dense"].train.parents["start"].key


def test_keys_hold_what_a_score_looks_at_and_nothing_else():
    ours, seed = by_kind(), derive_seed(0, "score")
    common = {"sparsity": 0.8, "scope": "global", "rewind_epoch": 0}
    assert ours["synflow"].ticket.settings == {"score": "synflow", **common}
    assert ours["random"].ticket.settings == {
        **common, "score": "random", "scope": "erk", "seed": seed,
    }  # fmt: skip
    for way in ("snip", "grasp"):
        assert ours[way].ticket.settings == {
            **common, "score": way, "seed": seed, "data": graph.training_data(config()),
            "objective": settings(config().search.objective),
        }  # fmt: skip
    natural = by_kind(search_objective="natural")
    for way, same in (("snip", False), ("grasp", False), ("synflow", True), ("random", True)):
        assert (natural[way].ticket.key == ours[way].ticket.key) == same
    longer = by_kind(search_epochs=5, search_learning_rate=0.2)
    for way in ("snip", "grasp", "synflow", "random"):
        assert longer[way].ticket.key == ours[way].ticket.key


@pytest.mark.parametrize(
    ("density", "scope"), [("uniform", "layer"), ("erk", "erk"), ("igq", "igq")]
)
def test_densities_of_random_layers(density, scope):
    assert by_kind(layer_density=density)["random"].ticket.settings["scope"] == scope
    assert by_kind(layer_density=density)["boosting"].ticket.key == by_kind()["boosting"].ticket.key


def test_an_early_search_says_in_its_key_when_it_ends():
    early, boosting = by_kind()["early"], by_kind()["boosting"]
    (search,), (whole,) = early.searches, boosting.searches
    assert search.settings["train"] == {
        **whole.settings["train"],
        "settling": {
            "distance": 0.1, "sparsity": 0.8, "score": "normalized_magnitude", "scope": "global",
        },
    }  # fmt: skip
    assert "settling" not in whole.settings["train"]
    changes = (
        {"mask_distance": 0.2},
        {"sparsity": 0.5},
        {"score": "magnitude"},
        {"scope": "layer"},
    )
    for change in changes:
        other = by_kind(**change)
        assert other["early"].searches[0].key != search.key
        assert other["boosting"].searches[0].key == whole.key
    # Retraining does not end early.
    assert "settling" not in early.train.settings["train"]


def test_each_round_of_an_early_search_watches_its_own_mask():
    found = by_kind(pruning_schedule="decreasing", rounds=3)["early"].searches
    assert [s.settings["train"]["settling"]["sparsity"] for s in found] == pytest.approx(
        sparsities(config(pruning_schedule="decreasing", rounds=3).prune)
    )


def test_to_keep_the_weights_of_the_search():
    chosen = by_kind(rewind_epoch="current", pruning_schedule="decreasing", rounds=3)
    boosting = chosen["boosting"]
    prunes = [s for s in in_order([boosting.ticket]) if s.kind == "prune"]
    for prune, search in zip(prunes, boosting.searches, strict=True):
        assert prune.settings["rewind_epoch"] == "current"
        assert prune.parents["rewind"] is search is prune.parents["trained"]
        assert "keep_epochs" not in search.settings["train"]
    assert chosen["snip"].ticket.settings["rewind_epoch"] == 0  # nothing is trained for it
