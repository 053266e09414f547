"""What stages share while they are carried out: data, networks, compiled attacks."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tf_lottery.attacks import make_attack
from tf_lottery.channels import check_channels, planned_widths
from tf_lottery.cutting import trained_spec
from tf_lottery.data import ImageData, even_batch_size, load, steps_per_epoch
from tf_lottery.engine.stage import Stage
from tf_lottery.engine.store import Store
from tf_lottery.errors import StoreError, TicketError, UsageError
from tf_lottery.evaluation import Evaluator
from tf_lottery.keras import deterministic, keras, pinned, refuse_scopes
from tf_lottery.models import Footprint, allow, footprint, forward_flops
from tf_lottery.models.spec import NetworkSpec
from tf_lottery.options.registries import MODELS, SCORES
from tf_lottery.options.settings import LotteryConfig
from tf_lottery.tickets import Ticket, read_document
from tf_lottery.training.distribution import Distribution
from tf_lottery.training.model import batch_norm_scales
from tf_lottery.weights import named_variables

_KEPT = 4  # of each kind of thing, for arms of a sweep that differ in network or data
_Made = TypeVar("_Made")


class Resources:
    """What stages share while they are carried out, and what finished ones left.

    Data sets, networks and compiled attacks are kept from stage to stage, the last few.

    Args:
      store: where results of parents are read.
      log_root: TensorBoard logs go to ``<log_root>/<label>``; ``None`` writes none.
      progress: show bars.
      distribution: devices that trainings share; by default one.
    """

    def __init__(
        self,
        store: Store,
        log_root: Path | None = None,
        progress: bool = False,
        distribution: Distribution | None = None,
    ):
        self.store = store
        self.log_root = log_root
        self.progress = progress
        self.distribution = distribution or Distribution()
        self._made: dict[str, OrderedDict[Hashable, Any]] = {}
        # Of every network: a sweep's arms come round again with each replicate, and to build
        # a network takes a second, its numbers a few bytes.
        self._flops: dict[NetworkSpec, int] = {}
        self._specs: dict[str, NetworkSpec] = {}  # by the key of the stage that found a ticket
        self._footprints: dict[tuple[NetworkSpec, str], Footprint] = {}
        self._ledgers: dict[str, dict] = {}  # by key; of finished stages, so they stay

    def _kept(self, what: str, key: Hashable, make: Callable[[], _Made]) -> _Made:
        made = self._made.setdefault(what, OrderedDict())
        if key not in made:
            made[key] = make()
            if len(made) > _KEPT:
                made.popitem(last=False)
        made.move_to_end(key)
        return made[key]

    def data(self, config: LotteryConfig) -> ImageData:
        """The images."""
        return self._kept("data", config.data, lambda: load(config.data))

    def spec(self, config: LotteryConfig, training: Stage | None = None) -> NetworkSpec:
        """A network of a configuration, which is the user's own word for it.

        Args:
          config: of the run.
          training: the stage whose network is meant, cut down if its ticket is one of channels;
            while that is still to be found, as it may be expected. ``None``: the whole network.
        """
        allow(config.model.name)
        data = self.data(config)
        normalize = config.model.normalize
        whole = NetworkSpec(
            config.model,
            data.input_shape,
            data.num_classes,
            data.mean if normalize else None,
            data.std if normalize else None,
        )
        found = training.parents.get("ticket") if training else None
        return self._cut(config, whole, found) if found else whole

    def _cut(self, config: LotteryConfig, whole: NetworkSpec, found: Stage) -> NetworkSpec:
        """The network as trained from the ticket that a stage finds."""
        if found.key in self._specs:
            return self._specs[found.key]
        if self.store.has(found):
            document = read_document(self.store.file(found, "ticket"))
            channels = document["found"].get("structure") == "channels"
            self._specs[found.key] = trained_spec(self.ticket(found)) if channels else whole
            return self._specs[found.key]
        while "control" in found.settings:  # has channels as its parent has
            found = found.parents["ticket"]
        if found.settings.get("structure") != "channels":
            return whole
        if "given" in found.settings:
            return trained_spec(found.runtime["ticket"])
        widths = planned_widths(self.network(config), found.settings)
        return dataclasses.replace(whole, widths=widths)

    def network(self, config: LotteryConfig, training: Stage | None = None) -> keras.Model:
        """A bare network to put weights into; the same object for the same ``spec``."""
        spec = self.spec(config, training)
        return self._kept("network", spec, lambda: spec.build(0))

    def forward_flops(self, config: LotteryConfig, training: Stage | None = None) -> int:
        """FLOPs of one forward pass of one image through the network of ``spec``."""
        spec = self.spec(config, training)
        if spec not in self._flops:
            self._flops[spec] = sum(forward_flops(self.network(config, training)).values())
        return self._flops[spec]

    def footprint(
        self,
        config: LotteryConfig,
        dtype_policy: str = "float32",
        training: Stage | None = None,
    ) -> Footprint:
        """Memory that training the network of ``spec`` takes under a dtype policy."""
        spec = self.spec(config, training)
        if (spec, dtype_policy) not in self._footprints:
            plain = dtype_policy == "float32"
            network = self.network(config, training) if plain else spec.build(0, dtype_policy)
            self._footprints[spec, dtype_policy] = footprint(network)
        return self._footprints[spec, dtype_policy]

    def evaluator(self, config: LotteryConfig, training: Stage | None = None) -> Evaluator:
        """Attacks compiled for the same ``network``: only weights are exchanged."""
        network, jit_compile = self.network(config, training), config.train.jit_compile
        size = even_batch_size(len(self.data(config).test_labels))
        return self._kept(
            "evaluator",
            # The object, not its spec: it may have been made again since, for other weights.
            (network, config.attacks, size, jit_compile),
            lambda: Evaluator(network, config.attacks, size, jit_compile),
        )

    def check(self, config: LotteryConfig, ticket: Ticket | None = None) -> None:
        """Loads the data and tells early what would fail late.

        Raises:
          DataError, UsageError: the data cannot be had or split as asked.
          UsageError: ``config.model`` is a function that makes no network to prune; channels
            are to be cut and cannot; ``--batch_norm_l1`` without a BatchNorm.
          UsageError: a batch is larger than the training set, or cannot be shared by the
            devices.
          TicketError: ``ticket`` is for another network.
        """
        SCORES.find("score", config.prune.score)
        for attack in config.attacks:
            make_attack(attack)
        data = self.data(config)
        if config.model.name not in MODELS:
            self.network(config)  # of somebody's own: it may not be one to prune
        if config.prune.search_image_size:
            self._check_search_images(config)
        if config.prune.structure == "channels":
            check_channels(self.network(config), config.prune.channel_score)
        if config.search.batch_norm_l1 and not batch_norm_scales(self.network(config)):
            raise UsageError.bad_value(
                "batch_norm_l1",
                config.search.batch_norm_l1,
                f"0 for {config.model.label}, which has no BatchNorm with a scale",
            )
        for training in (config.search, config.train, config.ticket_train):
            steps_per_epoch(len(data.train_labels), training.batch_size)
            self.distribution.check(training)
            if training.validation_images > len(data.validation_labels):
                raise UsageError.bad_value(
                    "validation_images",
                    training.validation_images,
                    f"at most the {len(data.validation_labels)} validation images",
                )
        if ticket is not None:
            self.check_ticket(config, ticket)

    def _check_search_images(self, config: LotteryConfig) -> None:
        """Raises ``UsageError`` unless the same weights fit images of ``--search_image_size``."""
        size, (height, width, _) = config.prune.search_image_size, self.data(config).input_shape
        if height != width or size > height:
            allowed = f"at most the side of square images, these are {height}x{width}"
            raise UsageError.bad_value("search_image_size", size, allowed)
        whole, small = (
            {name: tuple(v.shape) for name, v in named_variables(self.network(each)).items()}
            for each in (config, config.on_search_images)
        )
        for name, shape in whole.items():
            if small.get(name) != shape:
                allowed = (
                    f"0 for {config.model.label}, whose {name} is {shape} for images of "
                    f"{height}x{height}, {small.get(name)} for {size}x{size}"
                )
                raise UsageError.bad_value("search_image_size", size, allowed)

    def check_ticket(self, config: LotteryConfig, ticket: Ticket) -> None:
        """Raises ``TicketError`` if the ticket is for another network."""
        spec = self.spec(config)
        if ticket.spec != spec:
            made, asked = _network(ticket.spec), _network(spec)
            raise TicketError(f"--ticket: the ticket is for {made}, this run for {asked}")

    @contextlib.contextmanager
    def prepared(self, stage: Stage) -> Iterator[None]:
        """TensorFlow in the state that a stage of this configuration is done in.

        Raises:
          UsageError: in the scope of a ``tf.distribute`` strategy, or where a graph is built.
        """
        refuse_scopes()
        config: LotteryConfig = stage.runtime["config"]
        with pinned(), deterministic(config.seed if config.deterministic else None):
            yield

    def check_data(self, stage: Stage) -> None:
        """Makes sure that a finished training saw the images that are loaded now.

        Keys name the data set, not its pixels, which another version or another
        ``--data_dir`` may change.

        Raises:
          StoreError: it saw others.
        """
        data = self.data(stage.runtime["config"])
        path = self.store.file(stage, "network.json")
        if json.loads(path.read_bytes())["data_digest"] != data.digest:
            raise StoreError(
                f"--store: {path.parent} was trained on other images named "
                f"{data.name}; choose another --store"
            )

    def ledger(self, stage: Stage) -> dict:
        """What a finished stage cost, as ``Cost.to_json`` says it; ``{}`` if it says nothing."""
        if stage.key not in self._ledgers:
            self._ledgers[stage.key] = self.store.manifest(stage)["ledger"]
        return self._ledgers[stage.key]

    def spent(self, stages: Iterable[Stage]) -> list[Stage]:
        """Of finished stages those that took passes through a network."""
        return [s for s in stages if s.kind == "train" or self.ledger(s).get("flops")]

    def history(self, stage: Stage) -> list[dict]:
        """The rows of a finished training stage."""
        return json.loads(self.store.file(stage, "history.json").read_bytes())

    def ticket(self, stage: Stage) -> Ticket:
        """The ticket that a finished stage left."""
        return Ticket.load(self.store.file(stage, "ticket"))


def _network(spec: NetworkSpec) -> str:
    pixels = "normalised" if spec.mean is not None else "raw"
    return f"{spec.model.label} on {pixels} {spec.input_shape} pixels, {spec.num_classes} classes"
