"""Writes docs/performance.md and docs/scaling.md from their texts and docs/results/performance.

    python docs/make_performance.py [--check]

``<!-- table: NAME -->`` in a text stands for a table: of this file, or one of
benchmarks/scaling_model.py by its title. ``--check`` writes nothing and fails if a page is out
of date.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
RESULTS = DOCS / "results"
PAGES = ("performance", "scaling")  # <name>_text.md becomes <name>.md
CASES = {
    "natural": "natural step",
    "fgsm": "FGSM step",
    "pgd10": "PGD-10 step",
    "pgd20_evaluation": "PGD-20 evaluation",
}
MACHINES = (
    "training_step", "training_step_masked", "training_step_bfloat16", "overheads", "masks",
    "operations",
)  # fmt: skip
PEERS = ("torch_best", "torch_published", "keras_cleverhans")
TIMED = [
    "network", "what", "masked", "seconds", "over PyTorch at its best",
    "over PyTorch as published", "over Keras with cleverhans", "share of the matrix-product peak",
]  # fmt: skip


def read(name: str) -> dict:
    """A document of benchmarks/."""
    return json.loads((RESULTS / "performance" / f"{name}.json").read_text())


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def machine() -> str:
    """One sentence."""
    documents = [read(name)["machine"] for name in MACHINES]
    (cpu,) = {d["cpu"] for d in documents}
    (cores,) = {d["cores"] for d in documents}
    versions = read("training_step")["versions"]
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"Machine: {cores} cores of an {cpu.strip()}; {told}."


def by_case(*names: str) -> dict[tuple, dict[str, dict]]:
    """(model, sparsity, case) -> peer -> row, of documents of training_step.py."""
    groups: dict = {}
    for row in (row for name in names for row in read(name)["rows"]):
        groups.setdefault((row["model"], row["sparsity"], row["case"]), {})[row["peer"]] = row
    return groups


def timed(key: tuple, peers: dict[str, dict]) -> list[str]:
    """Cells under ``TIMED``."""
    model, sparsity, case = key
    one = next(iter(peers.values()))
    return [
        model,
        CASES[case],
        f"{sparsity:.0%}",
        f"{one['ours_seconds']:.2f}",
        *(f"{peers[name]['ratio']:.2f}" if name in peers else "" for name in PEERS),
        f"{one['gemm_fraction']:.2f}",
    ]


def steps() -> str:
    """A row a model, case and sparsity, with the ratio to each peer."""
    rows = [
        [
            *timed(key, peers),
            _mb(next(iter(peers.values()))["ours_peak_mb"]),
            *(_mb(peers[name]["peer_peak_mb"]) if name in peers else "" for name in PEERS[:2]),
        ]
        for key, peers in by_case("training_step", "training_step_masked").items()
    ]
    return table([*TIMED, "MiB", "MiB, PyTorch at its best", "MiB, as published"], rows)


def elsewhere() -> str:
    """The same of another processor, without memory."""
    found = by_case("amd_epyc/training_step", "amd_epyc/training_step_masked")
    return table(TIMED, [timed(key, peers) for key, peers in found.items()])


def half(folder: str = "") -> str:
    """Steps in bfloat16: ours, over float32 and over the peers."""
    whole = by_case(f"{folder}training_step")
    rows = []
    for key, peers in by_case(f"{folder}training_step_bfloat16").items():
        model, _, case = key
        one = peers[PEERS[0]]
        rows.append(
            [
                model,
                CASES[case],
                f"{one['ours_seconds']:.2f}",
                f"{one['ours_seconds'] / whole[key][PEERS[0]]['ours_seconds']:.2f}",
                *(f"{peers[name]['ratio']:.2f}" for name in PEERS),
                f"{one['gemm_fraction']:.2f}",
                _mb(one["ours_peak_mb"]),
                _mb(one["peer_peak_mb"]),
            ]
        )
    return table(
        [
            "network", "what", "seconds", "over float32", "over PyTorch at its best, bfloat16",
            "over PyTorch as published, float32", "over Keras with cleverhans, bfloat16",
            "share of bfloat16's matrix-product peak", "MiB", "MiB, PyTorch at its best",
        ],
        rows,
    )  # fmt: skip


def half_elsewhere() -> str:
    """The same of another processor."""
    return half("amd_epyc/")


def start_up() -> str:
    """Seconds until a side's libraries are there, and until its first PGD-10 step has compiled."""
    document = read("training_step")
    compiled: dict = {}
    for row in document["rows"]:
        if row["case"] == "pgd10" and not row["sparsity"]:
            compiled.setdefault("ours", {})[row["model"]] = row["ours_compile_seconds"]
            compiled.setdefault(row["peer"], {})[row["model"]] = row["peer_compile_seconds"]
    models = list(compiled["ours"])
    rows = [
        [side, f"{document['start_up_seconds'][side]:.1f}"]
        + [f"{compiled[side][model]:.1f}" for model in models]
        for side in compiled
    ]
    return table(["side", "imports", *(f"first PGD-10 step, {m}" for m in models)], rows)


