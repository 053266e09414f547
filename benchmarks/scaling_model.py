"""What more GPUs would give, computed.

    python benchmarks/scaling_model.py

Nothing here is measured but the paper's own seconds. Passes and FLOPs are those of the cost
ledger, memory that of ``models/memory.py``, stages and their order those of ``--experiment``;
the rest are the assumptions below. No overlap of computing and communicating is assumed, and
that a GPU is as fast on few images as on many, which is wrong the more the fewer they are.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tf_lottery.engine.order import Schedule
from tf_lottery.engine.stage import Stage, in_order
from tf_lottery.engine.store import Store
from tf_lottery.keras import keras, tf
from tf_lottery.lottery.costs import (
    evaluation_cost,
    training_cost,
    transfer_cost,
    validation_cost,
)
from tf_lottery.models import Footprint, build_model, footprint, forward_flops
from tf_lottery.options import command as flags
from tf_lottery.studies.study import Study
from tf_lottery.study_cli import make_design

FLOAT = 4  # bytes
BATCH = 128
PGD10 = 10  # attack steps
NETWORKS = {
    "VGG-16": ("vgg", {}),
    "ResNet-18": ("resnet18", {}),
    "WideResNet-28-2": ("wide_resnet", {"depth": 28, "width": 2}),
    "WideResNet-34-10": ("wide_resnet", {}),
}
TABLE3 = Path(__file__).parents[1] / "flags" / "paper" / "table3.flags"
TRAIN, VALIDATION, TEST = 45_000, 5_000, 10_000  # images of CIFAR-10 as the paper splits it
# Epochs and seconds on two V100s, Table 3 of the paper; it does not say how long it searched.
PAPER = {"dense": (100, 134_764), "40": (40, 54_090), "70": (70, 94_796), "100": (100, 137_105)}
PAPER_SEARCH = 15_462
PAPER_GPUS = 2
V100_PEAK = 15.7e12  # FLOP/s, float32
# ResNet-50: trainable parameters, FLOPs of a forward pass (4.1 G multiply-adds), both of
# He et al. 2016 at 224 x 224; the package has no such network.
RESNET50 = (25_557_032, 8.2e9)
IMAGENET = (1_281_167, 224 * 224 * 3)  # images, bytes each


@dataclass(frozen=True)
class Cluster:
    """GPUs of one kind and what joins them; rates are those reached, not peaks.

    Attributes:
      flops: FLOP/s of a GPU.
      local: bytes/s that a GPU sends to its neighbour in the host.
      network: bytes/s that a host sends.
      per_host: GPUs of a host.
      local_latency, network_latency: seconds of a message.
    """

    flops: float
    local: float = 300e9
    network: float = 12.5e9
    per_host: int = 8
    local_latency: float = 5e-6
    network_latency: float = 25e-6


FP32 = Cluster(0.5 * 19.5e12)
BF16 = Cluster(0.5 * 312e12)


# Formulas ---------------------------------------------------------------------


def passes(attack_steps: int) -> int:
    """Passes through the network of a training step, an image: 3, FGSM 5, PGD-10 23."""
    return 3 + 2 * attack_steps


def compute_seconds(
    flops: float, attack_steps: int, images: float, cluster: Cluster, devices: int
) -> float:
    """Of a step on ``images`` in all, with ``flops`` a forward pass of an image."""
    return passes(attack_steps) * flops * images / (devices * cluster.flops)


def all_reduce_seconds(parameters: int, cluster: Cluster, devices: int) -> float:
    """Of the gradients of ``parameters`` floats: rings in each host, then one of the hosts.

    A ring of n moves 2 (n - 1) / n of the bytes past each member, in 2 (n - 1) messages.
    """
    size = FLOAT * parameters
    inside = min(devices, cluster.per_host)
    hosts = math.ceil(devices / cluster.per_host)
    return (
        2 * (inside - 1) / inside * size / cluster.local
        + 2 * (inside - 1) * cluster.local_latency
        + 2 * (hosts - 1) / hosts * size / cluster.network
        + 2 * (hosts - 1) * cluster.network_latency
    )


def efficiency(computing: float, communicating: float) -> float:
    """Share of the time that is computing."""
    return computing / (computing + communicating)


@dataclass(frozen=True)
class Traffic:
    """Bytes that an image's activations move, if every layer reads and writes memory.

    Attributes:
      forward: inputs and outputs of every layer.
      backward: gradients on both sides of every layer, and what was kept for them.
      weights: inputs and gradients of outputs of conv and dense layers.
    """

    forward: int
    backward: int
    weights: int


def traffic(model: keras.Model) -> Traffic:
    """Of a bare network."""
    forward = weights = 0
    for layer in model.layers[1:]:  # the first is the input
        tensors = [*tf.nest.flatten(layer.input), *tf.nest.flatten(layer.output)]
        moved = sum(FLOAT * math.prod(tensor.shape[1:]) for tensor in tensors)
        forward += moved
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            weights += moved
    return Traffic(forward, forward + footprint(model).kept, weights)


def step_bytes(moved: Traffic, parameters: int, attack_steps: int, images: int) -> int:
    """Bytes a training step of a masked network reads and writes on one device.

    Every pass reads the weights; the gradients are written once. The update reads gradient
    and weight and writes the gradient (weight decay), reads weight, gradient and momentum and
    writes two of them, and multiplies gradient and weight by the mask: 14 floats a weight.
    """
    each_way = 1 + attack_steps
    activations = each_way * (moved.forward + moved.backward) + moved.weights
    return images * activations + (2 * each_way + 1 + 14) * FLOAT * parameters


# Stages -------------------------------------------------------------------------


def stage_flops(stage: Stage, flops: float) -> float:
    """What a stage of Table 3 computes, validation included, with ``flops`` a forward pass."""
    if stage.kind == "train":
        training = stage.runtime["train"]
        cost = training_cost(training, TRAIN, flops)
        return cost.flops + validation_cost(training, VALIDATION, flops).flops
    if stage.kind == "evaluate":
        return evaluation_cost(stage.runtime["config"].attacks, TEST, flops).flops
    if stage.kind == "transfer":
        models = [flops] * len(stage.parents)
        return transfer_cost(stage.runtime["attack"], TEST, models).flops
    return 0.0


def makespan(targets: Iterable[Stage], seconds: Callable[[Stage], float], slots: int) -> float:
    """When the last stage ends, ``slots`` of them at a time, in the order of the executors."""
    schedule = Schedule(targets, Store("no-such-directory", read_only=True), lambda line: None)
    running: list[tuple[float, int, Stage]] = []
    now, started = 0.0, 0
    while schedule.left:
        while len(running) < slots and (stage := schedule.take()):
            heapq.heappush(running, (now + seconds(stage), started, stage))
            started += 1
        now, _, stage = heapq.heappop(running)
        schedule.finished(stage)
    return now


def critical_path(targets: Iterable[Stage], seconds: Callable[[Stage], float]) -> float:
    """Seconds of the longest chain of stages: no number of slots takes less."""
    ends: dict[str, float] = {}
    for stage in in_order(targets):
        begins = max((ends[parent.key] for parent in stage.parents.values()), default=0.0)
        ends[stage.key] = begins + seconds(stage)
    return max(ends.values())


def table3(replicates: int = 1) -> list[Stage]:
    """The stages of Table 3 at the paper's scale that nothing else depends on."""
    arguments = [f"--flagfile={TABLE3}", f"--replicates={replicates}"]
    return Study(make_design(flags.parse(arguments))).targets


