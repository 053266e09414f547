"""Whether the mask that a training leads to still changes: Early-Bird tickets."""

from __future__ import annotations

import dataclasses

import numpy as np

from tf_lottery import pruning
from tf_lottery.channels import check_channels, select
from tf_lottery.keras import tf
from tf_lottery.options.searches import SettlingConfig
from tf_lottery.options.settings import derive_seed
from tf_lottery.pruning.masks import MaskedNetwork
from tf_lottery.weights import named_variables

OLDER = 4  # masks that the newest is compared with


class MaskDistance:
    """The largest distance of the newest of five masks, an epoch each, to the four older.

    Of channels (You et al. 2020, arXiv 1909.11957, section 3.2) or of weights (Chen et al. 2022,
    arXiv 2202.09844): the search may end once it is small. A mask is what pruning would leave of
    the network as it is; the distance of two is the share of all positions in which they differ
    (Hamming), so at most twice the smaller of density and sparsity.

    Attributes:
      state: variables by name, which belong into the training's checkpoints: the bits of the
        older masks, and how many masks there were.

    Args:
      masked: the network that is trained; what its masks have removed stays removed.
      settling: which masks.
      seed: of the training; scores draw from it as they would when the ticket is cut.

    Raises:
      UsageError: the score needs more than weights; or as ``channels.check_channels``.
      LotteryError: as ``pruning.select``.
    """

    def __init__(self, masked: MaskedNetwork, settling: SettlingConfig, seed: int):
        self._kernels = masked.kernels
        self._alive = masked.get_masks()
        self._settling = settling
        self._seed = derive_seed(seed, "score")
        if settling.channels:
            self._chosen = dataclasses.asdict(settling.channels)
            self._groups = check_channels(masked.network, self._chosen["channel_score"])
            self._variables = named_variables(masked.network)
        mask = self._mask()  # fails now, if ever
        self._positions = len(mask)
        bits = np.zeros((OLDER, len(np.packbits(mask))), np.uint8)
        self._recent = tf.Variable(bits, trainable=False)
        self._epochs = tf.Variable(0, trainable=False, dtype=tf.int64)
        self.state = {"recent_masks": self._recent, "masks_seen": self._epochs}

    def __call__(self) -> float | None:
        """Of the weights as they are now, after an epoch; ``None``: there are no four older."""
        mask, epochs, recent = (
            np.packbits(self._mask()),
            int(self._epochs.numpy()),
            self._recent.numpy(),
        )
        differing = np.bitwise_count(recent ^ mask).sum(axis=1, dtype=np.int64)
        recent[epochs % OLDER] = mask
        self._recent.assign(recent)
        self._epochs.assign(epochs + 1)
        return float(differing.max()) / self._positions if epochs >= OLDER else None

    def _mask(self) -> np.ndarray:
        """Of all layers or groups of channels, bool."""
        chosen = self._settling
        if chosen.channels:
            values = {name: variable.numpy() for name, variable in self._variables.items()}
            return np.concatenate(select(self._groups, values, self._chosen)[0])
        kernels = {name: kernel.numpy() for name, kernel in self._kernels.items()}
        context = pruning.ScoreContext(
            kernels, self._alive, self._seed, chosen.sparsity, chosen.scope
        )
        masks = pruning.highest(
            pruning.score(chosen.score, context), context.masks, chosen.sparsity, chosen.scope
        )
        return np.concatenate([mask.ravel() for mask in masks.values()])
