"""Exported files read back as a user would: what they hold, how large they are, their logits."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tf_lottery.evaluation.models import predicted_classes
from tf_lottery.evaluation.packing import unit_pixels
from tf_lottery.files import plain_name
from tf_lottery.keras import tf, tflite_schema
from tf_lottery.terminal import silent_stderr

# What of a directory is the SavedModel; other files may lie beside it.
_SAVED_MODEL = ("assets", "fingerprint.pb", "saved_model.pb", "variables")
_BATCH = 64  # images, where classes are read

# Images (batch, h, w, c) float32 in [0, 1] -> float32 logits (batch, classes).
Runner = Callable[[np.ndarray], np.ndarray]


class Artefact(Protocol):
    """An exported model on disk.

    Attributes:
      path: of the file or directory.
    """

    path: Path

    def counts(self) -> tuple[int, int]:
        """Numbers stored as weights, and how many of them are not zero.

        In a sparse encoding the zeros left out count as numbers stored.
        """

    def sizes(self) -> tuple[int, int]:
        """Bytes on disk, and bytes after gzip."""

    def runner(self, batch: int) -> Runner:
        """The model for batches of exactly that size."""


class SavedModelArtefact:
    """A SavedModel of ``export_saved_model``, loaded by plain TensorFlow."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.model = tf.saved_model.load(plain_name(path))

    def counts(self) -> tuple[int, int]:
        """See ``Artefact``: all floating-point variables, BatchNorm statistics included."""
        reader = tf.train.load_checkpoint(f"{plain_name(self.path)}/variables/variables")
        types = reader.get_variable_to_dtype_map()
        values = [reader.get_tensor(name) for name, dtype in types.items() if dtype.is_floating]
        return sum(v.size for v in values), sum(int(np.count_nonzero(v)) for v in values)

    def sizes(self) -> tuple[int, int]:
        """See ``Artefact``; gzip of a tar archive of the files."""
        files = [
            file
            for part in _SAVED_MODEL
            for file in sorted([self.path / part, *(self.path / part).rglob("*")])
            if file.is_file()
        ]
        packed = io.BytesIO()
        with (
            gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
            tarfile.open(fileobj=zipped, mode="w|") as archive,
        ):
            for file in files:
                entry = tarfile.TarInfo(str(file.relative_to(self.path)))
                entry.size = file.stat().st_size
                with open(file, "rb") as content:
                    archive.addfile(entry, content)
        return sum(file.stat().st_size for file in files), packed.tell()

    def runner(self, batch: int) -> Runner:
        """See ``Artefact``."""
        del batch  # any size is traced already
        return lambda images: self.model.logits(tf.constant(images)).numpy()


class TFLiteArtefact:
    """A TFLite file, run by TensorFlow's own interpreter.

    Args:
      path: of the file.
      threads: of the interpreter.
      verbose: let TensorFlow talk.
    """

    def __init__(self, path: str | Path, threads: int = 1, verbose: bool = False):
        self.path = Path(path)
        self._threads = threads
        self._verbose = verbose

    def counts(self) -> tuple[int, int]:
        """See ``Artefact``: constants that are floats or quantised; BatchNorm is folded in."""
        schema = tflite_schema()
        model = schema.ModelT.InitFromPackedBuf(self.path.read_bytes(), 0)
        stored = nonzero = 0
        for graph in model.subgraphs:
            for tensor in graph.tensors:
                values = _weights(schema, model, tensor)
                if values is None:
                    continue
                shape = tensor.shape if tensor.shape is not None else []
                stored += int(np.prod(shape, dtype=np.int64))
                nonzero += int(np.count_nonzero(values))
        return stored, nonzero

    def sizes(self) -> tuple[int, int]:
        """See ``Artefact``."""
        content = self.path.read_bytes()
        return len(content), len(gzip.compress(content, mtime=0))

    def runner(self, batch: int) -> Runner:
        """See ``Artefact``; images and logits are converted where the file's are int8."""
        with silent_stderr(unless=self._verbose), warnings.catch_warnings():
            # It says that tf.lite will go in TF 2.20; in 2.21 it is there.
            warnings.simplefilter("ignore")
            interpreter = tf.lite.Interpreter(plain_name(self.path), num_threads=self._threads)
            source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
            interpreter.resize_tensor_input(source["index"], [batch, *source["shape"][1:]])
            interpreter.allocate_tensors()

        def run(images: np.ndarray) -> np.ndarray:
            interpreter.set_tensor(source["index"], _quantised(images, source))
            interpreter.invoke()
            return _real(interpreter.get_tensor(target["index"]), target)

        return run


def _weights(schema: Any, model: Any, tensor: Any) -> np.ndarray | None:
    """The numbers that a file stores for a constant; ``None`` for what is no weight."""
    kinds = schema.TensorType
    types: dict = {kinds.FLOAT32: np.float32, kinds.FLOAT16: np.float16, kinds.INT8: np.int8}
    quantised = tensor.quantization is not None and tensor.quantization.scale is not None
    if quantised:
        types[kinds.INT32] = np.int32  # biases; other int32 constants are shapes and axes
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) == 0 or tensor.type not in types:
        return None
    values = np.frombuffer(bytes(bytearray(data)), types[tensor.type])
    if tensor.type == kinds.INT8 and quantised:
        zeros = np.unique(tensor.quantization.zeroPoint)
        if len(zeros) == 1:
            return values.astype(np.int16) - np.int16(zeros[0])
    return values


def _quantised(images: np.ndarray, details: dict) -> np.ndarray:
    if details["dtype"] != np.int8:
        return images
    scale, zero = details["quantization"]
    return np.clip(np.round(images / scale + zero), -128, 127).astype(np.int8)


def _real(logits: np.ndarray, details: dict) -> np.ndarray:
    if details["dtype"] != np.int8:
        return logits
    scale, zero = details["quantization"]
    return (logits.astype(np.float32) - zero) * np.float32(scale)


def predictions(artefact: Artefact, images: np.ndarray) -> np.ndarray:
    """Classes, int32 (n,), of uint8 or float images (n, h, w, c); -1 where a logit is NaN."""
    run = artefact.runner(_BATCH)
    found = []
    for first in range(0, len(images), _BATCH):
        part = np.asarray(images[first : first + _BATCH])
        count = len(part)
        filled = np.concatenate([part, np.repeat(part[-1:], _BATCH - count, axis=0)])
        found.append(predicted_classes(run(unit_pixels(filled))[:count]))
    return np.concatenate(found)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