def masks() -> str:
    """Ratios of masked steps."""
    rows = [
        [row["model"], CASES[row["case"]], f"{row['sparsity']:.0%}", _ratio(row)]
        for row in read("masks")["rows"]
    ]
    return table(["network", "what", "masked", "over the dense step"], rows)


def pipeline() -> str:
    """Fed steps over unfed ones."""
    rows = [
        [
            row["model"],
            f"{row['seconds']:.3f}",
            f"{1000 * row['pipeline_alone_seconds']:.1f}",
            _ratio(row),
        ]
        for row in read("overheads")["rows"]
        if row["what"] == "input pipeline"
    ]
    head = ["network", "natural step, s", "pipeline alone, ms a batch", "fed over unfed step"]
    return table(head, rows)


def folding() -> str:
    """The frozen network over the plain one."""
    rows = [
        [row["model"], f"{row['seconds']:.2f}", _ratio(row)]
        for row in read("overheads")["rows"]
        if row["what"] == "folding"
    ]
    return table(["network", "attack of a PGD-10 step, s", "over the network as it is"], rows)


def attack_steps() -> str:
    """The fitted lines."""
    rows = [
        [
            row["model"],
            f"{row['seconds_a_step']:.3f}",
            f"{row['step_over_natural']:.2f}",
            f"{row['largest_deviation']:.1%}",
        ]
        for row in read("overheads")["rows"]
        if row["what"] == "attack steps"
    ]
    head = ["network", "s a step of the attack", "over a natural step", "largest deviation"]
    return table(head, rows)


def operations() -> str:
    """Shares of the time by kind of operation."""
    found = read("operations")["rows"]
    words = list(found[0]["share"])
    rows = [[name, *(f"{row['share'][name]:.1%}" for row in found)] for name in words]
    return table(["share of", *(f"{r['model']}, {CASES[r['case']]}" for r in found)], rows)


def quickstart() -> str:
    """Seconds of the trainings of the first command, of its first seed."""
    document = json.loads((RESULTS / "quickstart" / "results.json").read_text())
    first = document["seeds"][0]
    epochs = {row["name"]: row["epochs"] for row in document["rows"] if row["seed"] == first}
    rows = [
        [
            entry["label"],
            str(epochs[entry["models"][0]]),
            f"{entry['seconds'] / epochs[entry['models'][0]]:.2f}",
            f"{entry['validation_seconds'] / epochs[entry['models'][0]]:.2f}",
            f"{entry['startup_seconds']:.1f}",
        ]
        for entry in document["ledger"]
        if entry["kind"] == "train" and entry["seed"] == first
    ]
    head = ["stage", "epochs", "s an epoch", "validation, s an epoch", "start-up, s"]
    return table(head, rows)


def _mb(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _ratio(row: dict) -> str:
    return f"{row['ratio']:.3f} \\[{row['lower_quartile']:.3f}, {row['upper_quartile']:.3f}\\]"


TABLES = {
    maker.__name__: maker
    for maker in (
        machine, steps, elsewhere, half, half_elsewhere, start_up, masks, pipeline, folding,
        attack_steps, operations, quickstart,
    )
}  # fmt: skip


def memory() -> str:
    """Measured and computed memory of a training step."""
    rows = [
        [
            row["model"],
            row["objective"],
            f"{row['image_bytes'] / 1e6:.2f}",
            f"{row['image_bytes_computed'] / 1e6:.2f}",
            f"{row['fixed_bytes'] / 1e6:,.0f}",
            f"{row['fixed_bytes_computed'] / 1e6:,.0f}",
            f"{row['step_ratio']:.2f} (batch {row['step_batch_size']})",
        ]
        for row in read("memory")["rows"]
    ]
    head = [
        "network", "objective", "MB an image", "by the formula", "MB besides", "by the formula",
        "a step, over the formula",
    ]  # fmt: skip
    return table(head, rows)


def store() -> str:
    """Seconds of what a large store is asked for."""
    document = read("store")
    rows = [
        [
            row["what"],
            f"{row['seconds']:.2f}",
            f"{row['processor_seconds']:.2f}",
            ", ".join(f"{count:,} {name}" for name, count in row.get("calls", {}).items()),
        ]
        for row in document["rows"]
    ]
    head = [f"{document['stages']:,} stages", "seconds", "processor", "calls of the file system"]
    return table(head, rows)


def from_model(title: str) -> str:
    """A table of benchmarks/scaling_model.py."""
    return _scaling_model().tables()[title]


@functools.cache
def _scaling_model():
    path = DOCS.parent / "benchmarks" / "scaling_model.py"
    spec = importlib.util.spec_from_file_location("scaling_model", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


TABLES |= {"memory": memory, "store": store}


def page(name: str) -> str:
    """The whole text of a page."""

    def made(match: re.Match) -> str:
        title = match[1]
        return TABLES[title]() if title in TABLES else from_model(title)

    return re.sub(r"<!-- table: (.+?) -->", made, (DOCS / f"{name}_text.md").read_text())


def main(arguments: list[str]) -> int:
    """Writes the pages, or checks them; returns the exit code."""
    code = 0
    for name in PAGES:
        text, path = page(name), DOCS / f"{name}.md"
        if "--check" not in arguments:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            print(f"{path} is out of date: python docs/make_performance.py", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
