"""Our training step and evaluation beside those of three peers: seconds, memory, ratios.

    pip install '.[bench]'
    python benchmarks/training_step.py [--quick] [--output=FILE]

Cases: a natural, an FGSM and a PGD-10 training step, and the PGD-20 evaluation of a batch;
VGG-16, ResNet-18 and WideResNet-28-2 (``--models=wide_resnet-34-10`` is for accelerators),
dense and with 80 % of the weights masked. Peers: see ``interleaved.py``; ``--peers`` chooses.
``--dtype_policy=mixed_bfloat16`` measures training steps in half precision, ours and the peers'
best, on processors that compute it (AVX-512 BF16, AMX); evaluation is in float32 always.

Every side runs in a process of its own, which sleeps while another is timed. A round runs
each case once on each side, one after the other, and the matrix product between them; what
else the machine does falls on all alike. Reported are medians over the rounds. A row:

- ``ours_seconds``, ``peer_seconds``, ``ratio`` (the median over the rounds of ours over the
  peer's in that round);
- ``gemm_fraction``: our share of the matrix-product peak (median of the products so far, of
  the better library), with F the FLOPs of a forward pass and 3F, 5F, 23F and 42F an image;
- ``ours_peak_mb``, ``peer_peak_mb``: the most memory held in a fresh process during the
  case's first two calls, above what the process held before it had the network; null for
  cases that ``--memory`` does not name and with ``--quick``, which starts no fresh processes.

All sides have to compute the same: losses that differ by more than 2 % (15 % in ResNets, whose
strided convolutions PyTorch pads another way) end the benchmark.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import interleaved
import worker

from tf_lottery.machine import machine
from tf_lottery.models import forward_flops

MODELS = ("vgg16", "resnet18", "wide_resnet-28-2")
PEERS = interleaved.SIDES[1:]
GEMM = ("ours", "torch_best")  # the sides whose library also multiplies matrices
POLICIES = ("float32", "mixed_bfloat16")
SPARSITIES = (0.0, 0.8)
MEMORY = ("natural", "pgd10")  # cases
SAME_SHARE = 0.02  # of what ours computed, that another side may differ by
HALF_SHARE = 0.05  # in bfloat16
# Strided convolutions pad another way in PyTorch, which makes another function of the same cost.
STRIDED_SHARE = 0.15
HERE = Path(__file__).parent


class Worker:
    """A side in its process."""

    def __init__(self, side: str):
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if "-v" in sys.argv else subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path[1:]])},
        )
        self._side, self._began = side, began

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def wait(self) -> float:
        """Until its libraries are imported; seconds since the process began."""
        self._answer()
        return time.perf_counter() - self._began

    def run(self, **settings) -> dict:
        """One answer, see ``worker.py``."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(settings) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker of {self._side} died; -v shows what it said")
        return json.loads(line)


def check_same(
    values: dict[str, float], case: str, batch_size: int, share: float = SAME_SHARE
) -> None:
    """Raises ``ValueError`` unless all sides computed what ours did, within ``share`` of it."""
    ours = values["ours"]
    allowed = share * batch_size + 0.5 if "eval" in case else share * abs(ours) + 1e-3
    for side, value in values.items():
        if abs(value - ours) > allowed:
            raise ValueError(f"{case}: {side} computed {value}, ours {ours}")


def allowed_share(settings: dict) -> float:
    """How far the sides may be apart."""
    if settings["model"] != "vgg16":
        return STRIDED_SHARE
    return SAME_SHARE if settings["dtype_policy"] == "float32" else HALF_SHARE


@dataclass
class Measured:
    """What was seen of one case on every side; lists have an entry a round."""

    first: dict[str, float]
    seconds: dict[str, list[float]]
    gflops: dict[str, list[float]]
    peaks: dict[str, float | None]


def measure(workers: dict[str, Worker], settings: dict, rounds: int, memory: bool) -> Measured:
    """One case: a first call on each side, then rounds."""
    answers = {name: side.run(**settings) for name, side in workers.items()}
    check_same(
        {name: found["value"] for name, found in answers.items()},
        settings["case"],
        settings["batch_size"],
        allowed_share(settings),
    )
    measured = Measured(
        {name: found["seconds"] for name, found in answers.items()},
        {name: [] for name in workers},
        {name: [] for name in workers},
        dict.fromkeys(workers),
    )
    for _ in range(rounds):
        for name in GEMM:
            if name in workers:
                measured.gflops[name].append(multiplied(workers[name], settings))
        for name, side in workers.items():
            found = side.run(**settings)
            measured.seconds[name].append(found["seconds"])
    if memory:
        measured.peaks = {name: fresh_peak(name, settings) for name in workers}
    return measured


def multiplied(side: Worker, settings: dict) -> float:
    """GFLOP/s of a matrix product in the precision of ``settings``."""
    return side.run(case="gemm", dtype_policy=settings["dtype_policy"])["gflops"]


def fresh_peak(side: str, settings: dict) -> float:
    """MiB of a process that has done nothing else."""
    with Worker(side) as fresh:
        fresh.wait()
        return max(fresh.run(**settings)["peak_mb"] for _ in range(2))


