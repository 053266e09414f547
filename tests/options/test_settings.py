"""Validation, fingerprints and seeds."""

import dataclasses
import doctest
import math

import pytest

from tf_lottery.errors import UsageError
from tf_lottery.options import settings as config
from tf_lottery.options.searches import SettlingConfig
from tf_lottery.options.settings import (
    AttackConfig,
    DataConfig,
    LotteryConfig,
    ModelConfig,
    ObjectiveConfig,
    Phase,
    PruneConfig,
    ScheduleConfig,
    TrainConfig,
    attack_from_name,
    check_depth,
    derive_seed,
    differences,
    fingerprint,
    settings,
)
from tf_lottery.options.sparsity import SparsityUpdateConfig

NATURAL = ObjectiveConfig("natural", None)


def train_config(**changes):
    return TrainConfig(NATURAL, **changes)


def whole(**changes):
    train = train_config(epochs=4)
    return LotteryConfig(DataConfig(), ModelConfig(), train, train, train, train, **changes)


def name_of(value):
    """Of a parameter, the same in every process."""
    return getattr(value, "__name__", str(value))[:50]


BAD = [
    (DataConfig, {"name": "CIFAR 10"}, "dataset"),
    (DataConfig, {"name": ""}, "dataset"),
    (DataConfig, {"name": "../x"}, "dataset"),
    (DataConfig, {"train_examples": -1}, "train_examples"),
    (DataConfig, {"validation_examples": -1}, "validation_examples"),
    (DataConfig, {"test_examples": -1}, "test_examples"),
    (DataConfig, {"image_size": 3}, "image_size"),
    (DataConfig, {"image_size": -8}, "image_size"),
    (ModelConfig, {"name": "alexnet"}, "model"),
    (ModelConfig, {"depth": -1}, "depth"),
    (ModelConfig, {"name": "vgg", "depth": 9}, "depth"),
    (ModelConfig, {"name": "wide_resnet", "depth": 4}, "depth"),
    (ModelConfig, {"name": "wide_resnet", "depth": 17}, "depth"),
    (ModelConfig, {"name": "convnet", "depth": 3}, "depth"),
    (ModelConfig, {"name": "vgg", "width": 2}, "width"),
    (ModelConfig, {"width": -2}, "width"),
    (ModelConfig, {"width_multiplier": 0}, "width_multiplier"),
    (ModelConfig, {"width_multiplier": math.inf}, "width_multiplier"),
    (ModelConfig, {"width_multiplier": math.nan}, "width_multiplier"),
    (AttackConfig, {"norm": "l1"}, "norm"),
    (AttackConfig, {"loss": "hinge"}, "attack loss"),
    (AttackConfig, {"eps": -0.1}, "eps"),
    (AttackConfig, {"eps": 1.01}, "eps"),
    (AttackConfig, {"eps": math.nan}, "eps"),
    (AttackConfig, {"steps": 0}, "steps"),
    (AttackConfig, {"step_size": -0.1}, "step_size"),
    (AttackConfig, {"step_size": math.nan}, "step_size"),
    (AttackConfig, {"restarts": 0}, "restarts"),
    (ObjectiveConfig, {"name": "trade"}, "objective"),
    (ObjectiveConfig, {"beta": -1.0}, "beta"),
    (ObjectiveConfig, {"replays": 0}, "replays"),
    (ObjectiveConfig, {"label_smoothing": 1.0}, "label_smoothing"),
    (ObjectiveConfig, {"awp_gamma": math.nan}, "awp_gamma"),
    (AttackConfig, {"noise": -0.1}, "noise"),
    (AttackConfig, {"noise_kind": "pink"}, "noise_kind"),
    (ScheduleConfig, {"name": "linear"}, "schedule"),
    (ScheduleConfig, {"peak": 0}, "learning_rate"),
    (ScheduleConfig, {"peak": math.inf}, "learning_rate"),
    (ScheduleConfig, {"warmup_start": -1}, "warmup_start"),
    (ScheduleConfig, {"warmup_epochs": -1}, "warmup_epochs"),
    (ScheduleConfig, {"drops": ()}, "rate_drops"),
    (ScheduleConfig, {"drops": (0.0, 0.5)}, "rate_drops"),
    (ScheduleConfig, {"drops": (0.5, 1.0)}, "rate_drops"),
    (ScheduleConfig, {"drops": (0.75, 0.5)}, "rate_drops"),
    (ScheduleConfig, {"drops": (0.5, math.nan)}, "rate_drops"),
    (ScheduleConfig, {"name": "cosine", "drops": (0.5,)}, "rate_drops"),
    (train_config, {"epochs": 0}, "epochs"),
    (train_config, {"batch_size": 0}, "batch_size"),
    (train_config, {"momentum": 1.0}, "momentum"),
    (train_config, {"momentum": -0.1}, "momentum"),
    (train_config, {"momentum": math.nan}, "momentum"),
    (train_config, {"weight_decay": -1}, "weight_decay"),
    (train_config, {"weight_decay": math.inf}, "weight_decay"),
    (train_config, {"validation_images": -1}, "validation_images"),
    (train_config, {"dtype_policy": "float16"}, "dtype_policy"),
    (train_config, {"attack_loss_scale": -1}, "attack_loss_scale"),
    (train_config, {"attack_loss_scale": math.inf}, "attack_loss_scale"),
    (train_config, {"data_on_device": "maybe"}, "data_on_device"),
    (train_config, {"epochs": 2, "keep_epochs": (3,)}, "rewind_epoch"),
    (PruneConfig, {"sparsity": 1.0}, "sparsity"),
    (PruneConfig, {"sparsity": -0.1}, "sparsity"),
    (PruneConfig, {"sparsity": math.nan}, "sparsity"),
    (PruneConfig, {"score": "taylor"}, "score"),
    (PruneConfig, {"scope": "channel"}, "scope"),
    (PruneConfig, {"schedule": "linear"}, "pruning_schedule"),
    (PruneConfig, {"rounds": 0}, "rounds"),
    (PruneConfig, {"round_fraction": 0.0}, "round_fraction"),
    (PruneConfig, {"round_fraction": 1.0}, "round_fraction"),
    (PruneConfig, {"rewind_epoch": -1}, "rewind_epoch"),
    (PruneConfig, {"rewind_epoch": "now"}, "rewind_epoch"),
    (PruneConfig, {"rewind_epoch": 1, "search": "snip"}, "rewind_epoch"),
    (PruneConfig, {"rewind_epoch": "current", "search": "random"}, "rewind_epoch"),
    (PruneConfig, {"schedule": "geometric", "search": "synflow"}, "pruning_schedule"),
    (PruneConfig, {"search": "lucky"}, "search"),
    (PruneConfig, {"mask_distance": 1.1}, "mask_distance"),
    (PruneConfig, {"mask_distance": math.nan}, "mask_distance"),
    (PruneConfig, {"layer_density": "er"}, "layer_density"),
    (whole, {"prune": PruneConfig(rewind_epoch=5)}, "rewind_epoch"),
    (whole, {"prune": PruneConfig(score="snip", search="early")}, "score"),
    (whole, {"prune": PruneConfig(score="grasp"), "compare": ("early",)}, "score"),
    (whole, {"compare": ()}, "compare"),
    (whole, {"compare": ("dense", "sparse")}, "compare"),
    (whole, {"compare": ("dense", "dense")}, "compare"),
    (whole, {"attacks": (AttackConfig(), AttackConfig())}, "attacks"),
    (whole, {"seed": -1}, "seed"),
    (whole, {"seed": 2**31}, "seed"),
    (whole, {"prune": PruneConfig(rewind_epoch=5)}, "rewind_epoch"),
]


