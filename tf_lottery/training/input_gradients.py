"""Whether a network in half precision still shows the attack the gradients that it has.

An attack moves a pixel by the sign of its gradient. In float16 small gradients become
exactly 0 and large ones infinite, and in neither case does the pixel move: the network
is trained against a weaker attack than the settings say, and looks robust under it. A
float32 network has zeros too (dead units, a saturated softmax), so what counts is what
half precision lost: entries that the float32 twin has, on the same images and weights.
"""

from __future__ import annotations

import numpy as np

from tf_lottery.attacks.losses import LOSSES
from tf_lottery.attacks.procedure import value_and_gradient
from tf_lottery.errors import PrecisionError
from tf_lottery.keras import keras, tf
from tf_lottery.models.frozen import frozen_logits
from tf_lottery.options.settings import AttackConfig

IMAGES = 128  # training images compared after each epoch
MOST_LOST = 0.05  # share of float32's entries; docs/accelerators.md has measured ones


def compare(half: np.ndarray, full: np.ndarray) -> dict[str, float | None]:
    """What half precision left of input gradients.

    An entry is alive if it is neither 0 nor infinite nor NaN: only those move a pixel.

    Args:
      half: of the network in half precision, (images, height, width, channels).
      full: of its float32 twin, likewise.

    Returns:
      ``lost``: share of ``full``'s live entries that are not alive in ``half`` (0 if it
      has none). ``lost_images``: share of the images of which ``full`` has a live entry
      and ``half`` none. ``zero``, ``zero_float32``: share of the entries that are not
      alive in either. ``sign_agreement``: share of equal signs among the entries that
      are alive in both; ``None`` if there are none.
    """
    alive = np.isfinite(half) & (half != 0)
    alive_full = np.isfinite(full) & (full != 0)
    both = alive & alive_full
    pixels = tuple(range(1, half.ndim))
    lost_images = alive_full.any(axis=pixels) & ~alive.any(axis=pixels)
    return {
        "lost": float(1 - both.sum() / alive_full.sum()) if alive_full.any() else 0.0,
        "lost_images": float(lost_images.mean()),
        "zero": float(1 - alive.mean()),
        "zero_float32": float(1 - alive_full.mean()),
        "sign_agreement": (
            float((np.sign(half[both]) == np.sign(full[both])).mean()) if both.any() else None
        ),
    }


class GradientGuard(keras.callbacks.Callback):
    """Compares after each epoch, and stops a run whose attack half precision has disarmed.

    At clean training images: there the attack begins, and there the network is most
    confident. Belongs after ``callbacks.CopyWeights`` and before ``History``.

    Attributes:
      measured: what ``compare`` gave after the last epoch; ``None`` before the first.

    Args:
      network: that is trained, in half precision.
      twin: of the same weights in float32, brought up to date before each validation.
      stage: name used in the error.
      policy: the dtype policy, likewise.
      attack: of the objective.
      scale: of the attack's loss, as ``attacks.make_attack`` takes it.
      images: uint8 (n, height, width, channels), of which the first ``IMAGES`` are used.
      labels: int (n,).
      jit_compile: as the training step is: XLA rounds at other places.

    Raises:
      PrecisionError: more than ``MOST_LOST`` is lost.
    """

    def __init__(
        self,
        network: keras.Model,
        twin: keras.Model,
        stage: str,
        policy: str,
        attack: AttackConfig,
        scale: float | None,
        images: np.ndarray,
        labels: np.ndarray,
        jit_compile: bool,
    ):
        super().__init__()
        self._networks = network, twin
        self._stage = stage
        self._policy = policy
        self._loss = LOSSES[attack.loss]
        self._scale = scale
        self._images = images[:IMAGES].astype(np.float32) / np.float32(255)
        self._labels = labels[:IMAGES].astype(np.int32)
        self._jit_compile = jit_compile
        self.measured: dict[str, float | None] | None = None

    def on_train_begin(self, logs=None):
        network, twin = self._networks
        self._half = self._gradient(network, self._scale)
        self._full = self._gradient(twin, 1.0)

    def _gradient(self, network, scale):
        @tf.function(jit_compile=self._jit_compile)
        def gradient(images, labels):
            return value_and_gradient(
                lambda logits: self._loss(logits, labels),
                frozen_logits(network),  # what the attack differentiates
                images,
                scale,
            )[2]

        return gradient

    def on_epoch_end(self, epoch, logs=None):
        half, full = (
            function(self._images, self._labels).numpy() for function in (self._half, self._full)
        )
        self.measured = compare(half, full)
        lost = self.measured["lost"] or 0.0
        if lost > MOST_LOST:
            scale = "" if self._scale is None else f" --attack_loss_scale={self._scale:g} and"
            remedy = "" if self._scale is None else "leave --attack_loss_scale out, or "
            raise PrecisionError(
                f"{self._stage}: after epoch {epoch + 1}, {lost:.1%} of the input gradients "
                f"that float32 has are zero or not finite under{scale} "
                f"--dtype_policy={self._policy} (at most {MOST_LOST:.0%} may be), so that the "
                f"attack leaves these pixels alone and the network seems robust; {remedy}use "
                f"--dtype_policy=mixed_bfloat16 or float32"
            )
