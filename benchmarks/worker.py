"""One side of a benchmark in a process of its own, which works only when it is told to.

    python worker.py SIDE

Reads a line of JSON from stdin, such as ``{"case": "pgd10", "model": "vgg16", "sparsity": 0.8,
"batch_size": 64}``, runs the case once and answers in a line of JSON: ``seconds``, ``value``
(what the side computed) and ``peak_mb``, the most memory that the process held meanwhile, in
MiB above what it held before it had the network. ``{"case": "gemm"}`` multiplies two matrices
and answers the GFLOP/s. ``"dtype_policy": "mixed_bfloat16"`` does either in half precision.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path

MODELS = {  # label -> arguments of build_model; inputs are (32, 32, 3)
    "vgg16": {"name": "vgg"},
    "resnet18": {"name": "resnet18"},
    "wide_resnet-28-2": {"name": "wide_resnet", "depth": 28, "width": 2},
    "wide_resnet-34-10": {"name": "wide_resnet", "depth": 34, "width": 10},
}
MATRIX = 2048


def memory_mb(field: str) -> float:
    """A line of /proc/self/status, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(field)


def forget_peak() -> None:
    """The peak is counted from now on (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def build(label: str, sparsity: float, dtype_policy: str = "float32"):
    """A network, pruned at random in every layer alike, and its masks or ``None``."""
    from tf_lottery import pruning
    from tf_lottery.models import build_model
    from tf_lottery.pruning.masks import mask_weights, prunable_kernels

    arguments = dict(MODELS[label])
    name = arguments.pop("name")
    network = build_model(name, (32, 32, 3), 10, 0, dtype_policy=dtype_policy, **arguments)
    if not sparsity:
        return network, None
    kernels = {name: kernel.numpy() for name, kernel in prunable_kernels(network).items()}
    masks = pruning.prune(kernels, None, sparsity, scope="layer")
    mask_weights(network, masks)
    return network, masks


def gemm(side: str, dtype: str):
    """A function that multiplies two matrices and returns the GFLOP/s."""
    if side.startswith("torch"):
        import torch

        a, b = (torch.rand(MATRIX, MATRIX, dtype=getattr(torch, dtype)) for _ in range(2))

        def multiply():
            return torch.mm(a, b)
    else:
        from tf_lottery.keras import tf

        a, b = (tf.cast(tf.random.uniform((MATRIX, MATRIX)), dtype) for _ in range(2))
        function = tf.function(lambda a, b: tf.matmul(a, b))

        def multiply():
            return function(a, b)[0, 0].numpy()  # waits for all of it

    multiply()

    def run(repeats: int = 5) -> float:
        began = time.perf_counter()
        for _ in range(repeats):
            multiply()
        return repeats * 2 * MATRIX**3 / (time.perf_counter() - began) / 1e9

    return run


class Bench:
    """The network that is measured now; another one takes its place."""

    def __init__(self, side: str):
        self._side, self._current = side, None
        self._multiply: dict = {}

    def run(
        self,
        case: str,
        model: str = "",
        sparsity: float = 0.0,
        batch_size: int = 0,
        dtype_policy: str = "float32",
    ) -> dict:
        """One answer."""
        if case == "gemm":
            if dtype_policy not in self._multiply:
                self._multiply[dtype_policy] = gemm(self._side, dtype_policy.removeprefix("mixed_"))
            return {"gflops": self._multiply[dtype_policy]()}
        import interleaved

        settings = (model, sparsity, batch_size, dtype_policy)
        if self._current != settings:
            self._made = None  # frees the other one
            gc.collect()
            self._before = memory_mb("VmRSS")
            policy = interleaved.network_policy(self._side, dtype_policy)
            network, masks = build(model, sparsity, policy)
            batch = interleaved.make_batch(network, batch_size)
            self._made = interleaved.make_side(self._side, network, masks, batch, dtype_policy)
            self._current = settings
            del network
            gc.collect()
        forget_peak()
        began = time.perf_counter()
        value = self._made.run(case)
        seconds = time.perf_counter() - began
        return {
            "seconds": seconds,
            "value": value,
            "peak_mb": memory_mb("VmHWM") - self._before,
        }


def main() -> None:
    # What libraries print goes elsewhere: stdout is for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    bench = Bench(sys.argv[1])
    if sys.argv[1].startswith("torch"):
        import torch  # noqa: F401
    import interleaved  # noqa: F401

    def answer(content: dict) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    answer({})
    for line in sys.stdin:
        answer(bench.run(**json.loads(line)))


if __name__ == "__main__":
    main()
