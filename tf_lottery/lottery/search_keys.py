"""Which of a search's settings go into its key."""

from __future__ import annotations

import dataclasses

from tf_lottery.options.settings import LotteryConfig, TrainConfig, attack_from_name

USUAL_VALIDATION = "pgd10"  # in the key of every search that trains against an attack


def mask_settings(config: LotteryConfig, train: TrainConfig) -> TrainConfig:
    """A search's settings, those that cannot change its last weights being as by default.

    Of a search those weights count, which no validation changes: its stage may be validated in
    any way, or have been. It then leaves no best epoch, as nobody could tell whose that is.
    """
    if train in (config.train, config.ticket_train):  # it is that training, best epoch and all
        return train
    attacks = [phase.objective.attack for phase in train.parts if phase.objective.attack]
    scale = train.attack_loss_scale
    if not attacks or (scale == 1 and train.dtype_policy != "mixed_float16"):
        scale = 0.0  # spelt out
    train = dataclasses.replace(train, attack_loss_scale=scale)
    if attacks and train.on_overfit != "warn":  # what validation finds changes weights
        return train
    usual = attack_from_name(USUAL_VALIDATION, attacks[0].eps) if attacks else None
    return dataclasses.replace(
        train, validation_attack=usual, validation_images=0, on_overfit="warn"
    )
