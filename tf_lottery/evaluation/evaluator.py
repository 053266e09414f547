"""Clean accuracy and accuracy under attacks, example by example."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from tf_lottery.errors import UsageError
from tf_lottery.evaluation.cautions import (
    PROBED,
    Probe,
    RobustnessWarning,
    at_chance,
    blind_beats_gradient,
)
from tf_lottery.evaluation.checkpoint import Checkpoint, Progress
from tf_lottery.evaluation.description import describe
from tf_lottery.evaluation.models import Freezer, predicted_classes
from tf_lottery.evaluation.packing import (
    Cursor,
    PackedAttack,
    Passes,
    Verdicts,
    packed,
    unit_pixels,
)
from tf_lottery.evaluation.result import Evaluation, result_of
from tf_lottery.keras import full_float32, tf
from tf_lottery.options.attacks import default_eps
from tf_lottery.options.checks import at_least
from tf_lottery.options.settings import AttackConfig, attack_from_name, settings


class FinishedAttacks(Protocol):
    """Where whole attacks are kept, for other evaluations of the same model and images."""

    def find(
        self, attack: AttackConfig, clean: np.ndarray
    ) -> tuple[Verdicts, dict[str, Passes]] | None: ...

    def keep(
        self,
        attack: AttackConfig,
        clean: np.ndarray,
        verdicts: Verdicts,
        passes: Mapping[str, Passes],
    ) -> None: ...


class Evaluator:
    """Compiled attacks on one model; call it again after changing the model's weights.

    Args:
      model: see ``description.describe``.
      attacks: configs, with distinct names.
      batch_size: images of a full batch. Surviving images are packed into full batches;
        the few sizes of the rest are rounded up, and nothing is traced twice.
      jit_compile: XLA for the attacks (for accelerators).

    Raises:
      ValueError: two attacks of one name, or a model ``describe`` refuses.
      UsageError: ``batch_size`` is below 1.
    """

    def __init__(
        self,
        model: Any,
        attacks: Sequence[AttackConfig] = (),
        batch_size: int = 250,
        jit_compile: bool = False,
    ):
        self._described = describe(model)
        self._freeze = Freezer(self._described)
        at_least(1)("batch_size", batch_size)
        self._batch_size = batch_size
        self._jit_compile = jit_compile
        self._attacks = tuple(attacks)
        names = [config.name for config in self._attacks]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two attacks are named {', '.join(sorted(twice))}")
        self._logits: Callable | None = None
        self._probe: Probe | None = None
        self._packed: dict[AttackConfig, PackedAttack] = {}
        self._shape: tuple[int, ...] = ()

    def __call__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        seed: int = 0,
        progress: bool = False,
        checkpoint: Checkpoint | None = None,
        identity: Mapping[str, Any] | None = None,
        announce: Callable[[str], None] | None = None,
        finished: FinishedAttacks | None = None,
    ) -> Evaluation:
        """Evaluates on images.

        Args:
          x: (n, h, w, c), uint8 in [0, 255] or float in [0, 1].
          y: int labels (n,).
          seed: of random numbers, which are keyed by (seed, position in x): the same
            for every batch size.
          progress: show a bar.
          checkpoint: written now and then, and after each attack; an evaluation that
            was interrupted goes on from there.
          identity: JSON that tells this model and these images from others; a checkpoint
            of another evaluation is refused.
          announce: told in a line of each attack, or part of a suite, that has ended, and
            of each of the ``warnings``.
          finished: asked for each attack before it is run, and given it afterwards.

        Raises:
          ValueError: no images, unequal lengths, pixels outside [0, 1], labels that are
            no class of the model, outputs that are not (batch, classes), NaN or infinity
            for a clean image. (For an attacked image they count as broken, with
            prediction -1.)
          FrozenError: attacks would differentiate another function.
          StoreError: the checkpoint is damaged or of another evaluation.
        """
        x, y = _checked(x, y)
        with full_float32():
            return self._evaluate(x, y, seed, progress, checkpoint, identity, announce, finished)

    def _evaluate(
        self, x, y, seed, progress, checkpoint, identity, announce, finished
    ) -> Evaluation:
        self._compile(x.shape[1:])
        began = time.perf_counter()
        clean, outputs = self._predict(x)
        clean_passes = Passes(time.perf_counter() - began, len(y))
        classes = outputs.shape[-1]
        if y.max() >= classes:
            raise ValueError(f"label {y.max()} for a model of {classes} classes")
        if (clean < 0).any():
            raise ValueError(
                f"the model gives infinity or NaN for {(clean < 0).sum()} of the clean images"
            )
        warned = _Warned(announce)
        warned(self._before(x, y, clean, classes))
        who = {
            "model": dict(identity or {}),
            "attacks": [settings(attack) for attack in self._attacks],
            "seed": seed,
            "images": len(y),
        }
        known = checkpoint.read(who) if checkpoint is not None else None
        if known is None:
            known = Progress(clean, clean_passes)
        run = _Run(x, y, seed, known, progress, checkpoint, who, announce)
        for number, config in enumerate(self._attacks):
            name = config.name
            if number >= known.attack:
                told = finished.find(config, known.clean) if finished else None
                if told is None:
                    self._attack(run, config, classes)
                else:
                    known.verdicts[name], known.passes[name] = told
                    run.done()
            if finished:
                finished.keep(config, known.clean, known.verdicts[name], known.passes[name])
        found = result_of(y, known, self._attacks)
        warned(blind_beats_gradient(self._attacks, found.survived, found.broken_by))
        return replace(found, warnings=tuple(warned.lines))

    def _compile(self, image_shape: tuple[int, ...]) -> None:
        if self._shape == image_shape:
            return
        self._described.check(image_shape)
        spec = tf.TensorSpec([None, *image_shape], tf.float32)
        self._shape, self._packed, self._probe = image_shape, {}, None
        # Clean and attacked images are judged by this one function.
        self._logits = tf.function(self._described.logits, input_signature=[spec])

    def _before(self, x, y, clean: np.ndarray, classes: int) -> Iterator[str]:
        """What is looked at, and to be warned of, before any attack."""

        def brighter() -> float:
            first = slice(self._batch_size)
            return float((self._predict(x[first], 255)[0] == y[first]).mean())

        yield from at_chance(clean, y, classes, brighter)
        if not self._attacks:
            return
        first = unit_pixels(x[:PROBED])
        self._freeze.check(first)
        assert self._logits is not None
        self._probe = self._probe or Probe(self._logits, self._shape)
        yield from self._probe(first, y[:PROBED])

    def _predict(self, x: np.ndarray, white: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Classes of all images, and the logits of the first batch; pixels in [0, white]."""
        assert self._logits is not None
        found, first = [], None
        for rows, size in packed(len(x), self._batch_size):
            images = unit_pixels(x[rows]) * np.float32(white)
            count = len(images)
            if count < size:
                images = np.concatenate([images, np.repeat(images[-1:], size - count, axis=0)])
            logits = np.asarray(self._logits(images))
            if len(logits) != size:
                raise ValueError(f"the model gives {len(logits)} rows of logits for {size} images")
            logits = logits[:count]
            first = logits if first is None else first
            found.append(predicted_classes(logits))
        assert first is not None
        return np.concatenate(found), first

    def _attack(self, run: _Run, config: AttackConfig, classes: int) -> None:
        """All parts of one attack, from where the run's progress stands."""
        known = run.known
        name = config.name
        known.verdicts.setdefault(name, Verdicts.before(known.clean, run.y))
        passes = known.passes.setdefault(name, {})
        verdicts = known.verdicts[name]
        for part, component in enumerate(config.components):
            if part < known.part:
                continue
            if component not in self._packed:
                self._packed[component] = PackedAttack(
                    component,
                    self._freeze,
                    self._shape,
                    classes,
                    self._batch_size,
                    self._jit_compile,
                )
            attack = self._packed[component]
            if known.cursor is None:
                known.cursor = Cursor(np.flatnonzero(verdicts.standing))
            used = passes.setdefault(component.name, Passes())
            label = name if name == component.name else f"{name}: {component.name}"
            with run.bar(label, attack, known.cursor, verdicts) as between:
                attack.run(
                    run.x,
                    run.y,
                    run.seed,
                    verdicts,
                    part,
                    known.cursor,
                    used,
                    lambda images: self._predict(images)[0],
                    between,
                )
            known.part, known.cursor = part + 1, None
            run.finished(label, verdicts, used)
        run.done()


