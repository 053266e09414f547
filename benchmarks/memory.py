"""Memory of a training step: the formula of ``models/memory.py`` against the peak measured.

    python benchmarks/memory.py [--quick] [--output=FILE]

Each network, objective and batch size has a process of its own. Its peak of resident memory
during two steps, less what it held once TensorFlow ran, is fitted by a line over the batch
sizes: the slope is what an image takes, the intercept what the weights take. What building and
pruning the network took and gave back is not in it. Peaks do not depend on how busy the machine
is, so one process each is enough. Linux alone tells and forgets them.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

SHAPE, CLASSES = (32, 32, 3), 10
NETWORKS = {  # label -> build_model arguments, batch sizes
    "vgg16": ({"name": "vgg"}, (16, 32, 64)),
    "resnet18": ({"name": "resnet18"}, (16, 32, 64)),
    "wide_resnet-28-2": ({"name": "wide_resnet", "depth": 28, "width": 2}, (16, 32, 64)),
    "wide_resnet-34-10": ({"name": "wide_resnet"}, (4, 8, 16)),
}
# PGD of two steps: that of ten takes five times as long and no other memory.
OBJECTIVES = {"natural": 0, "pgd2": 2}
MEGABYTE = 1e6


def measure(label: str, objective: str, batch_size: int) -> dict:
    """Bytes of resident memory: once TensorFlow runs, and at the peak of two steps."""
    import overheads

    from tf_lottery.keras import tf

    tf.matmul(tf.ones([64, 64]), tf.ones([64, 64])).numpy()  # starts devices and threads
    before = _status("VmRSS")
    batches = overheads.fixed_batches(batch_size)
    step = overheads.training_function(label, 0.8, OBJECTIVES[objective], batches)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or what is free now would hide what the step takes
    Path("/proc/self/clear_refs").write_text("5")  # the peak is forgotten
    built = _status("VmRSS")
    for _ in range(2):  # the first makes the momentum, the second finds it there
        step()
    peak = _status("VmHWM")
    return {"batch_size": batch_size, "before": before, "built": built, "peak": peak}


def _status(name: str) -> int:
    """Bytes of a line of ``/proc/self/status``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise SystemExit(f"/proc/self/status does not tell {name}: Linux is needed")


def in_own_process(label: str, objective: str, batch_size: int) -> dict:
    """``measure`` in a new process."""
    command = [sys.executable, __file__, "--measure", label, objective, str(batch_size)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def fit(measured: list[dict]) -> tuple[float, float]:
    """Bytes an image and bytes besides, by least squares over the batch sizes."""
    sizes = [each["batch_size"] for each in measured]
    used = [each["peak"] - each["before"] for each in measured]
    slope, intercept = np.polyfit(sizes, used, 1)
    return float(slope), float(intercept)


def row(label: str, objective: str, measured: list[dict]) -> dict:
    """Measured against computed."""
    from tf_lottery.models import build_model, footprint

    options = dict(NETWORKS[label][0])
    network = footprint(build_model(options.pop("name"), SHAPE, CLASSES, 0, **options))
    slope, intercept = fit(measured)
    largest = max(measured, key=lambda each: each["batch_size"])
    used, size = largest["peak"] - largest["before"], largest["batch_size"]
    return {
        "model": label,
        "objective": objective,
        "measured": measured,
        "image_bytes": slope,
        "image_bytes_computed": network.image,
        "image_kept_computed": network.kept,
        "image_ratio": slope / network.image,
        "fixed_bytes": intercept,
        "fixed_bytes_computed": network.step(0),
        "step_bytes": used,
        "step_batch_size": size,
        "step_bytes_computed": network.step(size),
        "step_ratio": used / network.step(size),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="WideResNet-28-2 alone")
    parser.add_argument("--output", type=Path, help="write rows and machine as JSON")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        label, objective, size = chosen.measure
        print(json.dumps(measure(label, objective, int(size))))
        return
    line = "{:<19}{:<9}{:>12}{:>12}{:>8}{:>12}{:>12}{:>14}".format
    print(line("", "", "MB an image", "computed", "ratio", "fixed MB", "computed", "step ratio"))
    rows = []
    for label in ["wide_resnet-28-2"] if chosen.quick else NETWORKS:
        for objective in OBJECTIVES:
            sizes = NETWORKS[label][1]
            found = row(label, objective, [in_own_process(label, objective, n) for n in sizes])
            rows.append(found)
            print(
                line(
                    label,
                    objective,
                    f"{found['image_bytes'] / MEGABYTE:.2f}",
                    f"{found['image_bytes_computed'] / MEGABYTE:.2f}",
                    f"{found['image_ratio']:.2f}",
                    f"{found['fixed_bytes'] / MEGABYTE:.0f}",
                    f"{found['fixed_bytes_computed'] / MEGABYTE:.0f}",
                    f"{found['step_ratio']:.2f} at {found['step_batch_size']}",
                ),
                flush=True,
            )
    if chosen.output:
        from tf_lottery.machine import machine

        document = {"machine": machine(), "rows": rows}
        chosen.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
