"""The files of a finished training: what was only needed on the way is gone."""

import json

import pytest
from command_line import TINY

from tf_lottery.main import main
from tf_lottery.training import callbacks


@pytest.mark.parametrize(
    ("flags", "label", "kept"),
    [
        (["--ema_decay=0.5"], "train: dense", set()),
        (["--compare=boosting", "--rewind_epoch=1"], "search: boosting", {"epoch-1.npz"}),
    ],
)
def test_no_weights_but_the_best_the_last_and_those_to_rewind_to(
    flags, label, kept, tmp_path, monkeypatch
):
    """Each epoch is the best so far: the checkpoints refer to the last two."""
    monkeypatch.setattr(callbacks, "best_epoch", lambda rows: rows[-1]["epoch"])
    assert main([*TINY, "--epochs=3", *flags, f"--workdir={tmp_path}/w"]) == 0
    manifests = [json.loads(p.read_text()) for p in tmp_path.glob("w/stages/*/manifest.json")]
    (found,) = (each for each in manifests if each["label"] == label)
    names = {name for name in found["files"] if name.endswith(".npz")}
    assert names == {"best.npz", "final.npz"} | kept
