"""Searches by training on images that are smaller than those of the run."""

import json

import numpy as np
import pytest

from tests.command_line import complaint, stage
from tf_lottery import find_ticket, lottery_config, weights
from tf_lottery.errors import UsageError
from tf_lottery.lottery.resources import Resources
from tf_lottery.main import main
from tf_lottery.models.spec import NetworkSpec
from tf_lottery.options.settings import DataConfig
from tf_lottery.tickets import Ticket

SETTINGS = {
    "width_multiplier": 0.05, "train_examples": 96, "test_examples": 30, "batch_size": 32,
    "epochs": 1, "search_epochs": 2, "eps": 0.1, "steps": 2, "validation_attack": "pgd2",
    "validation_images": 20, "attacks": ("pgd2",), "search_image_size": 4,
    "model": "vgg", "depth": 7,
}  # fmt: skip


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("small") / "w"
    words = [f"--{name}={value}" for name, value in {**SETTINGS, "attacks": "pgd2"}.items()]
    assert main([*words, "--compare=dense,boosting,reinit", f"--workdir={workdir}"]) == 0
    return workdir


def network_of(workdir, label):
    directory, _ = stage(workdir, label)
    return NetworkSpec.from_json(json.loads((directory / "network.json").read_text())["network"])


def test_the_search_alone_sees_small_images(workdir):
    assert network_of(workdir, "search: boosting").input_shape == (4, 4, 1)
    for kind in ("dense", "boosting", "reinit"):
        assert network_of(workdir, f"train: {kind}").input_shape == (8, 8, 1)


def test_the_mask_is_that_of_the_small_search(workdir):
    directory, _ = stage(workdir, "search: boosting")
    final = weights.read_arrays(directory / "final.npz")
    found = Ticket.load(workdir / "tickets" / "boosting")
    kernels = {name: np.abs(final[f"{name}/kernel"]) for name in found.masks}
    worth = {name: kernel / kernel.mean() for name, kernel in kernels.items()}
    kept = min(worth[name][mask].min() for name, mask in found.masks.items())
    gone = max(worth[name][~mask].max() for name, mask in found.masks.items())
    assert kept >= gone
    assert found.spec.input_shape == (8, 8, 1)
    assert found.found["search_image_size"] == 4
    assert found.found["data"].get("image_size", 0) == 0


def test_the_ledger_counts_small_passes(workdir):
    shop, config = Resources(None), lottery_config(**SETTINGS, compare=("boosting",))
    whole, small = map(shop.forward_flops, (config, config.on_search_images))
    assert small < whole
    ledger = json.loads((stage(workdir, "search: boosting")[0] / "ledger.json").read_text())
    assert ledger["flops"] == 2 * 96 * 5 * small  # epochs, images, passes of FGSM
    row = json.loads((workdir / "results.json").read_text())["rows"][1]
    assert (row["name"], row["search_flops"]) == ("boosting", ledger["flops"])


def test_a_run_on_small_images_alone_is_another(workdir):
    small = lottery_config(**{**SETTINGS, "search_image_size": 0, "image_size": 4})
    assert small.on_search_images is small
    assert lottery_config(**SETTINGS, image_size=4) == small  # said twice
    both = lottery_config(**{**SETTINGS, "image_size": 6})
    assert both.on_search_images.data == DataConfig(
        train_examples=96, test_examples=30, image_size=4
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--search_image_size=9"], "--search_image_size: got 9, must be at most the side of"),
        (
            ["--search_image_size=6", "--image_size=5"],
            "--search_image_size: got 6, must be at most the side of square images, these are 5x5",
        ),
        (["--search_image_size=3"], "--search_image_size: got 3, must be 4 or more, or 0"),
        (
            ["--search_image_size=4", "--model=lenet"],
            "--search_image_size: got 4, must be 0 for lenet, whose",
        ),
        (
            ["--search_image_size=4", "--pruning_schedule=geometric"],
            "--pruning_schedule: got 'geometric', must be one_shot with --search_image_size",
        ),
        (
            ["--search_image_size=4", "--compare=dense"],
            "--search_image_size goes with a search that is trained",
        ),
    ],
)
def test_bad_command_lines_end_in_one_line(arguments, line, tmp_path, capsys):
    assert line in complaint(capsys, 2, [*arguments, f"--workdir={tmp_path}"])


@pytest.mark.parametrize(
    "changes", [{"model": "lenet", "depth": 0}, {"image_size": 4, "search_image_size": 8}]
)
def test_python_is_told_before_anything_is_trained(changes, tmp_path):
    config = lottery_config(**SETTINGS | changes)
    with pytest.raises(UsageError, match=r"--search_image_size: got [48], must be"):
        find_ticket(config, tmp_path)
    assert not list(tmp_path.glob("*/manifest.json"))


def test_python_is_told_the_same():
    with pytest.raises(UsageError, match="--search_image_size: got 2"):
        lottery_config(search_image_size=2)
