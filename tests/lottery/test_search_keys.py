"""What is in the key of a search: whatever can change its mask, and nothing else."""

import json

import numpy as np
import pytest

from tests.command_line import complaint
from tf_lottery import find_ticket, lottery_config
from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.store import Store
from tf_lottery.lottery import work
from tf_lottery.lottery.graph import entries, make_entry
from tf_lottery.lottery.work import Workshop
from tf_lottery.main import main
from tf_lottery.options.build import DEFAULTS, OPTIONS

BASE = {"epochs": 6, "search_epochs": 4, "compare": ("boosting",)}
# Option -> another value of it, with what else it needs.
IN_KEY = {
    "dataset": "mnist",
    "train_examples": 500,
    "validation_examples": 100,  # the training images are the rest
    "augment": True,
    "image_size": 4,
    "search_image_size": 4,
    "skip_broken_images": True,
    "model": "lenet",
    "depth": (8, {"model": "vgg"}),
    "width": (2, {"model": "wide_resnet"}),
    "width_multiplier": 0.5,
    "normalize": True,
    "recipe": "pgd",
    "search_objective": "pgd",
    "search_phases": ("fgsm:2", "pgd:2"),
    "epochs": (7, {"search_epochs": 0}),
    "search_epochs": 5,
    "search_learning_rate": 0.02,
    "batch_size": 32,
    "schedule": "cosine",
    "rate_drops": (0.6,),
    "search": "early",
    "sparsity": (0.5, {"search": "early"}),  # whose mask has to settle
    "mask_distance": (0.2, {"search": "early"}),
    "beta": (3.0, {"search_objective": "trades"}),
    "replays": (2, {"search_objective": "free"}),
    "label_smoothing": 0.1,
    "awp_gamma": 0.01,
    "batch_norm_l1": 1e-4,
    "rewind_epoch": 2,  # the weights of that epoch are kept
    "eps": 0.1,
    "steps": (3, {"search_objective": "pgd"}),
    "step_size": (0.01, {"search_objective": "pgd"}),
    "random_start": (True, {"search_objective": "pgd"}),
    "momentum": 0.5,
    "weight_decay": 0.0,
    "dtype_policy": "mixed_bfloat16",
    "attack_loss_scale": 1024.0,
    "jit_compile": True,
    "on_overfit": "rollback",
    "devices": (3, {"sync_batch_norm": False, "devices": 2}),
    "sync_batch_norm": (False, {"devices": 2}),
    "seed": 1,
    "deterministic": True,
}
NOT_IN_KEY = {
    "test_examples": 50,
    "data_dir": "/elsewhere",
    "objective": "fgsm",
    "phases": (("fgsm:3", "pgd:3"), {"search_objective": "fgsm"}),
    "epochs": 7,  # with --search_epochs
    "ticket_epochs": 5,
    "learning_rate": 0.2,
    "warmup_start": 0.005,  # the boosting search has no warm-up
    "warmup_epochs": 2,
    "sparsity": 0.5,
    "mask_distance": 0.2,
    "layer_density": "uniform",
    "sparsity_update": "flying_bird",  # of retraining
    "update_interval": (100, {"sparsity_update": "flying_bird"}),
    "update_fraction": (0.3, {"sparsity_update": "flying_bird"}),
    "growth": ("gradient", {"sparsity_update": "flying_bird"}),
    "structure": "channels",
    "channel_sparsity": (0.3, {"structure": "channels"}),
    "channel_score": ("filter_norm", {"structure": "channels"}),
    "channel_floor": (0.2, {"structure": "channels"}),
    "channel_multiple": (16, {"structure": "channels"}),
    "beta": (3.0, {"objective": "trades"}),
    "replays": (2, {"objective": "free"}),
    "score": "magnitude",
    "scope": "layer",
    "pruning_schedule": "geometric",  # of the first round
    "rounds": (4, {"pruning_schedule": "decreasing"}),
    "round_fraction": (0.5, {"pruning_schedule": "geometric"}),
    "steps": 3,  # of an FGSM search
    "step_size": 0.01,
    "random_start": True,
    "validation_attack": "pgd3",
    "validation_images": 20,
    "patience": 2,
    "ema_decay": 0.9,
    "attack_loss_scale": 1.0,  # the default, spelt out
    "data_on_device": "on",
    "checkpoint_minutes": 1.0,
    "on_nan": "rollback",
    "attacks": ("fgsm",),
    "eval_norm": ("l2", {"attacks": ("pgd20",)}),
    "eval_eps": 0.1,
    "eval_step_size": 0.01,
    "eval_random_start": False,
    "restarts": 2,
    "compare": ("dense", "boosting"),
}

# What one training may be told by itself: as if all were, of the search alone.
for _name, _told in OPTIONS.items():
    if _told.role == "search":
        IN_KEY.setdefault(_name, IN_KEY.get(_name.removeprefix("search_")))
    elif _told.role:
        _shared = _name.removeprefix(f"{_told.role}_")
        NOT_IN_KEY.setdefault(_name, NOT_IN_KEY.get(_shared, IN_KEY.get(_shared)))


def first_search(**options):
    (entry,) = [e for e in entries(lottery_config(**BASE | options)) if e.kind == "boosting"]
    return entry.searches[0]


def changed(told):
    """Value and companions."""
    value = told if isinstance(told, tuple) and len(told) == 2 else (told, {})
    return value if isinstance(value[1], dict) else (told, {})


def test_every_option_is_told_apart():
    assert set(IN_KEY) | set(NOT_IN_KEY) == set(DEFAULTS)


