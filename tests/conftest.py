"""What tests of many files take: an empty directory, a network and data of milliseconds."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest

CLASSES = 4
SHAPE = (8, 8, 1)


@pytest.fixture(scope="session")
def tiny_network():
    """Makes 4-class networks on (8, 8, 1) pixels: three convolutions, one dense layer."""
    from tf_lottery.models import build_model

    def build(seed=0, width_multiplier=0.1, **options):
        return build_model(
            "convnet", SHAPE, CLASSES, seed, width_multiplier=width_multiplier, **options
        )

    return build


@pytest.fixture(scope="session")
def tiny_masks():
    """Makes random masks for kernels; ``dead`` maps a layer to a filter without any weight."""

    def make(kernels, density=0.4, seed=0, dead=()):
        rng = np.random.default_rng(seed)
        masks = {}
        for name, kernel in kernels.items():
            mask = rng.random(tuple(kernel.shape)) < density
            mask.reshape(-1)[0] = True
            masks[name] = mask
        for name, unit in dict(dead).items():
            masks[name][..., unit] = False
        return masks

    return make


@pytest.fixture(scope="session")
def tiny_data():
    """Four noisy prototypes: 96 training, 40 validation and 40 test images, uint8."""
    from tf_lottery.data import ImageData

    rng = np.random.default_rng(5)
    prototypes = rng.integers(40, 216, (CLASSES, *SHAPE))
    parts = {}
    for part, count in (("train", 96), ("validation", 40), ("test", 40)):
        labels = np.arange(count, dtype=np.int32) % CLASSES
        noise = rng.normal(0, 60, (count, *SHAPE))
        parts[f"{part}_images"] = np.clip(prototypes[labels] + noise, 0, 255).astype(np.uint8)
        parts[f"{part}_labels"] = labels
        parts[f"{part}_index"] = np.arange(count, dtype=np.int64)
    names = tuple(f"class {i}" for i in range(CLASSES))
    return ImageData(name="tiny", class_names=names, mean=(0.5,), std=(0.25,), **parts)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The test runs in an empty directory of its own."""
    work = tmp_path / "here"
    work.mkdir()
    monkeypatch.chdir(work)
    return work
