"""Models from files: tickets, training stages, SavedModels, files of Keras, whole runs."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tf_lottery import files, weights
from tf_lottery.cutting import trained_network
from tf_lottery.engine.store import has_own_digest, verify
from tf_lottery.errors import StoreError, UsageError
from tf_lottery.evaluation.description import image_shape
from tf_lottery.keras import tf
from tf_lottery.models.spec import NetworkSpec
from tf_lottery.pruning.masks import load_network, prunable_kernels
from tf_lottery.tickets import Ticket

_KERAS_FILES = (".keras", ".h5", ".hdf5")

# What says what a model computes, in the directory of a SavedModel, ticket or stage.
_CONTENT = frozenset(
    [
        *("saved_model.pb", "variables", "assets", "metadata.json"),
        *("ticket.json", "masks.npz", "rewind.npz", "best.npz", "network.json"),
    ]
)


@dataclass(frozen=True)
class LoadedModel:
    """A model read from disk.

    Attributes:
      model: what ``evaluation.evaluate`` takes.
      what: one line for people.
      input_shape: (height, width, channels), entries ``None`` where unknown.
      network: the bare ``tf_keras`` network, or ``None`` for a SavedModel or Keras 3.
      metadata: provenance, for export.
      name: short, for tables.
      digest: SHA-256 of the files that say what the model computes.
    """

    model: Any
    what: str
    input_shape: tuple
    network: Any = None
    metadata: dict | None = None
    name: str = ""
    digest: str = ""

    @property
    def training_eps(self) -> float | None:
        """The radius the model was trained at, where its provenance says so."""
        training = (self.metadata or {}).get("training") or {}
        attack = ((training.get("train") or {}).get("objective") or {}).get("attack") or {}
        return attack.get("eps")

    @property
    def dataset(self) -> str | None:
        """The data set the model was trained or found on, where its provenance says so."""
        record = self.metadata or {}
        training, ticket = record.get("training") or {}, record.get("ticket") or {}
        return (training.get("data") or {}).get("name") or ticket.get("dataset")

    @property
    def image_size(self) -> int:
        """``--image_size`` of the training or search, 0 where its provenance does not say."""
        record = self.metadata or {}
        ticket = record.get("ticket") or {}
        found = record.get("training") or ticket.get("found") or {}
        return (found.get("data") or {}).get("image_size") or 0

    @property
    def is_untrained_ticket(self) -> bool:
        """True for the masked initial weights of a ticket."""
        record = self.metadata or {}
        return bool(record.get("ticket")) and record.get("training") is None


def model_paths(given: str | Path) -> list[Path]:
    """The models at a path: of a run's work directory all it exported, else the one there.

    Raises:
      UsageError: a work directory without SavedModels.
    """
    path = Path(given)
    if not (path / "results.json").is_file():
        return [path]
    found = sorted(p.parent for p in path.glob("saved_model/*/saved_model.pb"))
    if not found:
        raise UsageError.bad_value(
            "model_path", str(path), "a work directory with SavedModels in saved_model/"
        )
    # In the order of the run's table.
    try:
        rows = json.loads((path / "results.json").read_bytes())["rows"]
        order = [row["name"] for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        order = []
    found.sort(key=lambda p: order.index(p.name) if p.name in order else len(order))
    return found


def load_models(given: Sequence[str | Path]) -> list[LoadedModel]:
    """All models at the paths (see ``model_paths``), with distinct names.

    Raises:
      UsageError, StoreError: as ``load_model``; or one model given twice.
    """
    paths = [path for item in given for path in model_paths(item)]
    real = [path.resolve() for path in paths]
    for path, place in zip(paths, real, strict=True):
        if real.count(place) > 1:
            raise UsageError.bad_value("model_path", str(path), "each model once")
    loaded = [load_model(path) for path in paths]
    return [
        dataclasses.replace(model, name=name)
        for model, name in zip(loaded, _distinct_names(paths), strict=True)
    ]


def _distinct_names(paths: Sequence[Path]) -> list[str]:
    """Each path's last parts, as few as tell all apart."""
    whole = [path.resolve().parts[1:] for path in paths]
    short = [(*parts[:-1], _stem(parts[-1])) for parts in whole]
    for parts in (short, whole):  # a file a.keras may lie beside a directory a
        for count in range(1, max(map(len, parts)) + 1):
            names = ["-".join(p[-count:]) for p in parts]
            if len(set(names)) == len(names):
                return names
    raise AssertionError("two equal paths")


def _stem(name: str) -> str:
    """A file's name without the suffix of a file of Keras; others may be part of a name."""
    path = Path(name)
    return path.stem if path.suffix in _KERAS_FILES else name


