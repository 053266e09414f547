"""The sides of a benchmark compute the same: otherwise their times say nothing."""

import importlib
import importlib.util

import numpy as np
import pytest

from tf_lottery import pruning
from tf_lottery.models import build_model
from tf_lottery.pruning.masks import mask_weights, prunable_kernels

interleaved = importlib.import_module("interleaved")
NETWORKS = {
    "convnet": {"width_multiplier": 0.2},
    "wide_resnet": {"depth": 10, "width": 1, "width_multiplier": 0.25},
}
HAS_TORCH = importlib.util.find_spec("torch") is not None


def network_and_masks(name, sparsity, dtype_policy="float32"):
    network = build_model(name, (8, 8, 1), 4, 0, dtype_policy=dtype_policy, **NETWORKS[name])
    if not sparsity:
        return network, None
    kernels = {layer: kernel.numpy() for layer, kernel in prunable_kernels(network).items()}
    masks = pruning.prune(kernels, None, sparsity, scope="layer")
    mask_weights(network, masks)
    return network, masks


def values(side_name, name, sparsity, cases):
    """What a side answers, two calls a case: the second sees the weights of the first's update."""
    network, masks = network_and_masks(name, sparsity)
    batch = interleaved.make_batch(network, 12)
    side = interleaved.make_side(side_name, network, masks, batch)
    return {case: [side.run(case) for _ in range(2)] for case in cases}


def assert_sides_agree(peer, name, sparsity, cases, tolerance=3e-3):
    ours = values("ours", name, sparsity, cases)
    theirs = values(peer, name, sparsity, cases)
    for case in cases:
        if "evaluation" in case:
            assert abs(ours[case][0] - theirs[case][0]) <= 1
        else:
            np.testing.assert_allclose(theirs[case], ours[case], rtol=tolerance, err_msg=case)
            assert ours[case][1] < ours[case][0]  # it does train


# Of TensorFlow; the attack of cleverhans sees the network as it is, ours the frozen one.
@pytest.mark.parametrize(
    ("name", "sparsity"), [("convnet", 0.0), ("convnet", 0.8), ("wide_resnet", 0.0)]
)
def test_keras_with_cleverhans_computes_what_we_do(name, sparsity):
    assert_sides_agree("keras_cleverhans", name, sparsity, interleaved.CASES)


@pytest.mark.skipif(not HAS_TORCH, reason="no torch: see the extra bench in setup.cfg")
@pytest.mark.parametrize("peer", ["torch_best", "torch_published"])
@pytest.mark.parametrize("name", ["convnet", "wide_resnet"])
def test_pytorch_computes_what_we_do(name, peer):
    if name == "convnet":
        assert_sides_agree(peer, name, 0.8, interleaved.CASES)
    else:  # strides pad another way there; the benchmark allows for it
        share = importlib.import_module("training_step").STRIDED_SHARE
        assert_sides_agree(peer, name, 0.0, ["natural", "pgd10"], share)


@pytest.mark.parametrize("peer", ["keras_cleverhans", "torch_best", "torch_published"])
def test_half_precision_computes_nearly_the_same(peer):
    if "torch" in peer and not HAS_TORCH:
        pytest.skip("no torch: see the extra bench in setup.cfg")
    policy, found = "mixed_bfloat16", {}
    for side_name in ("ours", peer):
        made_in = interleaved.network_policy(side_name, policy)
        network, _ = network_and_masks("convnet", 0.0, made_in)
        batch = interleaved.make_batch(network, 12)
        side = interleaved.make_side(side_name, network, None, batch, policy)
        found[side_name] = [side.run("pgd10") for _ in range(2)]
    np.testing.assert_allclose(found[peer], found["ours"], rtol=0.03)
    assert found["ours"][1] < found["ours"][0]


def test_a_batch_is_labelled_as_the_network_sees_it():
    network, _ = network_and_masks("convnet", 0.0)
    batch = interleaved.make_batch(network, 7)
    assert batch.x.shape == (7, 8, 8, 1)
    np.testing.assert_array_equal(network.predict(batch.x, verbose=0).argmax(1), batch.y)


def test_passes_are_those_of_the_ledger():
    steps = {case: interleaved.attack_steps(case)[0] for case in interleaved.CASES}
    assert steps == {"natural": 0, "fgsm": 1, "pgd10": 10, "pgd20_evaluation": 20}
    for case, passes in interleaved.PASSES.items():
        assert passes == 2 * steps[case] + (2 if "evaluation" in case else 3)