@pytest.mark.parametrize(("make", "values", "flag"), BAD, ids=name_of)
def test_bad_values_name_the_flag_the_value_and_what_is_allowed(make, values, flag):
    with pytest.raises(UsageError) as caught:
        make(**values)
    message = str(caught.value)
    assert message.startswith(f"--{flag}: ")
    assert caught.value.flag == flag
    assert caught.value.exit_code == 2
    assert "must be " in message or "may be one of " in message
    assert "\n" not in message


GOOD = [
    (DataConfig, {"name": "cifar10:3.0.2"}),
    (DataConfig, {"name": "svhn_cropped"}),
    (DataConfig, {"name": "smallnorb/plain-1.0"}),
    (ModelConfig, {"name": "wide_resnet", "depth": 10, "width": 1}),
    (ModelConfig, {"name": "vgg", "depth": 7}),
    (ModelConfig, {"name": "resnet18", "depth": 18}),
    (AttackConfig, {"eps": 0}),
    (AttackConfig, {"eps": 1}),
    (AttackConfig, {"eps": 0, "step_size": 0}),
    (train_config, {"epochs": 1, "keep_epochs": (1,)}),
    (train_config, {"momentum": 0}),
    (PruneConfig, {"sparsity": 0}),
    (PruneConfig, {"sparsity": 0.9999}),
    (whole, {"seed": 2**31 - 1}),
    (whole, {"prune": PruneConfig(rewind_epoch=4)}),
    (whole, {"attacks": ()}),
]


