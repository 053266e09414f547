"""Which channels of a network are needed for its outputs.

Tensors that must have the same channels form a *class*: what a Conv2D or Dense layer gives,
and whatever BatchNorm, activation, pooling, flattening and adding make of it. A residual
stage is one class, with the identity branches in it. Needed is what the outputs of the
network read, and then what needed channels read, back to the pixels; the rest of a class can
be cut out of all its tensors together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from tf_lottery.compaction import graph
from tf_lottery.compaction.constants import Rules
from tf_lottery.compaction.graph import Node


@dataclass
class _Class:
    """Channels that come and go together.

    Attributes:
      width: number of channels, 0 where it does not matter.
      fixed: all channels stay.
      needed: bool (width,).
      extra: bool (width,): not needed, but kept all the same.
    """

    width: int
    fixed: bool = False
    needed: np.ndarray = field(init=False)
    extra: np.ndarray = field(init=False)

    def __post_init__(self):
        self.needed = np.zeros(self.width, bool)
        self.extra = np.zeros(self.width, bool)


class Channels:
    """The classes of a network's tensors, and what is known of every channel.

    A tensor goes by the name of the layer that gives it. Behind a Flatten it has ``repeat``
    entries a channel, the channel varying fastest.
    """

    def __init__(self, nodes: Iterable[Node], rules: Rules):
        self.nodes = list(nodes)
        self.rules = rules
        self.values: dict[str, np.ndarray | None] = {}
        self._class: dict[str, _Class] = {}
        self._repeat: dict[str, int] = {}
        # A barrier may read what comes after it: a layer that is called twice does.
        barriers = [node for node in self.nodes if node.sort == graph.BARRIER]
        for node in barriers:
            self._class[node.name], self._repeat[node.name] = _Class(0, fixed=True), 1
            self.values[node.name] = None
        for node in self.nodes:
            if node.sort != graph.BARRIER:
                self._follow(node)
        for node in barriers:
            for name in node.sources:
                self._class[name].fixed = True
        self._spread()

    def needed(self, tensor: str) -> np.ndarray | None:
        """bool, an entry of the tensor each; ``None`` where all are kept."""
        found = self._class[tensor]
        return None if found.fixed else np.tile(found.needed, self._repeat[tensor])

    def kept(self, tensor: str) -> np.ndarray | None:
        """Needed or kept all the same, as ``needed``."""
        found = self._class[tensor]
        if found.fixed:
            return None
        return np.tile(found.needed | found.extra, self._repeat[tensor])

    def keep(self, tensor: str, entry: int) -> None:
        """Keeps one channel more: that of an entry of the tensor."""
        found = self._class[tensor]
        if not found.fixed:
            found.extra[entry % found.width] = True

    def keep_one_of_each(self) -> None:
        """Keeps the first channel of every class of which none is."""
        for found in self._class.values():
            if not found.fixed and not (found.needed | found.extra).any():
                found.extra[0] = True

    def classes(self) -> list[tuple[int, bool, list[str]]]:
        """Width, whether all channels stay, and the tensors of each class, in graph order."""
        tensors: dict[int, list[str]] = {}
        for node in self.nodes:
            tensors.setdefault(id(self._class[node.name]), []).append(node.name)
        found = {id(made): made for made in self._class.values()}
        return [(found[key].width, found[key].fixed, names) for key, names in tensors.items()]

    # From the pixels to the logits: classes and constant values.

    def _follow(self, node: Node) -> None:
        before = [self.values[name] for name in node.sources]
        repeat = self._repeat[node.sources[0]]
        if node.sort == graph.READER:
            inputs = node.layer.kernel.shape[-2]
            varying = np.full(inputs, np.nan)
            values: np.ndarray | None = self.rules.read(
                node.layer, varying if before[0] is None else before[0]
            )
            made, repeat = _Class(node.layer.kernel.shape[-1]), 1
        elif node.sort == graph.ADD:
            made = self._merge(node.sources)
            # Of one that is flattened and one that is not no channels go together.
            made.fixed |= len({self._repeat[name] for name in node.sources}) > 1
            known = [found for found in before if found is not None]
            values = np.sum(known, axis=0) if len(known) == len(before) else None
        else:
            made, values = self._class[node.sources[0]], before[0]
            if node.sort == graph.FLATTEN:
                positions = node.layer.output_shape[-1] // node.layer.input_shape[-1]
                repeat *= positions
                values = None if values is None else np.tile(values, positions)
            elif values is not None and node.sort == graph.NORM:
                values = self.rules.normalized(node.layer, values)
            elif values is not None and node.sort == graph.ACTIVATION:
                values = self.rules.activated(node.layer, values)
        self._class[node.name], self._repeat[node.name] = made, repeat
        self.values[node.name] = values

    def _merge(self, tensors: Iterable[str]) -> _Class:
        first, *rest = dict.fromkeys(id(self._class[name]) for name in tensors)
        kinds = {id(found): found for found in self._class.values()}
        made = kinds[first]
        for other in rest:
            # Of two that are added one may be a barrier's, of no known width.
            made.fixed |= kinds[other].fixed
            for name, found in self._class.items():
                if found is kinds[other]:
                    self._class[name] = made
        return made

    # From the logits to the pixels: what is needed.

    def _spread(self) -> None:
        """Marks what is needed, until nothing is added.

        From below: channels of a residual stage that only feed each other are not needed.
        """
        readers = [node for node in self.nodes if node.sort == graph.READER]
        wants = {node.name: self._wants(node) for node in readers}
        changed = True
        while changed:
            changed = False
            for node in reversed(readers):
                source, made = self._class[node.sources[0]], self._class[node.name]
                if source.fixed:
                    continue
                wanted = wants[node.name]
                found = (wanted if made.fixed else wanted[:, made.needed]).any(axis=1)
                found = found.reshape(-1, source.width).any(axis=0)
                changed |= bool((found & ~source.needed).any())
                source.needed |= found

    def _wants(self, node: Node) -> np.ndarray:
        """bool (inputs, outputs): the input is needed if the output is."""
        values = self.values[node.sources[0]]
        wants = self.rules.reads(node.layer)
        if values is not None:
            wants = wants & ~self.rules.folds(node.layer, values)[:, None]
        return wants