@pytest.mark.parametrize("name", sorted(IN_KEY))
def test_in_the_key(name):
    value, others = changed(IN_KEY[name])
    assert first_search(**others | {name: value}).key != first_search(**others).key


@pytest.mark.parametrize("name", sorted(NOT_IN_KEY))
def test_not_in_the_key(name):
    value, others = changed(NOT_IN_KEY[name])
    config = lottery_config(**BASE | others | {name: value})
    plain = lottery_config(**BASE | others)
    assert config != plain, "changes nothing"
    assert first_search(**others | {name: value}).key == first_search(**others).key


def test_the_default_search_keeps_its_key():
    """Stores that users have hold it."""
    assert first_search().key == "958bc25ac1f83a54"


def test_a_natural_search_is_one_search_whatever_the_others_train_on():
    natural = {"search_objective": "natural", "normalize": False}
    ours = first_search(**natural)
    assert ours.settings["train"]["validation_attack"] is None
    for others in ({"objective": "natural"}, {"eps": 0.2}, {"on_overfit": "stop"}):
        assert first_search(**natural, **others).key == ours.key


@pytest.mark.parametrize("change", [{"validation_attack": "pgd3"}, {"validation_images": 20}])
def test_where_validation_goes_back_it_counts(change):
    going_back = {"on_overfit": "rollback"}
    assert first_search(**going_back, **change).key != first_search(**going_back).key


def test_a_search_that_is_the_dense_training_is_done_with_it():
    options = {"objective": "natural", "search_objective": "natural", "epochs": 4}
    options |= {"compare": ("dense", "winning"), "validation_images": 20}
    dense, winning = entries(lottery_config(**options))
    assert winning.searches[0].key == dense.train.key


# What comes of it --------------------------------------------------------------------

TINY = {
    "train_examples": 64, "validation_examples": 40, "test_examples": 10, "batch_size": 16,
    "epochs": 1, "search_epochs": 2, "width_multiplier": 0.05, "attacks": (), "eps": 0.1,
    "objective": "natural", "search_objective": "fgsm", "compare": ("boosting",),
}  # fmt: skip


def flags(**options):
    def text(value):
        return ",".join(value) if isinstance(value, tuple) else str(value)

    return [f"--{name}={text(value)}" for name, value in (TINY | options).items()]


def searched(store):
    return make_entry(lottery_config(**TINY), "boosting").searches[0], Store(store)


def test_a_search_is_shared_and_its_mask_is_the_same(tmp_path):
    other = {"validation_attack": "pgd2", "validation_images": 10}
    ours = find_ticket(lottery_config(**TINY, **other), tmp_path / "one")
    alone = find_ticket(lottery_config(**TINY), tmp_path / "two")
    assert ours.digest == alone.digest
    again = find_ticket(lottery_config(**TINY), tmp_path / "one")
    assert again.digest == alone.digest
    assert len(list((tmp_path / "one").glob("train-*"))) == 1
    stage, store = searched(tmp_path / "one")
    assert not (store.path(stage) / "best.npz").exists()
    stage, store = searched(tmp_path / "two")
    assert (store.path(stage) / "best.npz").exists()
    assert not (store.path(stage) / "validation.json").exists()


def test_a_report_draws_only_what_was_validated_as_it_says(tmp_path, capsys):
    store = f"--store={tmp_path / 'stages'}"
    for name, told in (("other", 1), ("default", 0)):
        options = {"validation_attack": "pgd2"} if name == "other" else {}
        assert main([*flags(**options), store, f"--workdir={tmp_path / name}"]) == 0
        document = json.loads((tmp_path / name / "results.json").read_text())
        assert len(document["searches"]) == told
        assert [e["cached"] for e in document["ledger"] if e["label"] == "search: boosting"] == [
            not told
        ]


def test_whose_best_epoch_is_nobodys_is_no_training_to_evaluate(tmp_path, capsys):
    """A dense training that the search happens to be is told to be done again."""
    store = tmp_path / "stages"
    find_ticket(lottery_config(**TINY, validation_images=10), store)
    dense = flags(
        compare=("dense",), objective="fgsm", epochs=2, learning_rate=0.01, warmup_epochs=0
    )
    line = complaint(capsys, 1, [*dense, f"--store={store}", f"--workdir={tmp_path / 'w'}"])
    stage, _ = searched(store)
    assert f"{stage.name}/best.npz is missing; remove " in line


@pytest.mark.parametrize("other", [{}, {"validation_images": 20}], ids=["default", "another"])
def test_what_another_validation_left_unfinished_is_begun_again(tmp_path, other):
    ours = {"validation_images": 10}
    begun = make_entry(lottery_config(**TINY, **ours), "boosting").searches[0]
    work._begin(begun, tmp_path)
    (tmp_path / "checkpoints").mkdir()
    work._begin(begun, tmp_path)
    assert (tmp_path / "checkpoints").is_dir()
    work._begin(make_entry(lottery_config(**TINY, **other), "boosting").searches[0], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["validation.json"] * len(other)


def test_a_search_stopped_at_its_very_end_leaves_no_best_epoch(tmp_path, monkeypatch):
    """Between the ledger and the last file removed."""
    stage = make_entry(lottery_config(**TINY, validation_images=10), "boosting").searches[0]
    workshop = Workshop(Store(tmp_path))
    forget = work._forget_best

    def die(directory):
        raise KeyboardInterrupt

    monkeypatch.setattr(work, "_forget_best", die)
    with pytest.raises(KeyboardInterrupt):
        run_stages([stage], workshop)
    monkeypatch.setattr(work, "_forget_best", forget)
    run_stages([stage], workshop)
    left = workshop.store.path(stage)
    assert not (left / "best.npz").exists()
    assert np.load(left / "final.npz").files
