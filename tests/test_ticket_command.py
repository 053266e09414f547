"""Tickets on the command line: good ones, damaged ones, those of other networks."""

import json
import shutil

import numpy as np
import pytest
from command_line import TINY, complaint

from tf_lottery import weights
from tf_lottery.main import main

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture(scope="module")
def ticket(tmp_path_factory):
    """A saved ticket of the tiny digits network, with random masks."""
    from tf_lottery.options.settings import ModelConfig
    from tf_lottery.pruning.masks import prunable_kernels
    from tf_lottery.tickets import NetworkSpec, Ticket

    spec = NetworkSpec(ModelConfig("convnet", width_multiplier=0.05), (8, 8, 1), 10)
    network = spec.build(3)
    rng = np.random.default_rng(0)
    masks = {
        name: rng.random(tuple(kernel.shape)) < 0.5
        for name, kernel in prunable_kernels(network).items()
    }
    digest = weights.digest(weights.get_weights(network))
    made = Ticket(spec, "digits", 3, digest, masks)
    return made.save(tmp_path_factory.mktemp("ticket") / "t")


@pytest.fixture
def copied(ticket, folder):
    shutil.copytree(ticket, folder.parent / "ticket")
    return folder.parent / "ticket"


NO_NORMALIZE = "--nonormalize"


def test_a_good_ticket_is_inspected(capsys, copied):
    assert main(["--mode=inspect", f"--ticket={copied}"]) == 0
    text = capsys.readouterr().out
    assert "conv1" in text
    assert "density" in text


def test_a_ticket_for_another_architecture(capsys, folder, copied):
    arguments = [*TINY, NO_NORMALIZE, "--compare=dense,boosting", "--width_multiplier=0.1"]
    line = complaint(capsys, 1, [*arguments, f"--ticket={copied}", "--workdir=w"])
    assert "--ticket" in line
    assert "convnet-w0.05" in line
    assert "convnet-w0.1" in line
    # Told before anything is trained.
    assert list(folder.iterdir()) == []


def damage_flip(path):
    content = bytearray((path / "masks.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "masks.npz").write_bytes(content)


def damage_flip_json(path):
    text = (path / "ticket.json").read_text()
    (path / "ticket.json").write_text(text.replace('"seed": 3', '"seed": 2', 1))


def damage_truncate(path):
    content = (path / "masks.npz").read_bytes()
    (path / "masks.npz").write_bytes(content[: len(content) // 2])


def damage_truncate_json(path):
    text = (path / "ticket.json").read_text()
    (path / "ticket.json").write_text(text[: len(text) // 2])


def damage_newer(path):
    document = json.loads((path / "ticket.json").read_text())
    document |= {"format": 99, "package_version": "99.0"}
    (path / "ticket.json").write_text(json.dumps(document))


def damage_missing(path):
    (path / "masks.npz").unlink()


DAMAGES = [
    (damage_flip, "damaged"),
    (damage_flip_json, "damaged"),
    (damage_truncate, "damaged"),
    (damage_truncate_json, "damaged"),
    (damage_newer, "99.0"),
    (damage_missing, "masks.npz"),
]


@pytest.mark.parametrize("mode", ["run", "plan", "inspect", "evaluate", "export"])
@pytest.mark.parametrize(("damage", "word"), DAMAGES, ids=lambda v: getattr(v, "__name__", v))
def test_damaged_tickets(capsys, folder, copied, damage, word, mode):
    damage(copied)
    arguments = [*TINY, NO_NORMALIZE, f"--mode={mode}", f"--ticket={copied}", "--workdir=w"]
    line = complaint(capsys, 1, [*arguments, "--compare=boosting"])
    assert word in line
    assert "ticket" in line
    assert list(folder.iterdir()) == []