def rows_of(settings: dict, measured: Measured, peak: float) -> list[dict]:
    """A row a peer; ``peak`` in GFLOP/s."""
    label, batch_size, case = (settings[key] for key in ("model", "batch_size", "case"))
    flops = sum(forward_flops(worker.build(label, 0.0)[0]).values())
    ours = measured.seconds["ours"]
    speed = interleaved.PASSES[case] * flops * batch_size / statistics.median(ours) / 1e9
    rows = []
    for name, peer in measured.seconds.items():
        if name == "ours":
            continue
        rows.append(
            {
                **settings,
                "peer": name,
                "ours_seconds": statistics.median(ours),
                "peer_seconds": statistics.median(peer),
                "ratio": statistics.median(a / b for a, b in zip(ours, peer, strict=True)),
                "gemm_fraction": speed / peak,
                "ours_gflops": speed,
                "peak_gflops": peak,
                "ours_peak_mb": measured.peaks["ours"],
                "peer_peak_mb": measured.peaks[name],
                "ours_compile_seconds": max(0.0, measured.first["ours"] - statistics.median(ours)),
                "peer_compile_seconds": max(0.0, measured.first[name] - statistics.median(peer)),
                "rounds": len(ours),
            }
        )
    return rows


_LINE = "{:<18}{:<18}{:>5}  {:<18}{:>9}{:>9}{:>7}{:>7}{:>9}{:>9}".format
HEAD = _LINE(
    "model", "case", "mask", "peer", "ours s", "peer s", "ratio", "gemm", "ours MB", "peer MB"
)


def line(row: dict) -> str:
    """A row as text."""
    peaks = row["ours_peak_mb"], row["peer_peak_mb"]
    return _LINE(
        row["model"],
        row["case"],
        f"{row['sparsity']:.0%}",
        row["peer"],
        f"{row['ours_seconds']:.3f}",
        f"{row['peer_seconds']:.3f}",
        f"{row['ratio']:.2f}",
        f"{row['gemm_fraction']:.2f}",
        *("" if peak is None else f"{peak:.0f}" for peak in peaks),
    )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = lambda text: tuple(text.split(","))  # noqa: E731
    parser.add_argument("--quick", action="store_true", help="small batches, one round")
    parser.add_argument("--output", type=Path, help="write rows and machine as JSON")
    parser.add_argument(
        "--models", type=names, default=MODELS, help=f"of {', '.join(worker.MODELS)}"
    )
    parser.add_argument("--cases", type=names, help=",".join(interleaved.CASES))
    parser.add_argument(
        "--sparsities",
        type=lambda text: tuple(map(float, text.split(","))),
        default=SPARSITIES,
        help="0,0.8",
    )
    parser.add_argument(
        "--memory", type=names, default=MEMORY, help=f"cases; {','.join(MEMORY)}; not with --quick"
    )
    parser.add_argument("--peers", type=names, default=PEERS)
    parser.add_argument("--dtype_policy", choices=POLICIES, default=POLICIES[0])
    parser.add_argument("--rounds", type=int, help="5; with --quick 1")
    parser.add_argument("--batch_size", type=int, help="64; with --quick 4")
    parser.add_argument("-v", action="store_true", help="show what the libraries print")
    options = parser.parse_args()
    # Whatever the policy of training, evaluation is in float32.
    allowed = interleaved.CASES if options.dtype_policy == "float32" else interleaved.CASES[:-1]
    options.cases = options.cases or allowed
    for flag, given, known in (
        ("models", options.models, worker.MODELS),
        ("cases", options.cases, allowed),
        ("memory", options.memory, interleaved.CASES),
        ("peers", options.peers, PEERS),
    ):
        for name in given:
            if name not in known:
                parser.error(f"--{flag}: got {name}, must be of {', '.join(known)}")
    needs = {"torch_best": "torch", "torch_published": "torch", "keras_cleverhans": "cleverhans"}
    for name in options.peers:
        if importlib.util.find_spec(needs[name]) is None:
            parser.error(f"{name}: {needs[name]} is not installed; pip install '.[bench]'")
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.batch_size = options.batch_size or (4 if options.quick else 64)
    return options


def cases_to_run(options: argparse.Namespace) -> list[dict]:
    """Settings of each measurement; the quick form masks the first model's PGD-10 step alone."""
    return [
        {
            "case": case,
            "model": model,
            "sparsity": sparsity,
            "batch_size": options.batch_size,
            "dtype_policy": options.dtype_policy,
        }
        for model in options.models
        for sparsity in options.sparsities
        for case in options.cases
        if not (options.quick and sparsity and (case != "pgd10" or model != options.models[0]))
    ]


def main() -> None:
    options = parse_options()
    rows: list[dict] = []
    gflops: dict[str, list[float]] = {name: [] for name in GEMM}
    with contextlib.ExitStack() as stack:
        # One after the other, for their start-up times.
        workers, start_up = {}, {}
        for name in ("ours", *options.peers):
            workers[name] = stack.enter_context(Worker(name))
            start_up[name] = workers[name].wait()
        print(HEAD)
        for settings in cases_to_run(options):
            memory = not options.quick and settings["case"] in options.memory
            measured = measure(workers, settings, options.rounds, memory)
            for name in GEMM:
                gflops[name] += measured.gflops.get(name, [])
            peak = max(statistics.median(found) for found in gflops.values() if found)
            rows += rows_of(settings, measured, peak)
            print("\n".join(map(line, rows[-len(options.peers) :])), flush=True)
            if options.output:
                document = {
                    "machine": machine(),
                    "versions": {
                        name: importlib.metadata.version(name)
                        for name in ("tensorflow", "torch", "cleverhans")
                        if importlib.util.find_spec(name) is not None
                    },
                    "start_up_seconds": start_up,
                    "matrix_product_gflops": gflops,
                    "rows": rows,
                }
                options.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