@pytest.mark.parametrize(("make", "values"), GOOD, ids=name_of)
def test_values_at_the_border_are_allowed(make, values):
    built = make(**values)
    for name, value in values.items():
        assert getattr(built, name) == value


def test_the_message_of_a_depth_lists_the_valid_ones():
    with pytest.raises(UsageError, match="7, 8, 11, 16"):
        check_depth("vgg", 9)
    with pytest.raises(UsageError, match=r"6n \+ 4"):
        check_depth("wide_resnet", 12)


def test_an_attack_goes_with_every_objective_but_natural():
    with pytest.raises(ValueError, match="attack"):
        ObjectiveConfig("pgd", None)
    with pytest.raises(ValueError, match="attack"):
        ObjectiveConfig("natural", AttackConfig())
    assert ObjectiveConfig("pgd", AttackConfig(steps=7, restarts=2)).attack_steps == 14
    assert NATURAL.attack_steps == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fgsm", AttackConfig("fgsm", eps=0.1, steps=1, step_size=0.1)),
        ("pgd7", AttackConfig("pgd7", eps=0.1, steps=7, step_size=0.025, random_start=True)),
        (
            "cw",
            AttackConfig(
                "cw", eps=0.1, steps=30, step_size=0.025, random_start=True, loss="margin"
            ),
        ),
        (
            "cw5",
            AttackConfig(
                "cw5", eps=0.1, steps=5, step_size=0.025, random_start=True, loss="margin"
            ),
        ),
    ],
)
def test_attacks_by_name(name, expected):
    assert attack_from_name(name, 0.1) == expected


@pytest.mark.parametrize("name", ["", "pgd", "PGD10", "fgsm2", "pgd-1", "deepfool", "pgd10x"])
def test_unknown_attack_names(name):
    with pytest.raises(UsageError, match="--attacks: unknown value"):
        attack_from_name(name)


def test_attack_names_take_the_other_settings():
    attack = attack_from_name("pgd3", 0.2, step_size=0.01, random_start=False, restarts=4)
    assert (attack.step_size, attack.random_start, attack.restarts) == (0.01, False, 4)


def test_configs_are_frozen_and_compare_by_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DataConfig().name = "mnist"
    assert whole() == whole()


def test_labels_tell_networks_apart():
    assert ModelConfig("vgg").label == "vgg16"
    assert ModelConfig("vgg", 7, width_multiplier=0.25).label == "vgg7-w0.25"
    assert ModelConfig("wide_resnet", 28).label == "wide_resnet-28-10"


# Keys of finished stages are made of fingerprints: if this value changes, every store
# that users have is worthless. A new setting must be marked ``omit_default``.
PINNED = "aad86c8f6b44732e55e07b57c8d11cf0d64a1e5792a06e0b30bf6e08cf35ab2a"


def test_the_fingerprint_of_the_default_config_never_changes():
    from tf_lottery.options.build import lottery_config

    assert fingerprint(lottery_config()) == PINNED


def test_the_fingerprint_is_sha256_of_the_settings():
    import hashlib

    text = (
        '{"augment":false,"name":"digits","test_examples":0,"train_examples":0,'
        '"validation_examples":7}'
    )
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert fingerprint(DataConfig(validation_examples=7)) == expected


