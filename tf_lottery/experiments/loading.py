"""Models from files: a ticket, a finished training stage, a SavedModel, a ``.keras`` file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tf_lottery import weights
from tf_lottery.errors import StoreError, UsageError
from tf_lottery.keras import keras, tf
from tf_lottery.pruning.masks import prunable_kernels
from tf_lottery.tickets import NetworkSpec, Ticket


@dataclass(frozen=True)
class LoadedModel:
    """A model read from disk.

    Attributes:
      model: what ``evaluation.evaluate`` takes.
      what: one line for people.
      input_shape: (height, width, channels), entries ``None`` where unknown.
      network: the bare ``tf_keras`` network, or ``None`` for a SavedModel.
      metadata: provenance, for export.
    """

    model: Any
    what: str
    input_shape: tuple
    network: Any = None
    metadata: dict | None = None


def load_model(path: str | Path) -> LoadedModel:
    """Reads a model of any of the kinds above, told apart by the files present.

    Raises:
      UsageError: the path does not exist or holds nothing known.
      StoreError: a damaged training stage or SavedModel.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError.bad_value("model_path", str(path), "an existing file or directory")
    if (path / "ticket.json").is_file():
        return from_ticket(path)
    if (path / "manifest.json").is_file():
        return _from_stage(path)
    if (path / "saved_model.pb").is_file():
        return _from_saved_model(path)
    if path.is_file() and path.suffix == ".keras":
        try:
            network = keras.models.load_model(path, compile=False, safe_mode=True)
        except Exception as error:  # Keras raises whatever the file's parts raise
            raise StoreError(f"--model_path: {path} cannot be loaded: {error}") from error
        return LoadedModel(
            network, f"Keras model {path}", tuple(network.input_shape[1:]), network, {}
        )
    raise UsageError.bad_value(
        "model_path",
        str(path),
        "a SavedModel directory (saved_model.pb), a ticket (ticket.json), a finished training "
        "stage of a store (manifest.json) or a .keras file",
    )


def from_ticket(path: str | Path) -> LoadedModel:
    """A ticket's network as it starts: rewound, masked, not trained."""
    ticket = Ticket.load(path)
    network = ticket.network().network
    return LoadedModel(
        network,
        f"ticket {path}: masked initial weights, not trained",
        ticket.spec.input_shape,
        network,
        {"ticket": ticket.to_json(), "training": None},
    )


def _from_stage(path: Path) -> LoadedModel:
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest["kind"] != "train":
            raise UsageError.bad_value(
                "model_path", str(path), f"a training stage, this one is of kind {manifest['kind']}"
            )
        spec = NetworkSpec.from_json(json.loads((path / "network.json").read_text())["network"])
        network = spec.build(0)
        weights.set_weights(network, weights.read_arrays(path / "best.npz"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"--model_path: {path} is damaged: {error!r}") from None
    return LoadedModel(
        network,
        f"{manifest['label']}, best epoch",
        spec.input_shape,
        network,
        {"training": manifest["settings"], "ticket": None, "network": spec.to_json()},
    )


def _from_saved_model(path: Path) -> LoadedModel:
    try:
        model = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow raises many kinds for damaged files
        raise StoreError(f"--model_path: {path} cannot be loaded: {error}") from error
    signature = model.signatures.get("serving_default")
    shape: tuple = (None, None, None)
    if signature is not None:
        inputs = list(signature.structured_input_signature[1].values())
        if len(inputs) == 1 and inputs[0].shape.rank == 4:
            shape = tuple(inputs[0].shape[1:])
    return LoadedModel(model, f"SavedModel {path}", shape)


def sparsity(network: Any) -> float:
    """Share of exactly-zero conv and dense weights of a bare network."""
    kernels = [kernel.numpy() for kernel in prunable_kernels(network).values()]
    zeros = sum(kernel.size - int(np.count_nonzero(kernel)) for kernel in kernels)
    return zeros / sum(kernel.size for kernel in kernels)
