"""Names, copies, digests and files of a network's variables.

A variable's name is ``<layer>/<variable>`` (``conv1_1/kernel``,
``conv1_1_bn/moving_mean``, ``block/conv/kernel`` in a model used as a layer, see
``nesting``), whatever wrappers or name scopes it was made under,
so that two builds of one architecture agree on it.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tf_lottery import files
from tf_lottery.errors import StoreError
from tf_lottery.nesting import named_layers


def named_variables(network: Any) -> dict[str, Any]:
    """All variables of a bare network, in layer order, by name, each once.

    Raises:
      ValueError: two variables share a name.
    """
    result: dict[str, Any] = {}
    layers = named_layers(network)
    named: set[int] = set()
    for path, layer in layers.items():
        inside = {id(v) for p, held in layers.items() if p.startswith(f"{path}/")
                  for v in held.weights}  # fmt: skip
        for variable in layer.weights:
            if id(variable) in inside | named:
                continue
            named.add(id(variable))
            name = f"{path}/{variable.name.split('/')[-1].split(':')[0]}"
            if name in result:
                raise ValueError(f"two variables are named {name}")
            result[name] = variable
    return result


def get_weights(network: Any) -> dict[str, np.ndarray]:
    """Copies of all variables as NumPy arrays."""
    return {name: variable.numpy() for name, variable in named_variables(network).items()}


def set_weights(network: Any, values: Mapping[str, np.ndarray]) -> None:
    """Assigns every variable of ``network``; names and shapes must match exactly.

    Raises:
      ValueError: a name is missing or unknown, or a shape differs.
    """
    variables = named_variables(network)
    if set(variables) != set(values):
        odd = sorted(set(variables) ^ set(values))
        raise ValueError(f"weights of another network: {', '.join(odd[:4])} in one of the two only")
    for name, variable in variables.items():
        if tuple(variable.shape) != values[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(variable.shape)}, the weights {values[name].shape}"
            )
    for name, variable in variables.items():
        variable.assign(values[name])


def digest(values: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and bytes, in the mapping's order."""
    sha = hashlib.sha256()
    for name, array in values.items():
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def write_arrays(path: Path, values: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as ``.npz`` (zip of ``.npy``, no pickle), atomically, in order."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **dict(values))  # type: ignore[arg-type]
    files.write_atomically(path, buffer.getvalue())


# What zipfile and NumPy raise for damaged archives, single flipped bits included.
_DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    NotImplementedError,
    MemoryError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """An array of an archive; refused, before anything is allocated, if not as written.

    Members are stored, not compressed, so an array is never larger than the file.
    """
    stored = member.compress_type == zipfile.ZIP_STORED
    if not stored or member.file_size != member.compress_size or member.flag_bits & 1:
        raise ValueError(f"{member.filename} is compressed or encrypted")
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{member.filename} has an unknown version")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds pickled objects")
        if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise ValueError(f"{member.filename} does not hold what its header says")
        content = bytearray(file.read())  # at its end the checksum is compared
    array = np.frombuffer(content, dtype) if content else np.empty(0, dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads what ``write_arrays`` wrote.

    Raises:
      StoreError: the file is missing, damaged, or holds pickled objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                member.filename.removesuffix(".npy"): _read_member(archive, member)
                for member in archive.infolist()
            }
    except FileNotFoundError:
        raise StoreError(f"{path} is missing") from None
    except _DAMAGED as error:
        raise StoreError(f"{path} is damaged: {error}") from None