def other_value(default):
    """A good value of a field that was added, other than its default."""
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    return {float: (default or 1024.0) / 2, tuple: (1,)}[type(default)]


ADDED = [
    (holder, field)
    for holder in (
        DataConfig(), train_config(epochs=4), ScheduleConfig(), PruneConfig(), whole(),
        AttackConfig(method="apgd"),
    )
    for field in dataclasses.fields(holder)
    if field.metadata.get("omit_default") and field.name != "content"  # which the name decides
]  # fmt: skip
WORDS = {
    "drops": (0.25,), "dtype_policy": "mixed_bfloat16", "on_overfit": "rollback",
    "method": "square", "image_size": 16, "search_image_size": 8,
    "ema_decay": 0.995, "search": "snip",
    "noise_kind": "signs",
    "structure": "channels", "channel_score": "filter_norm",
    "phases": (Phase(ObjectiveConfig("natural"), 1), Phase(ObjectiveConfig("natural"), 3)),
    "settling": SettlingConfig(0.1, 0.8, "magnitude", "global"), "layer_density": "igq",
    "sparsity_update": SparsityUpdateConfig("flying_bird"),
}  # fmt: skip


@pytest.mark.parametrize(("holder", "field"), ADDED, ids=lambda v: getattr(v, "name", ""))
def test_fields_with_a_no_op_default_stay_out_until_they_are_used(holder, field):
    default = dataclasses.replace(holder, **{field.name: field.default})
    assert field.name not in settings(default)
    changed = WORDS.get(field.name) or other_value(field.default)
    other = dataclasses.replace(holder, **{field.name: changed})
    assert field.name in settings(other)
    assert fingerprint(other) != fingerprint(default)


def test_every_other_field_changes_the_fingerprint():
    base = AttackConfig()
    others = [
        AttackConfig(**{field: value})
        for field, value in {
            "name": "x",
            "eps": 0.5,
            "steps": 3,
            "step_size": 0.5,
            "random_start": True,
            "restarts": 2,
            "loss": "margin",
        }.items()
    ]
    prints = {fingerprint(attack) for attack in (base, *others)}
    assert len(prints) == len(others) + 1


def test_where_the_data_lie_does_not_matter():
    assert fingerprint(DataConfig(data_dir="/a")) == fingerprint(DataConfig(data_dir=None))
    assert "data_dir" not in settings(DataConfig(data_dir="/a"))
    assert fingerprint(train_config(data_on_device="on")) == fingerprint(train_config())


def test_whole_floats_are_integers_in_settings():
    assert fingerprint(ModelConfig(width_multiplier=1.0)) == fingerprint(
        ModelConfig(width_multiplier=1)
    )
    assert settings(0.5) == 0.5
    assert settings(True) is True
    assert settings((1, "a", None)) == [1, "a", None]


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x"])
def test_what_is_no_setting_is_refused(value):
    with pytest.raises(TypeError, match="no setting"):
        settings({"x": value})


def test_differences_name_the_path_and_both_values():
    ours = {"a": 1, "b": {"c": [1, 2], "d": 0.5}}
    theirs = {"a": 1, "b": {"c": [1, 3]}, "e": "x"}
    assert differences(ours, theirs) == [
        "b.c: [1, 3] there, [1, 2] now",
        "b.d: null there, 0.5 now",
        'e: "x" there, null now',
    ]
    assert differences(ours, ours) == []


def test_seeds_are_named_independent_and_31_bit():
    import hashlib

    digest = hashlib.sha256(b"7/init/x").digest()
    assert derive_seed(7, "init", "x") == int.from_bytes(digest[:4], "big") % 2**31
    names = ("init", "order", "augmentation", "attack", "reinit", "random_mask", "score")
    seeds = [derive_seed(root, name) for root in range(200) for name in names]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    # About half of the bits differ between two purposes of the same run.
    distance = sum(
        bin(derive_seed(root, "init") ^ derive_seed(root, "order")).count("1")
        for root in range(200)
    )
    assert 14.5 < distance / 200 < 16.5


def test_examples_in_the_docstrings():
    result = doctest.testmod(config)
    assert result.attempted >= 2
    assert result.failed == 0
