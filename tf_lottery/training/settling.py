"""Whether the mask that a training leads to still changes: Early-Bird tickets."""

from __future__ import annotations

import numpy as np

from tf_lottery import pruning
from tf_lottery.keras import tf
from tf_lottery.options.searches import SettlingConfig
from tf_lottery.options.settings import derive_seed
from tf_lottery.pruning.masks import MaskedNetwork

OLDER = 4  # masks that the newest is compared with


class MaskDistance:
    """The largest distance of the newest of five masks, an epoch each, to the four older.

    You et al. 2020 (arXiv 1909.11957, section 3.2; their masks are of channels, those of Chen et
    al. 2022, arXiv 2202.09844, of weights): the search may end once it is small. A mask is what
    pruning would leave of the weights as they are; the distance of two is the share of all
    positions in which they differ (Hamming), so at most twice the smaller of density and sparsity.

    Attributes:
      state: variables by name, which belong into the training's checkpoints: the bits of the
        older masks, and how many masks there were.

    Args:
      masked: the network that is trained; what its masks have removed stays removed.
      settling: which masks.
      seed: of the training; scores draw from it as they would when the ticket is cut.

    Raises:
      UsageError: the score needs more than weights.
      LotteryError: as ``pruning.select``.
    """

    def __init__(self, masked: MaskedNetwork, settling: SettlingConfig, seed: int):
        self._kernels = masked.kernels
        self._alive = masked.get_masks()
        self._settling = settling
        self._seed = derive_seed(seed, "score")
        bits = np.zeros((OLDER, len(self._mask())), np.uint8)  # the mask: fails now, if ever
        self._recent = tf.Variable(bits, trainable=False)
        self._epochs = tf.Variable(0, trainable=False, dtype=tf.int64)
        self.state = {"recent_masks": self._recent, "masks_seen": self._epochs}

    def __call__(self) -> float | None:
        """Of the weights as they are now, after an epoch; ``None``: there are no four older."""
        mask, epochs, recent = self._mask(), int(self._epochs.numpy()), self._recent.numpy()
        total = sum(alive.size for alive in self._alive.values())
        differing = np.bitwise_count(recent ^ mask).sum(axis=1, dtype=np.int64)
        recent[epochs % OLDER] = mask
        self._recent.assign(recent)
        self._epochs.assign(epochs + 1)
        return float(differing.max()) / total if epochs >= OLDER else None

    def _mask(self) -> np.ndarray:
        """Bits of all layers, uint8."""
        kernels = {name: kernel.numpy() for name, kernel in self._kernels.items()}
        chosen = self._settling
        context = pruning.ScoreContext(
            kernels, self._alive, self._seed, chosen.sparsity, chosen.scope
        )
        masks = pruning.highest(
            pruning.score(chosen.score, context), context.masks, chosen.sparsity, chosen.scope
        )
        return np.packbits(np.concatenate([mask.ravel() for mask in masks.values()]))
