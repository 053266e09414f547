"""A ticket: masks, and the weights they belong to.

On disk a ticket is a directory that a person can mail:

- ``ticket.json``: network, data set, initialisation (seed and digest), rewind
  point, density overall and per layer, how it was found, its parent's digest,
  this package's version, digests of the other files, and its own digest.
- ``masks.npz``: one bit a weight (``numpy.packbits``, C order), no pickle.
- ``rewind.npz``: only if the ticket rewinds to an epoch after the initialisation;
  an initialisation is made again from its seed and verified by its digest.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import tf_lottery
from tf_lottery import weights
from tf_lottery.errors import StoreError, TicketError, UsageError
from tf_lottery.files import write_json
from tf_lottery.models.spec import NetworkSpec
from tf_lottery.options.channels import STRUCTURES
from tf_lottery.pruning.masks import MaskedNetwork, mask_weights, prunable_kernels, wrap
from tf_lottery.type_aliases import NamedArrays

FORMAT = 1
_JSON_LIMIT = 16 * 2**20  # bytes; a ticket.json of a 10,000-layer network stays below
_WEIGHT_LIMIT = 2**33  # weights a mask may claim, before anything is allocated
_RANK_LIMIT = 8  # dimensions of a kernel
# What reading a document that is JSON but no ticket can raise.
_MALFORMED = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    StoreError,
    UsageError,
)


def _statistics(network) -> tuple | None:
    """Scale and offset of a network's normalisation layer; ``None`` without one."""
    for layer in network.layers:
        if layer.name == "normalization":
            return _rounded(layer.scale), _rounded(layer.offset)
    return None


def _rounded(values) -> tuple[float, ...]:
    return tuple(np.asarray(values, np.float32).tolist())


def _statistics_of(spec: NetworkSpec) -> tuple | None:
    if spec.mean is None or spec.std is None:
        return None
    mean, std = np.array(spec.mean), np.array(spec.std)
    return _rounded(1 / std), _rounded(-mean / std)