# Tables -------------------------------------------------------------------------


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, without a line break at its end."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@dataclass(frozen=True)
class Network:
    """What the tables need of a network."""

    name: str
    flops: int
    footprint: Footprint
    traffic: Traffic

    @property
    def parameters(self) -> int:
        return self.footprint.trained // FLOAT


def networks() -> list[Network]:
    """The paper's, on CIFAR-10."""
    made = []
    for name, (family, options) in NETWORKS.items():
        model = build_model(family, (32, 32, 3), 10, 0, **options)
        flops = sum(forward_flops(model).values())
        made.append(Network(name, flops, footprint(model), traffic(model)))
    return made


def network_table(made: Sequence[Network]) -> str:
    rows = []
    for each in made:
        moved = [step_bytes(each.traffic, each.parameters, k, BATCH) for k in (0, PGD10)]
        work = [passes(k) * each.flops * BATCH for k in (0, PGD10)]
        rows.append(
            [
                each.name,
                f"{each.parameters / 1e6:.2f}",
                f"{each.flops / 1e9:.2f}",
                f"{each.footprint.state / 1e6:,.0f}",
                f"{each.footprint.image / 1e6:.1f}",
                f"{each.footprint.step(BATCH) / 1e9:.2f}",
                f"{moved[0] / 1e9:.1f} / {moved[1] / 1e9:.1f}",
                f"{work[0] / moved[0]:.0f} / {work[1] / moved[1]:.0f}",
                f"{2 * FLOAT * each.parameters / 1e6:.0f}",
            ]
        )
    header = [
        "network", "weights, M", "F, GFLOP", "state, MB", "an image, MB", "a step, GB",
        "moved, GB", "FLOP a byte", "all-reduce, MB",
    ]  # fmt: skip
    return markdown(header, rows)


def paper_rate(flops: float) -> dict[str, float]:
    """FLOP/s of all the paper's GPUs together, by training, if the attack spends 23F."""
    batches = TRAIN // BATCH * BATCH
    return {
        name: epochs * batches * passes(PGD10) * flops / seconds
        for name, (epochs, seconds) in PAPER.items()
    }


def calibration_table(flops: float) -> str:
    rows = []
    for name, rate in paper_rate(flops).items():
        epochs, seconds = PAPER[name]
        label = name if name == "dense" else f"ticket, {name} epochs"
        share = rate / PAPER_GPUS / V100_PEAK
        rows.append(
            [
                label,
                f"{seconds:,}",
                f"{seconds / epochs:,.0f}",
                f"{rate / 1e12:.1f}",
                f"{share:.0%}",
            ]
        )
    header = ["training", "seconds", "an epoch", "TFLOP/s of both", "of the peak"]
    return markdown(header, rows)