def load_model(path: str | Path) -> LoadedModel:
    """Reads a model of any of the kinds above, told apart by the files present.

    Raises:
      UsageError: the path does not exist or holds nothing known.
      StoreError: a damaged training stage, SavedModel or file of Keras.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError.bad_value("model_path", str(path), "an existing file or directory")
    read: Callable[[Path], LoadedModel] | None = None
    if (path / "ticket.json").is_file():
        read = from_ticket
    elif (path / "manifest.json").is_file():
        read = _from_stage
    elif (path / "saved_model.pb").is_file():
        read = _from_saved_model
    elif path.is_file() and path.suffix in _KERAS_FILES:
        read = _from_keras_file
    if read is None:
        raise UsageError.bad_value(
            "model_path",
            str(path),
            "a SavedModel directory (saved_model.pb), a ticket (ticket.json), a finished training "
            "stage of a store (manifest.json), a .keras or .h5 file, or, to evaluate, a run's work "
            "directory (results.json)",
        )
    loaded = read(path)
    return dataclasses.replace(loaded, name=_stem(path.resolve().name), digest=_digest(path))


def _digest(path: Path) -> str:
    """SHA-256 over the names and contents of a model's files."""
    result = hashlib.sha256()
    # Not what else may lie there, such as the results of evaluating the model.
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and (file == path or file.relative_to(path).parts[0] in _CONTENT):
            result.update(str(file.relative_to(path)).encode())
            with open(file, "rb") as content:
                result.update(hashlib.file_digest(content, "sha256").digest())
    return result.hexdigest()


def _from_keras_file(path: Path) -> LoadedModel:
    try:
        version = _keras_version(path)
        if version.startswith("2."):
            network = load_network(files.plain_name(path))
            return LoadedModel(network, f"Keras model {path}", image_shape(network), network, {})
        network = _keras_3().saving.load_model(
            files.plain_name(path), compile=False, safe_mode=True
        )
        return LoadedModel(network, f"Keras {version} model {path}", image_shape(network))
    except StoreError:
        raise
    except Exception as error:  # Keras raises whatever the file's parts raise
        reason = " ".join(str(error).split())[:300]
        raise StoreError(f"--model_path: {path} cannot be loaded: {reason}") from error


def _keras_version(path: Path) -> str:
    """Which Keras wrote a file.

    Raises:
      StoreError: an HDF5 file without a model, or with Python code in it.
    """
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("metadata.json"))["keras_version"]
    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
        if config is None:
            raise StoreError(f"--model_path: {path} holds weights alone, no model; save the model")
        # No safe mode keeps the code in such a file from running.
        if '"class_name": "Lambda"' in str(config):
            raise StoreError(
                f"--model_path: {path} holds a Lambda layer, whose Python code would be run; "
                "save the model without it"
            )
        return str(file.attrs.get("keras_version", "2."))


def _keras_3() -> Any:
    """Keras 3 on TensorFlow, which is imported for such files alone."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    keras_3 = importlib.import_module("keras")
    if keras_3.backend.backend() != "tensorflow":
        raise StoreError(
            f"--model_path: Keras runs on {keras_3.backend.backend()}; set KERAS_BACKEND=tensorflow"
        )
    return keras_3


def from_ticket(path: str | Path) -> LoadedModel:
    """A ticket's network as it starts: rewound, masked, not trained."""
    ticket = Ticket.load(path)
    network = trained_network(ticket)[0].network
    return LoadedModel(
        network,
        f"ticket {path}: masked initial weights, not trained",
        ticket.spec.input_shape,
        network,
        {"ticket": ticket.to_json(), "training": None},
    )


def _from_stage(path: Path) -> LoadedModel:
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        if not has_own_digest(manifest):
            raise ValueError("manifest.json does not fit its digest")
        if manifest["kind"] != "train":
            raise UsageError.bad_value(
                "model_path", str(path), f"a training stage, this one is of kind {manifest['kind']}"
            )
        for name in ("network.json", "best.npz"):
            verify(path, manifest, name)
        spec = NetworkSpec.from_json(json.loads((path / "network.json").read_bytes())["network"])
        network = spec.build(0)
        weights.set_weights(network, weights.read_arrays(path / "best.npz"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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
        model = tf.saved_model.load(files.plain_name(path))
    except Exception as error:  # TensorFlow raises many kinds for damaged files
        raise StoreError(f"--model_path: {path} cannot be loaded: {error}") from error
    metadata = None
    if (path / "metadata.json").is_file():
        try:
            metadata = json.loads((path / "metadata.json").read_bytes())
        except ValueError as error:
            raise StoreError(f"--model_path: {path}/metadata.json is damaged: {error}") from None
    return LoadedModel(model, f"SavedModel {path}", image_shape(model), metadata=metadata)


def sparsity(network: Any) -> float | None:
    """Share of exactly-zero conv and dense weights; ``None``: there are none."""
    kernels = [kernel.numpy() for kernel in prunable_kernels(network).values()]
    zeros = sum(kernel.size - int(np.count_nonzero(kernel)) for kernel in kernels)
    return zeros / sum(kernel.size for kernel in kernels) if kernels else None
