"""The benchmark of cut networks counts what it times."""

import importlib
import json

import pytest

from tf_lottery.compaction import channel_groups

channels = importlib.import_module("channels")


def test_a_quick_run(tmp_path):
    path = tmp_path / "channels.json"
    channels.main([f"--output={path}", "--networks=wide_resnet-28-2", "--cases=natural", "--quick"])
    document = json.loads(path.read_text())
    assert document["quick"] is True
    network = channels.build_model(
        "wide_resnet", (32, 32, 3), 10, 0, depth=28, width=2, width_multiplier=0.1
    )
    total = sum(group.width for group in channel_groups(network))
    shares = []
    for row, sparsity in zip(document["rows"], channels.SPARSITIES, strict=True):
        assert row["channels"]["total"] == total
        assert row["channels"]["kept"] == pytest.approx((1 - sparsity) * total, abs=0.5)
        assert row["time_left"] == row["seconds"]["cut"] / row["seconds"]["whole"]
        shares.append(row["flops_left"])
    assert 1 > shares[0] > shares[1] > shares[2] > 0
