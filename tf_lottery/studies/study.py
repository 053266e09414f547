"""An experiment of the paper as stages: its arms in every replicate, and what they gave."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import tf_lottery
from tf_lottery import machine
from tf_lottery.engine.stage import Stage, in_order
from tf_lottery.lottery import totals
from tf_lottery.lottery.costs import training_cost
from tf_lottery.lottery.graph import Entry, make_entry
from tf_lottery.lottery.work import Workshop
from tf_lottery.options.build import evaluation_attack
from tf_lottery.options.settings import LotteryConfig, settings
from tf_lottery.report.experiment import lay_over
from tf_lottery.studies.definition import Arm, FigureSpec
from tf_lottery.studies.design import Design
from tf_lottery.studies.images import described
from tf_lottery.training.callbacks import best_epoch

_TRANSFER_ATTACK = "pgd20"


@dataclass(frozen=True)
class Cell:
    """One arm in one replicate."""

    config: LotteryConfig
    entry: Entry


class Study:
    """A design and the stages that it takes.

    Attributes:
      design: arms, configurations and seeds.
    """

    def __init__(self, design: Design):
        self.design = design
        self.experiment = design.experiment
        self.seeds = design.seeds

    @cached_property
    def cells(self) -> dict[tuple[str, int], Cell]:
        """(arm, seed) -> what is trained there."""
        made = {}
        for seed in self.seeds:
            for arm in self.design.arms:
                config = dataclasses.replace(self.design.configs[arm.name], seed=seed)
                name = arm.name if len(self.seeds) == 1 else f"{arm.name} (seed {seed})"
                made[arm.name, seed] = Cell(config, make_entry(config, arm.kind, name=name))
        return made

    @cached_property
    def transfers(self) -> list[Stage]:
        """One stage a seed, of all arms; none if the experiment has no transfer."""
        return [self._transfer(seed) for seed in self.seeds] if self.experiment.transfer else []

    def _transfer(self, seed: int) -> Stage:
        cells = {arm.name: self.cells[arm.name, seed] for arm in self.design.arms}
        config = next(iter(cells.values())).config
        attack = evaluation_attack(_TRANSFER_ATTACK, self.design.options)
        chosen = {
            "attack": settings(attack),
            "weights": "best",
            "dataset": config.data.name,
            "test_examples": config.data.test_examples,
            "seed": seed,
        }
        label = "transfer" if len(self.seeds) == 1 else f"transfer (seed {seed})"
        parents = {name: cell.entry.train for name, cell in cells.items()}
        return Stage("transfer", label, chosen, parents, {"config": config, "attack": attack})

    @property
    def targets(self) -> list[Stage]:
        """The stages nothing else depends on."""
        evaluations = [s for cell in self.cells.values() for s in cell.entry.evaluations.values()]
        return [*evaluations, *self.transfers]

    @property
    def trainings(self) -> list[Stage]:
        """Every training stage, searches included."""
        return [stage for stage in in_order(self.targets) if stage.kind == "train"]

    @property
    def baselines(self) -> list[Stage]:
        """The dense trainings that costs are compared with, in every seed; may be none."""
        names = dict.fromkeys(filter(None, map(self.baseline, self.design.arms)))
        return [self.cells[name, seed].entry.train for seed in self.seeds for name in names]

    def baseline(self, arm: Arm) -> str | None:
        """Name of the arm that the costs of ``arm`` are compared with."""
        return arm.baseline or self.experiment.baseline

    def counted_flops(self, workshop: Workshop) -> int:
        """FLOPs of a dense training of every network in every seed, which are not run."""
        each = {}
        for config in self.design.configs.values():
            images, flops = len(workshop.data(config).train_labels), workshop.forward_flops(config)
            each[workshop.spec(config)] = training_cost(config.train, images, flops).flops
        return len(self.seeds) * sum(each.values())

    def document(
        self,
        workshop: Workshop,
        cached: Mapping[str, bool],
        command: Sequence[str] = (),
        reference: dict | None = None,
    ) -> dict:
        """What the finished stages say; see ``report.experiment``.

        Args:
          workshop: reads the stages.
          cached: stage key -> whether it was found finished.
          command: arguments, recorded.
          reference: published curves, see ``report.reference``.
        """
        first = self.design.configs[self.design.arms[0].name]
        validated = first.ticket_train.validation_images
        arms = []
        for arm in self.design.arms:
            runs = [self._run(arm, seed, workshop) for seed in self.seeds]
            arms.append({**self._arm(arm), "runs": runs})
        document = {
            **self._declared(),
            "command": list(command),
            "machine": machine.machine(),
            "data": described(workshop.data(first), validated),
            "arms": arms,
            "transfer": self._transferred(workshop),
            "ledger": self._ledger(workshop, cached),
        }
        return lay_over(document, reference)

    def is_told_by(self, document: Mapping, reference: dict | None = None) -> bool:
        """True if ``document`` would come out the same again, all of its stages being finished.

        Its results are those of the stages that its ledger names, and a name stands for all
        that determines a result; what else is in it is compared.
        """
        arms = [self._arm(arm) for arm in self.design.arms]
        ours = lay_over({**self._declared(), "arms": arms}, reference)
        ours["transfer"] = {"published": self._transfer_published()} if self.transfers else None
        theirs = {key: document[key] for key in ours}
        theirs["arms"] = [{k: v for k, v in arm.items() if k != "runs"} for arm in theirs["arms"]]
        if theirs["transfer"]:
            theirs["transfer"] = {"published": theirs["transfer"]["published"]}
        wanted = {stage.name for stage in in_order(self.targets)}
        named = {row["stage"] for row in document["ledger"]}
        return named == wanted and theirs == json.loads(json.dumps(ours))

    def _declared(self) -> dict:
        """What the document says of the experiment whatever its stages gave."""
        attacks = {a.name: a for config in self.design.configs.values() for a in config.attacks}
        return {
            "format": 1,
            "package_version": tf_lottery.__version__,
            "settings": self.design.settings,
            "experiment": {
                "id": self.experiment.id,
                "source": self.experiment.source,
                "title": self.experiment.title,
                "question": self.experiment.question,
                "paper": self.experiment.paper,
                "sweep": {"label": self.experiment.sweep_label, "log": self.experiment.log_sweep}
                if self.experiment.sweep_label
                else None,
            },
            "scale": self.design.scale,
            "seeds": self.seeds,
            "attacks": [settings(attack) for attack in attacks.values()],
            "baseline": self.experiment.baseline,
            "claims": [dataclasses.asdict(claim) for claim in self.design.claims],
            "figures": [_figure(spec, self.design.arms) for spec in self.experiment.figures],
            "reference": None,
        }

    def _arm(self, arm: Arm) -> dict:
        """An arm without its runs."""
        config = self.design.configs[arm.name]
        found = {
            "name": arm.name,
            "kind": arm.kind,
            "series": arm.series or arm.name,
            "x": arm.x,
            "model": config.model.label,
            "sparsity": 0.0 if arm.kind == "dense" else config.prune.sparsity,
            "reference": arm.reference,
            "published": dict(arm.published),
        }
        return found if arm.baseline is None else {**found, "baseline": arm.baseline}

    def _run(self, arm: Arm, seed: int, workshop: Workshop) -> dict:
        cell = self.cells[arm.name, seed]
        history = workshop.history(cell.entry.train)
        own = totals.costs(cell.entry, workshop)
        pays, name = None, self.baseline(arm)
        if name is None:
            ratios = totals.against_counted(own, len(history), cell.config.train.epochs)
        else:
            dense = self.cells[name, seed].entry
            baseline = totals.costs(dense, workshop)
            theirs = workshop.history(dense.train)
            ratios = totals.against_baseline(own, history, baseline, theirs)
            if cell.entry.ticket is not None:
                pays = totals.break_even(own, history, baseline, theirs)
        return {
            "seed": seed,
            "density": totals.density(cell.entry, workshop),
            "epochs": len(history),
            "best_epoch": best_epoch(history),
            "stopped": len(history) < cell.entry.train.runtime["train"].epochs,
            "curve": [{"distance": None, **row} for row in history],
            "test": totals.accuracies(cell.entry, cell.config, workshop.store),
            **own.columns("seconds", "flops", "passes"),
            "total_seconds_over_dense": ratios.get("seconds"),
            "total_flops_over_dense": ratios.get("flops"),
            "epochs_to_dense": ratios.get("epochs_to_dense"),
            "seconds_to_dense_over_dense": ratios.get("seconds_to_dense"),
            "flops_to_dense_over_dense": ratios.get("flops_to_dense"),
            "break_even": pays,
        }

    def _transferred(self, workshop: Workshop) -> dict | None:
        if not self.transfers:
            return None
        found = [
            json.loads(workshop.store.file(stage, "transfer.json").read_text())
            for stage in self.transfers
        ]
        return {
            "attack": _TRANSFER_ATTACK,
            "examples": found[0]["examples"],
            "arms": found[0]["models"],
            "matrices": [each["accuracy"] for each in found],
            "published": self._transfer_published(),
        }

    def _transfer_published(self) -> list[list[float | None]] | None:
        """From the row's arm to the column's; ``None`` if the paper has none of them."""
        arms = [arm.name for arm in self.design.arms]
        of_paper = self.experiment.transfer_published
        found = of_paper(self.design.base) if of_paper else {}
        if not found:
            return None
        return [[found.get((source, target)) for target in arms] for source in arms]

    def _ledger(self, workshop: Workshop, cached: Mapping[str, bool]) -> list[dict]:
        stages: dict[str, Stage] = {}
        users: dict[str, list[str]] = {}
        seeds: dict[str, int] = {}
        for (arm, seed), cell in self.cells.items():
            for stage in in_order(cell.entry.evaluations.values()):
                stages.setdefault(stage.key, stage)
                users.setdefault(stage.key, []).append(arm)
                seeds.setdefault(stage.key, seed)
        for seed, stage in zip(self.seeds, self.transfers, strict=False):
            stages[stage.key], seeds[stage.key] = stage, seed
            users[stage.key] = [arm.name for arm in self.design.arms]
        return [
            totals.ledger_entry(stage, workshop, users[key], cached.get(key, True))
            | {"seed": seeds[key]}
            for key, stage in stages.items()
        ]


def _figure(spec: FigureSpec, arms: Sequence[Arm]) -> dict:
    chosen = dataclasses.asdict(spec)
    chosen["measures"] = list(spec.measures)
    series = chosen.pop("series")
    drawn = [arm.name for arm in arms if series is None or (arm.series or arm.name) in series]
    chosen["arms"] = None if series is None else drawn
    return chosen