def hours_table(network: Network, cluster: Cluster) -> str:
    """Table 3 with a stage a GPU, with all GPUs on each stage, and with a stage a host."""
    steps = compute_seconds(network.flops, PGD10, BATCH, cluster, 8)
    share = efficiency(steps, all_reduce_seconds(network.parameters, cluster, 8))
    rows = []
    for replicates in (1, 3, 64):
        targets = table3(replicates)

        def hours(stage: Stage) -> float:
            return stage_flops(stage, network.flops) / cluster.flops / 3600

        one, eight, hosts = (makespan(targets, hours, slots) for slots in (1, 8, 64))
        shown = [
            one,
            eight,
            one / 8 / share,
            hosts / 8 / share,
            critical_path(targets, hours) / 8 / share,
        ]
        stages = len(in_order(targets))
        rows.append([str(replicates), f"{stages:,}", *[f"{each:,.0f}" for each in shown]])
    header = [
        "seeds", "stages", "1 GPU", "8 GPUs, a stage each", "8 GPUs, all on each stage",
        "64 hosts, a stage each", "longest chain on hosts",
    ]  # fmt: skip
    return markdown(header, rows)


def stage_table(flops: float, rate: float) -> str:
    """What the stages of one seed take on one GPU."""
    rows = []
    for stage in in_order(table3()):
        hours = stage_flops(stage, flops) / rate / 3600
        if hours:
            rows.append([stage.label, f"{stage_flops(stage, flops) / 1e15:,.0f}", f"{hours:.1f}"])
    return markdown(["stage", "PFLOP", "hours"], rows)


def parallel_table(
    flops: float, parameters: int, cluster: Cluster, device_batch: int | None = None
) -> str:
    """Data parallelism: a fixed batch of 128 in all, or ``device_batch`` images a GPU."""
    rows = []
    for devices in (1, 8, 16, 64, 128, 512):
        images = BATCH if device_batch is None else device_batch * devices
        if images < devices:
            rows.append([str(devices), str(images), "less than an image a GPU", *[""] * 4])
            continue
        reduce = all_reduce_seconds(parameters, cluster, devices) if devices > 1 else 0.0
        row = [str(devices), f"{images:,}", f"{1e3 * reduce:.1f}"]
        for steps in (0, PGD10):
            computing = compute_seconds(flops, steps, images, cluster, devices)
            share = efficiency(computing, reduce)
            one = compute_seconds(flops, steps, images, cluster, 1)
            speed = one / (computing + reduce)
            row += [f"{1e3 * computing:,.1f}", f"{share:.0%} ({speed:,.0f} x)"]
        rows.append(row)
    header = [
        "GPUs", "batch", "all-reduce, ms", "natural step, ms", "efficiency (speed-up)",
        "PGD-10 step, ms", "efficiency (speed-up)",
    ]  # fmt: skip
    return markdown(header, rows)


def imagenet_table(cluster: Cluster, device_batch: int = 64) -> str:
    """Hours of 100 epochs of ResNet-50 on ImageNet."""
    parameters, flops = RESNET50
    rows = []
    for devices in (1, 8, 64, 512):
        images = device_batch * devices
        reduce = all_reduce_seconds(parameters, cluster, devices) if devices > 1 else 0.0
        row = [str(devices), f"{images:,}"]
        for steps in (0, PGD10):
            computing = compute_seconds(flops, steps, images, cluster, devices)
            hours = 100 * IMAGENET[0] / images * (computing + reduce) / 3600
            rate = device_batch * min(devices, cluster.per_host) / (computing + reduce)
            row += [f"{hours:,.1f}", f"{efficiency(computing, reduce):.0%}", f"{rate:,.0f}"]
        rows.append(row)
    header = ["GPUs", "batch"]
    for objective in ("natural", "PGD-10"):
        header += [f"{objective}, hours", "efficiency", "images/s a host"]
    return markdown(header, rows)


def tables() -> dict[str, str]:
    """Every table, by its title."""
    made = networks()
    wide = next(each for each in made if each.name == "WideResNet-34-10")
    v100 = Cluster(paper_rate(wide.flops)["dense"] / PAPER_GPUS, local=150e9)
    parallel = wide.flops, wide.parameters, FP32
    return {
        "networks": network_table(made),
        "calibration": calibration_table(wide.flops),
        "stages of Table 3, hours on a V100": stage_table(wide.flops, v100.flops),
        "Table 3, hours on V100s": hours_table(wide, v100),
        "data parallel, batch 128 in all": parallel_table(*parallel),
        "data parallel, 128 images a GPU": parallel_table(*parallel, BATCH),
        "ImageNet, float32": imagenet_table(FP32),
        "ImageNet, bfloat16": imagenet_table(BF16),
    }


def main() -> None:
    for title, table in tables().items():
        print(f"{title}\n\n{table}\n")


if __name__ == "__main__":
    main()
