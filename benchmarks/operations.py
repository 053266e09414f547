"""Where the time of a training step goes: seconds by kind of operation.

    python benchmarks/operations.py [--models=vgg16,...] [--cases=natural,pgd10] [--output=FILE]

TensorFlow's profiler over one step after two that are not counted. ``seconds`` add up the
operations of a kind; some run side by side, so that all of them together may take longer than
the step (``step_seconds``, profiler included). ``share`` is of that sum.
"""

from __future__ import annotations

import argparse
import collections
import json
import tempfile
import time
from pathlib import Path

import interleaved
import overheads

from tf_lottery.keras import tf
from tf_lottery.machine import machine

# Kind of operation -> what it is for. In the order in which a name is looked up.
KINDS = (
    ("BackpropFilter", "convolution, weight gradients"),
    ("BackpropInput", "convolution, input gradients"),
    ("Conv2D", "convolution, forward"),
    ("MatMul", "matrix products"),
    ("BatchNorm", "BatchNorm"),
    ("Pool", "pooling"),
    ("Relu", "ReLU"),
    ("", "elementwise and other"),
)

CONTAINERS = ("While", "If", "PartitionedCall", "StatefulPartitionedCall")


def _holds_others(kind: str) -> bool:
    return kind in CONTAINERS or kind.strip().startswith("__")


def operation_seconds(directory: Path) -> dict[str, float]:
    """Seconds by TensorFlow's operation type, from the profiler's files."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    seconds: collections.Counter = collections.Counter()
    for path in directory.glob("**/*.xplane.pb"):
        space = xplane_pb2.XSpace()
        space.ParseFromString(path.read_bytes())
        for plane in (plane for plane in space.planes if "CPU" in plane.name):
            for timeline in plane.lines:
                for event in timeline.events:
                    # An operation is "<node>:<type>"; the executor's own are "<class>::<method>",
                    # and functions and loops hold operations that count themselves.
                    node, _, kind = plane.event_metadata[event.metadata_id].name.rpartition(":")
                    if node and not node.endswith(":") and not _holds_others(kind):
                        seconds[kind] += event.duration_ps / 1e12
    return seconds


def by_purpose(seconds: dict[str, float]) -> dict[str, float]:
    """The same by the words of ``KINDS``."""
    result = {words: 0.0 for _, words in KINDS}
    for kind, value in seconds.items():
        result[next(words for part, words in KINDS if part in kind)] += value
    return result


def profile(label: str, case: str, batch_size: int) -> dict:
    """One row: a dense network's step."""
    steps, _ = interleaved.attack_steps(case)
    run = overheads.training_function(label, 0.0, steps, overheads.fixed_batches(batch_size))
    run(), run()
    with tempfile.TemporaryDirectory() as directory:
        tf.profiler.experimental.start(directory)
        began = time.perf_counter()
        run()
        took = time.perf_counter() - began
        tf.profiler.experimental.stop()
        seconds = by_purpose(operation_seconds(Path(directory)))
    total = sum(seconds.values())
    return {
        "model": label,
        "case": case,
        "batch_size": batch_size,
        "step_seconds": took,
        "seconds": seconds,
        "share": {words: value / total for words, value in seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(overheads.MODELS))
    parser.add_argument("--cases", default="natural,pgd10")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--output", type=Path, help="write rows and machine as JSON")
    options = parser.parse_args()
    rows = []
    for label in options.models.split(","):
        for case in options.cases.split(","):
            rows.append(profile(label, case, options.batch_size))
            print(f"{label} {case}: {rows[-1]['step_seconds']:.2f} s")
            for words, share in rows[-1]["share"].items():
                print(f"  {words:<32}{share:>7.1%}", flush=True)
    if options.output:
        options.output.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
