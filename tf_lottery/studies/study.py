"""A study as stages: its arms in every replicate, and what they gave."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from msgspec import convert, structs

import tf_lottery
from tf_lottery.data import ImageData
from tf_lottery.engine.stage import Stage, in_order
from tf_lottery.engine.store import Store
from tf_lottery.lottery import totals
from tf_lottery.lottery.costs import training_cost
from tf_lottery.lottery.graph import Entry, make_entry
from tf_lottery.lottery.work import Workshop, validated_as_asked
from tf_lottery.machine import machine
from tf_lottery.options.build import evaluation_attack
from tf_lottery.options.settings import LotteryConfig, settings
from tf_lottery.report import results, values
from tf_lottery.report.asked import About, Claim, Figure, Pair, Sweep
from tf_lottery.report.measures import parse
from tf_lottery.report.overlay import with_curves
from tf_lottery.report.results import Reference, Results, Row, Transfer
from tf_lottery.statistics import discordant
from tf_lottery.studies.definition import Arm
from tf_lottery.studies.design import Design
from tf_lottery.tickets import Ticket
from tf_lottery.training.callbacks import averaged, best_epoch, best_weights

_TRANSFER_ATTACK = "pgd20"


@dataclass(frozen=True)
class Cell:
    """One arm in one replicate."""

    config: LotteryConfig
    entry: Entry


class Study:
    """A design and the stages that it takes.

    Args:
      design: arms, configurations and seeds.
      ticket: takes the place of the boosting ticket's search.
    """

    def __init__(self, design: Design, ticket: Ticket | None = None):
        self.design = design
        self.ticket = ticket
        self.experiment = design.experiment
        self.seeds = design.seeds

    @cached_property
    def cells(self) -> dict[tuple[str, int], Cell]:
        """(arm, seed) -> what is trained there."""
        made = {}
        for seed in self.seeds:
            for arm in self.design.arms:
                config = dataclasses.replace(self.design.configs[arm.name], seed=seed)
                name = f"{arm.name} (seed {seed})"
                if seed == self.seeds[0]:  # called as if there were no others, which may come
                    name = arm.name if self.experiment.source else ""
                made[arm.name, seed] = Cell(config, make_entry(config, arm.kind, self.ticket, name))
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
        return [
            *(stage for cell in self.cells.values() for stage in self._stages(cell)),
            *self.transfers,
        ]

    def _stages(self, cell: Cell) -> list[Stage]:
        return cell.entry.stages if self.experiment.keeps else [*cell.entry.evaluations.values()]

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
        each = {
            workshop.spec(config): self._counted(config, workshop)
            for config in self.design.configs.values()
        }
        return len(self.seeds) * sum(each.values())

    def _counted(self, config: LotteryConfig, workshop: Workshop) -> int:
        """FLOPs of the dense training of a configuration, as planned."""
        images = len(workshop.data(config).train_labels)
        return training_cost(config.train, images, workshop.forward_flops(config)).flops

    def check(self, workshop: Workshop) -> None:
        """Loads the data and tells early what would fail late; raises as ``Resources.check``."""
        for config in self.design.configs.values():
            workshop.check(config, self.ticket)
        for stage in self.trainings:
            workshop.distribution.check(stage.runtime["train"])

    def document(
        self,
        workshop: Workshop,
        cached: Mapping[str, bool],
        command: Sequence[str] = (),
        reference: Reference | None = None,
    ) -> Results:
        """What the finished stages say.

        Args:
          workshop: reads the stages.
          cached: stage key -> whether it was found finished.
          command: arguments, recorded.
          reference: published curves, see ``report.reference``.
        """
        first = self.design.configs[self.design.arms[0].name]
        validated = first.ticket_train.validation_images
        document = Results(
            **self._declared(reference),
            command=list(command),
            machine=convert(machine(), results.Machine),
            data=_images(workshop.data(first), validated),
            rows=[
                self._row(arm, seed, workshop) for arm in self.design.arms for seed in self.seeds
            ],
            transfer=self._transferred(workshop),
            searches=self._searches(workshop),
            ledger=self._ledger(workshop, cached),
        )
        read: dict[str, tuple[dict[str, np.ndarray], np.ndarray]] = {}
        claims = [self._paired(claim, document, workshop.store, read) for claim in document.claims]
        return structs.replace(document, claims=claims)

    def is_told_by(self, document: Results, reference: Reference | None = None) -> bool:
        """True if ``document`` would come out the same again, all of its stages being finished.

        Its results are those of the stages that its ledger names, and a name stands for all
        that determines a result; what else is in it is compared.
        """
        ours = self._declared(reference)
        theirs = {key: getattr(document, key) for key in ours}
        theirs["claims"] = [structs.replace(claim, pairs=()) for claim in theirs["claims"]]
        published = document.transfer.published if document.transfer else None
        wanted = {stage.name for stage in in_order(self.targets)}
        named = {entry.stage for entry in document.ledger}
        told = self._transfer_published() if self.transfers else None
        return named == wanted and theirs == ours and published == told

    def _declared(self, reference: Reference | None) -> dict[str, Any]:
        """What the document says of the study whatever its stages gave."""
        attacks = {a.name: a for config in self.design.configs.values() for a in config.attacks}
        chosen = self.experiment
        figures = [_figure(figure, self.design.arms) for figure in chosen.figures]
        sweep = Sweep(chosen.sweep_label, chosen.log_sweep) if chosen.sweep_label else None
        return {
            "format": results.FORMAT,
            "package_version": tf_lottery.__version__,
            "study": About(
                chosen.id, chosen.source, chosen.title, chosen.question, chosen.paper, sweep,
                self.design.scale,
            ),
            "settings": json.loads(json.dumps(self.design.settings)),
            "seeds": self.seeds,
            "attacks": list(attacks.values()),
            "baseline": chosen.baseline,
            "arms": with_curves([self._arm(arm) for arm in self.design.arms], figures, reference),
            "claims": list(self.design.claims),
            "figures": figures,
            "reference": reference,
        }  # fmt: skip

    def _arm(self, arm: Arm) -> results.Arm:
        config = self.design.configs[arm.name]
        return results.Arm(
            name=arm.name,
            kind=arm.kind,
            series=arm.series or arm.name,
            x=arm.x,
            model=config.model.label,
            sparsity=config.prune.sparsity if self._is_sparse(arm) else 0.0,
            reference=arm.reference,
            published=dict(arm.published),
            baseline=arm.baseline,
        )

    def _is_sparse(self, arm: Arm) -> bool:
        return self.cells[arm.name, self.seeds[0]].entry.ticket is not None

    def _row(self, arm: Arm, seed: int, workshop: Workshop) -> Row:
        cell = self.cells[arm.name, seed]
        entry, config = cell.entry, cell.config
        history = workshop.history(entry.train)
        own = totals.costs(entry, workshop)
        pays, name = None, self.baseline(arm)
        left = workshop.forward_flops(config, entry.train) / workshop.forward_flops(config)
        if name is None:
            ratios = totals.against_counted(own, self._counted(config, workshop))
        else:
            dense = self.cells[name, seed].entry
            baseline = totals.costs(dense, workshop)
            theirs = workshop.history(dense.train)
            ratios = totals.against_baseline(own, history, baseline, theirs)
            if entry.ticket is not None:
                pays = totals.break_even(own, history, baseline, theirs)
        found = totals.accuracies(entry, config, workshop.store)
        row = {
            "name": arm.name,
            "kind": arm.kind,
            "model": config.model.label,
            "dataset": config.data.name,
            "seed": seed,
            "density": totals.density(entry, workshop),
            "test_examples": len(workshop.data(config).test_labels),
            "tests": found,
            "epochs": len(history),
            "best_epoch": best_epoch(history),
            "weights": best_weights(history) if averaged(history) else "",
            "stopped": len(history) < entry.train.runtime["train"].epochs,
            "curve": history,
            "layers": workshop.ticket(entry.last_ticket).layers if entry.last_ticket else [],
            "flops_left": left,
            **own.columns("seconds", "flops", "passes"),
            "search_source": own.source,
            "total_over_dense": ratios.get("seconds"),
            "total_flops_over_dense": ratios.get("flops"),
            "epochs_to_dense": ratios.get("epochs_to_dense"),
            "seconds_to_dense_over_dense": ratios.get("seconds_to_dense"),
            "flops_to_dense_over_dense": ratios.get("flops_to_dense"),
            "break_even": pays,
        }
        return convert(row, Row)

    def _paired(self, claim: Claim, document: Results, store: Store, read: dict) -> Claim:
        """The claim with both networks compared image by image, if it is about test images.

        ``read``: what evaluations gave, by key, for the claims to come.
        """
        if claim.theirs is None:
            return claim
        arms = (claim.ours, claim.theirs)
        measure = values.resolve(document, parse(claim.measure), arms)
        if not measure.quantity.startswith("test_"):
            return claim
        name, pairs = measure.quantity.removeprefix("test_"), []
        for seed in self.seeds:
            sides, indices = [], []
            for arm in arms:
                cell = self.cells[arm, seed]
                stage = cell.entry.evaluations[str(measure.at)]
                if stage.key not in read:
                    read[stage.key] = totals.right(stage, cell.config, store)
                found, index = read[stage.key]
                sides.append(found.get(name))
                indices.append(index)
            if sides[0] is None or sides[1] is None or not np.array_equal(indices[0], indices[1]):
                return claim
            pairs.append(Pair(seed, len(indices[0]), *discordant(sides[0], sides[1])))
        return structs.replace(claim, pairs=tuple(pairs))

    def _searches(self, workshop: Workshop) -> dict[str, list[results.Record]]:
        """Curves of the searches, of the first seed; not of those that were validated in another
        way, by a run that shares them."""
        if not self.experiment.keeps:
            return {}
        entries = [self.cells[arm.name, self.seeds[0]].entry for arm in self.design.arms]
        searches: dict[str, Stage] = {}
        for entry in entries:
            for stage in entry.searches:  # which the first of several arms gives its name
                searches.setdefault(stage.key, stage)
        return {
            stage.label: convert(workshop.history(stage), list[results.Record])
            for stage in searches.values()
            if validated_as_asked(workshop, stage)
        }

    def _transferred(self, workshop: Workshop) -> Transfer | None:
        if not self.transfers:
            return None
        found = [
            json.loads(workshop.store.file(stage, "transfer.json").read_bytes())
            for stage in self.transfers
        ]
        return Transfer(
            _TRANSFER_ATTACK,
            found[0]["examples"],
            found[0]["models"],
            [each["accuracy"] for each in found],
            self._transfer_published(),
        )

    def _transfer_published(self) -> list[list[float | None]] | None:
        """From the row's arm to the column's; ``None`` if the paper has none of them."""
        arms = [arm.name for arm in self.design.arms]
        of_paper = self.experiment.transfer_published
        found = of_paper(self.design.base) if of_paper else {}
        if not found:
            return None
        return [[found.get((source, target)) for target in arms] for source in arms]

    def _ledger(self, workshop: Workshop, cached: Mapping[str, bool]) -> list[results.LedgerEntry]:
        stages: dict[str, Stage] = {}
        users: dict[str, list[str]] = {}
        seeds: dict[str, int] = {}
        for (arm, seed), cell in self.cells.items():
            for stage in in_order(self._stages(cell)):
                stages.setdefault(stage.key, stage)
                users.setdefault(stage.key, []).append(arm)
                seeds.setdefault(stage.key, seed)
        for seed, stage in zip(self.seeds, self.transfers, strict=False):
            stages[stage.key], seeds[stage.key] = stage, seed
            users[stage.key] = [arm.name for arm in self.design.arms]
        entries = [
            totals.ledger_entry(stage, workshop, users[key], seeds[key], cached.get(key, True))
            for key, stage in stages.items()
        ]
        return convert(entries, list[results.LedgerEntry])


def _images(data: ImageData, validation_images: int) -> results.Data:
    """``validation_images``: used after each epoch; 0: all of them."""
    validation = len(data.validation_labels)
    return results.Data(
        name=data.name,
        train=len(data.train_labels),
        validation=validation,
        validation_used=validation_images or validation,
        test=len(data.test_labels),
        digest=data.digest,
        classes=list(data.class_names),
    )


def _figure(figure: Figure, arms: Sequence[Arm]) -> Figure:
    """A declared figure, whose arms may be told by their series."""
    if figure.arms is None:
        return figure
    series = figure.arms
    drawn = tuple(arm.name for arm in arms if (arm.series or arm.name) in series)
    return structs.replace(figure, arms=drawn)