@dataclass(frozen=True)
class Ticket:
    """Masks with the weights to rewind to and where they come from.

    Attributes:
      spec: the network.
      dataset: name of the data set it was found on.
      init_seed: seed of the initialisation.
      init_digest: ``weights.digest`` of the initialisation.
      masks: boolean arrays of each kernel's shape by layer name.
      rewind_epoch: 0 for the initialisation, k for the search's epoch k.
      rewind_weights: weights after epoch k by variable name; ``None`` for k = 0.
      found: how: kind, objective, attack, epochs, rates, seed, cost, ... (JSON).
      parent: digest of the ticket this one was made from, or ``None``.
      package_version: of the writer.

    Raises:
      TicketError: there is no mask.
    """

    spec: NetworkSpec
    dataset: str
    init_seed: int
    init_digest: str
    masks: NamedArrays
    rewind_epoch: int = 0
    rewind_weights: NamedArrays | None = None
    found: dict = field(default_factory=dict)
    parent: str | None = None
    package_version: str = tf_lottery.__version__

    def __post_init__(self):
        if not self.weights_total:
            raise TicketError("a ticket without masks: its network has no Conv2D or Dense weights")
        if self.structure not in STRUCTURES:
            raise TicketError(
                f"a ticket of {self.structure!r}, must be of {' or '.join(STRUCTURES)}"
            )

    @property
    def structure(self) -> str:
        """``weights``: trained under its masks; ``channels``: cut first, see ``cutting``."""
        return self.found.get("structure", "weights")

    @property
    def weights_kept(self) -> int:
        """Number of conv and dense weights left."""
        return sum(int(np.count_nonzero(mask)) for mask in self.masks.values())

    @property
    def weights_total(self) -> int:
        """Number of prunable weights."""
        return sum(mask.size for mask in self.masks.values())

    @property
    def density(self) -> float:
        """Share of the prunable weights left, in (0, 1]."""
        return self.weights_kept / self.weights_total

    @property
    def layers(self) -> list[dict]:
        """``{"layer", "weights", "kept"}`` for each layer, in layer order."""
        return [
            {"layer": name, "weights": mask.size, "kept": int(np.count_nonzero(mask))}
            for name, mask in self.masks.items()
        ]

    @property
    def digest(self) -> str:
        """SHA-256 of masks, initialisation and rewind weights; names the ticket's content."""
        rewind = self.rewind_weights
        text = json.dumps(
            {
                "network": self.spec.to_json(),
                "init": self.init_digest,
                "rewind_epoch": self.rewind_epoch,
                "masks": weights.digest(self.masks),
                "rewind": None if rewind is None else weights.digest(rewind),
            },
            sort_keys=True,
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def initial_weights(self, network=None) -> NamedArrays:
        """The rewound weights, not masked yet.

        Args:
          network: a bare network whose weights may be the initial ones already; else they
            are made.

        Raises:
          TicketError: this TensorFlow makes another initialisation from the seed, or the
            ticket's network may not be made here, see ``NetworkSpec.build``.
        """
        if self.rewind_weights is not None:
            return self.rewind_weights
        if network is not None:
            made = weights.get_weights(network)
            if weights.digest(made) == self.init_digest:
                return made
        made = weights.get_weights(self._build())
        if weights.digest(made) != self.init_digest:
            raise TicketError(
                f"seed {self.init_seed} gives another initialisation than the ticket's "
                f"(made by tf_lottery {self.package_version}); "
                "use the TensorFlow version it was made with"
            )
        return made

    def apply(self, model):
        """Rewinds a network to the ticket's weights and masks it, in place.

        Args:
          model: a bare network of the ticket's architecture (``build_model``), whose
            pruned weights become 0; or a ``MaskedNetwork`` (``pruning.masks.wrap``),
            whose masks are set as well, so that training keeps them.

        Returns:
          ``model``.

        Raises:
          TicketError: the network is another one.
        """
        network = model.network if isinstance(model, MaskedNetwork) else model
        kernels = prunable_kernels(network)
        theirs = {name: tuple(kernel.shape) for name, kernel in kernels.items()}
        ours = {name: mask.shape for name, mask in self.masks.items()}
        if theirs != ours:
            odd = sorted(n for n in {*theirs, *ours} if theirs.get(n) != ours.get(n))
            raise TicketError(
                f"the ticket is for {self.spec.model.label} with input {self.spec.input_shape}, "
                f"the network differs in {', '.join(odd[:3])}"
            )
        if _statistics(network) != _statistics_of(self.spec):
            raise TicketError("the ticket's network normalises its pixels in another way")
        try:
            weights.set_weights(network, self.initial_weights(network))
        except ValueError as error:
            raise TicketError(f"the ticket is for {self.spec.model.label}: {error}") from None
        if isinstance(model, MaskedNetwork):
            model.set_masks(self.masks)
        else:
            mask_weights(network, self.masks)
        return model

    def network(self, dtype_policy: str = "float32") -> MaskedNetwork:
        """A new masked network, rewound and ready to train."""
        return self.apply(wrap(self._build(dtype_policy)))

    def _build(self, dtype_policy: str = "float32"):
        """The network with its initialisation, if it has no more weights than the masks."""
        try:
            return self.spec.build(self.init_seed, dtype_policy, self.weights_total)
        except UsageError as error:
            raise TicketError(f"the ticket's masks are not those of its network: {error}") from None

    def to_json(self) -> dict:
        """What ``ticket.json`` says, without file digests."""
        return {
            "format": FORMAT,
            "package_version": self.package_version,
            "network": self.spec.to_json(),
            "dataset": self.dataset,
            "initialization": {"seed": self.init_seed, "digest": self.init_digest},
            "rewind_epoch": self.rewind_epoch,
            "density": self.density,
            "weights": self.weights_total,
            "weights_kept": self.weights_kept,
            "layers": self.layers,
            "shapes": {name: list(mask.shape) for name, mask in self.masks.items()},
            "found": self.found,
            "parent": self.parent,
            "digest": self.digest,
        }

    def save(self, path: str | Path) -> Path:
        """Writes the ticket's directory.

        A new directory appears whole. In one that is there each file is replaced, when all
        are written, by a rename; should the process die between two of these, the digests
        do not fit and ``load`` refuses the directory.

        Returns:
          The directory.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            self._write(fresh)
            if path.exists():
                # Last: a directory without ticket.json is no ticket.
                for file in sorted(fresh.iterdir(), key=lambda file: file.name == "ticket.json"):
                    os.replace(file, path / file.name)
            else:
                os.replace(fresh, path)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return path

    def _write(self, path: Path) -> None:
        write_masks(path / "masks.npz", self.masks)
        files = ["masks.npz"]
        if self.rewind_weights is not None:
            weights.write_arrays(path / "rewind.npz", self.rewind_weights)
            files.append("rewind.npz")
        document = self.to_json()
        document["files"] = {name: _sha256((path / name).read_bytes()) for name in files}
        # As a reader will see it: JSON turns every key into text.
        document = json.loads(json.dumps(document, allow_nan=False))
        document["document_digest"] = _document_digest(document)
        write_json(path / "ticket.json", document)

    @classmethod
    def load(cls, path: str | Path) -> Ticket:
        """Reads and verifies a ticket.

        Raises:
          TicketError: missing or damaged files, digests or shapes that do not
            fit, or a format newer than this package reads.
        """
        path = Path(path)
        document = read_document(path)
        try:
            files = document["files"]
            if not set(files) <= {"masks.npz", "rewind.npz"} or "masks.npz" not in files:
                raise TicketError(f"{path}: ticket.json names the files {sorted(files)}")
            for name, expected in files.items():
                if _sha256(_read(path / name)) != expected:
                    raise TicketError(f"{path / name} is damaged: its digest does not fit")
            masks = read_masks(path / "masks.npz", document["shapes"])
            ticket = cls(
                spec=NetworkSpec.from_json(document["network"]),
                dataset=document["dataset"],
                init_seed=document["initialization"]["seed"],
                init_digest=document["initialization"]["digest"],
                masks=masks,
                rewind_epoch=document["rewind_epoch"],
                rewind_weights=(
                    weights.read_arrays(path / "rewind.npz") if "rewind.npz" in files else None
                ),
                found=document["found"],
                parent=document["parent"],
                package_version=document["package_version"],
            )
            _check_rewind(ticket)
            fits = ticket.digest == document["digest"]
        except _MALFORMED as error:
            raise TicketError(f"{path} is no usable ticket: {error!r}") from None
        if not fits:
            raise TicketError(f"{path} is damaged: its content does not fit its digest")
        return ticket


def read_document(path: Path) -> dict:
    """``ticket.json`` of a ticket directory, verified against its own digest.

    Raises:
      TicketError: missing, damaged, or of a newer format.
    """
    path = Path(path)
    if not path.is_dir():
        raise TicketError(f"--ticket: {path} is no directory; a ticket is a directory")
    content = _read(path / "ticket.json", _JSON_LIMIT)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise TicketError(f"{path / 'ticket.json'} is damaged: not JSON") from None
    if not isinstance(document, dict) or not isinstance(document.get("format"), int):
        raise TicketError(f"{path / 'ticket.json'} is no ticket: it names no format")
    if document["format"] > FORMAT:
        raise TicketError(
            f"{path} has ticket format {document['format']} "
            f"(tf_lottery {document.get('package_version')}), this version reads up to {FORMAT}; "
            "update tf_lottery"
        )
    if document.get("document_digest") != _document_digest(document):
        raise TicketError(f"{path / 'ticket.json'} is damaged: its digest does not fit")
    return document


def _check_rewind(ticket: Ticket) -> None:
    epoch = ticket.rewind_epoch
    if type(epoch) is not int or epoch < 0:
        raise TicketError(f"the ticket rewinds to epoch {epoch!r}, which is no epoch")
    if (epoch > 0) != (ticket.rewind_weights is not None):
        raise TicketError(f"the ticket rewinds to epoch {epoch}; rewind.npz does not go with that")


def _document_digest(document: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in document.items() if key != "document_digest"}
    return _sha256(json.dumps(rest, sort_keys=True).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(path: Path, limit: int | None = None) -> bytes:
    try:
        if limit is not None and path.stat().st_size > limit:
            raise TicketError(f"{path} is larger than {limit} bytes")
        return path.read_bytes()
    except OSError as error:
        raise TicketError(f"{path} cannot be read: {error.strerror}") from None


def write_masks(path: Path, masks: NamedArrays) -> None:
    """Writes boolean masks, one bit a weight."""
    weights.write_arrays(path, {name: np.packbits(mask) for name, mask in masks.items()})


def read_masks(path: Path, shapes: Mapping[str, Sequence[int]]) -> NamedArrays:
    """Boolean masks that ``write_masks`` wrote, sizes checked before anything is unpacked.

    Raises:
      TicketError: they are of other layers or shapes.
    """
    packed = weights.read_arrays(path)
    if set(packed) != set(shapes):
        raise TicketError(f"{path.parent}: {path.name} and ticket.json name different layers")
    masks = {}
    for name, shape in shapes.items():
        sane = len(shape) <= _RANK_LIMIT and all(
            type(n) is int and 0 < n <= _WEIGHT_LIMIT for n in shape
        )
        if not sane or (size := math.prod(shape)) > _WEIGHT_LIMIT:
            raise TicketError(f"{path}: layer {name} has an impossible shape")
        bits = packed[name]
        if bits.dtype != np.uint8 or bits.shape != (math.ceil(size / 8),):
            raise TicketError(f"{path}: mask of {name} has not the size of its shape {shape}")
        masks[name] = np.unpackbits(bits, count=size).astype(bool).reshape(shape)
    return masks