class _Warned:
    """Sentences of warning, each told once."""

    def __init__(self, announce: Callable[[str], None] | None):
        self.lines: list[str] = []
        self._announce = announce

    def __call__(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.lines.append(line)
            if self._announce is not None:
                self._announce(f"warning: {line}")


@dataclass
class _Run:
    """One call of an ``Evaluator``."""

    x: np.ndarray
    y: np.ndarray
    seed: int
    known: Progress
    progress: bool
    checkpoint: Checkpoint | None
    identity: dict[str, Any]
    announce: Callable[[str], None] | None

    def save(self) -> None:
        if self.checkpoint is not None:
            self.checkpoint.write(self.known, self.identity)

    def done(self) -> None:
        """With the attack under way."""
        self.known.attack, self.known.part, self.known.cursor = self.known.attack + 1, 0, None
        self.save()

    def bar(self, label: str, attack: PackedAttack, cursor: Cursor, verdicts: Verdicts) -> _Bar:
        return _Bar(self, label, attack, cursor, verdicts)

    def finished(self, label: str, verdicts: Verdicts, used: Passes) -> None:
        if self.announce is not None:
            self.announce(
                f"{label}: {int(verdicts.standing.sum()):,} of {len(self.y):,} images standing, "
                f"{used.seconds:.1f} s"
            )


class _Bar:
    """Progress of one part of an attack; what it yields is called between iterations."""

    def __init__(
        self, run: _Run, label: str, attack: PackedAttack, cursor: Cursor, verdicts: Verdicts
    ):
        self._run, self._verdicts = run, verdicts
        self._each, self._size = attack.iterations, attack.pool_size()
        pools = -(-len(cursor.began_with) // self._size)
        self._bar = tqdm(
            desc=label,
            total=pools * self._each,
            unit="it",
            disable=None if run.progress else True,  # None: only on a terminal
            leave=False,
            file=sys.stderr,
        )

    def __enter__(self) -> Callable[[Cursor, int], None]:
        return self._between

    def __exit__(self, *_) -> None:
        self._bar.close()

    def _between(self, cursor: Cursor, iterations: int) -> None:
        self._bar.n = cursor.pool // self._size * self._each + iterations
        standing = int(self._verdicts.standing.sum())
        self._bar.set_postfix_str(f"{standing:,} of {len(self._run.y):,} images standing")
        if self._run.checkpoint is not None and self._run.checkpoint.due():
            self._run.save()


def evaluate(
    model: Any,
    x: np.ndarray,
    y: np.ndarray,
    attacks: str | AttackConfig | Sequence[str | AttackConfig] = ("pgd20",),
    *,
    eps: float | str | None = None,
    step_size: float | str | None = None,
    random_start: bool = True,
    restarts: int = 1,
    norm: str = "linf",
    batch_size: int = 250,
    seed: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Clean accuracy and accuracy under each attack.

    Args:
      model: a Keras model of either version, a loaded SavedModel, or ``images -> logits``;
        see ``description.describe``.
      x: (n, h, w, c), uint8 in [0, 255] or float in [0, 1].
      y: int labels (n,).
      attacks: ``AttackConfig`` or names (``fgsm``, ``pgd20``, ``autoattack``, ...), one or
        some, with commas between them in one string; the next five arguments fill in the
        names (see ``settings.attack_from_name``).
      eps: radius on [0, 1] pixels, also as "8/255"; ``None`` means 8/255 for l_inf and 0.5
        for l_2.
      step_size: ``None`` means eps / 4, for MIM eps divided by its steps.
      random_start: start at a random point of the ball.
      restarts: the worst of so many tries counts.
      norm: ``linf`` or ``l2``.
      batch_size: images a batch.
      seed: root of the random numbers.
      progress: show a bar.

    Returns:
      ``Evaluation``.

    Raises:
      UsageError: unknown attack or bad setting.
      ValueError: no images, unequal lengths, pixels outside [0, 1], labels that are no
        class of the model, attacks of one name, half precision, a model that is not one of
        float images and logits.
      FrozenError: attacks would differentiate another function than the model.

    Warns:
      RobustnessWarning: for each of the result's ``warnings``.

    Example:
      >>> import numpy as np
      >>> images = np.random.default_rng(0).random((4, 2, 2, 1)).astype("float32")
      >>> constant = lambda x: tf.one_hot(tf.ones_like(x[:, 0, 0, 0], tf.int32), 3)
      >>> evaluate(constant, images, np.array([1, 1, 0, 2]), attacks=[]).natural
      0.5
    """
    try:
        configs = list(_configs(attacks, eps, step_size, random_start, restarts, norm))
    except UsageError as error:  # which speaks of flags
        raise UsageError(str(error).removeprefix("--"), error.flag) from None
    found = Evaluator(model, configs, batch_size)(x, y, seed, progress)
    for line in found.warnings:
        warnings.warn(line, RobustnessWarning, stacklevel=2)
    return found


def _configs(attacks, eps, step_size, random_start, restarts, norm: str) -> Iterator[AttackConfig]:
    """The attacks that ``evaluate`` was given."""
    if isinstance(attacks, str):
        attacks = attacks.split(",")
    elif isinstance(attacks, AttackConfig):
        attacks = [attacks]
    eps = default_eps(norm) if eps is None else _number("eps", eps)
    step_size = None if step_size is None else _number("step_size", step_size)
    for attack in attacks:
        if isinstance(attack, AttackConfig):
            yield attack
        else:
            yield attack_from_name(attack.strip(), eps, step_size, random_start, restarts, norm)


def _number(name: str, value: float | str) -> float:
    try:
        return float(Fraction(value)) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        raise UsageError.bad_value(name, value, "a number such as 0.03 or 8/255") from None


def _checked(x, y) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x), np.asarray(y)
    if len(x) != len(y) or not len(x) or x.ndim != 4 or y.ndim != 1:
        raise ValueError(
            f"images of shape {x.shape} and labels of shape {y.shape}; "
            "(n, height, width, channels) and (n,) with n > 0 are needed"
        )
    whole = np.issubdtype(y.dtype, np.integer)
    if not whole or y.min() < 0:
        lowest = f" from {y.min()}" if whole else ""  # words have none
        raise ValueError(f"labels are {y.dtype}{lowest}; class numbers from 0 are needed")
    if x.dtype != np.uint8:
        x = x.astype(np.float32)
        if not (x.min() >= 0 and x.max() <= 1):  # false for NaN too
            raise ValueError(f"pixels in [{x.min()}, {x.max()}]; [0, 1] is needed")
    return x, y.astype(np.int32)
