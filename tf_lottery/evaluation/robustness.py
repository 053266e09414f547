"""Robustness of any models, side by side: attacks, transfer, curves, diagnosis.

Each model's attacks are resumed after a kill and not repeated once finished:
``<directory>/<model>/`` holds ``examples.npz`` and ``model.json`` of a finished one,
``progress.npz`` of one under way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import tf_lottery
from tf_lottery import files, weights
from tf_lottery.data import ImageData, even_batch_size
from tf_lottery.errors import StoreError, UsageError
from tf_lottery.evaluation import Checkpoint, Evaluator, logits_function
from tf_lottery.evaluation import Evaluation as Evaluated
from tf_lottery.evaluation.curves import eps_curve, rises, steps_curve
from tf_lottery.evaluation.description import describe
from tf_lottery.evaluation.diagnosis import diagnose
from tf_lottery.evaluation.loading import LoadedModel
from tf_lottery.evaluation.models import right_images
from tf_lottery.evaluation.transfer import transfer_matrix
from tf_lottery.keras import full_float32
from tf_lottery.machine import machine
from tf_lottery.options.settings import AttackConfig, differences, settings, several
from tf_lottery.report.document import Data, Machine
from tf_lottery.report.json_document import plain
from tf_lottery.report.robustness.document import (
    Check,
    Cost,
    Curve,
    Curves,
    Evaluation,
    Model,
    Pair,
    Transfer,
)
from tf_lottery.statistics import compare

_REVISION = 3  # raise it when a change of code changes results: old ones are then refused


@dataclasses.dataclass(frozen=True)
class RobustnessConfig:
    """What is measured.

    Attributes:
      attacks: on all test images.
      transfer: attack whose results are tried on the other models; ``None`` for none.
      analysis: PGD at the radius of the curves and the diagnosis.
      analysis_images: for these, the first of the test images; 0 leaves them out.
      seed: root of random numbers.
      batch_size: images of a full batch; 0 chooses. No part of a result.
    """

    attacks: tuple[AttackConfig, ...]
    transfer: AttackConfig | None
    analysis: AttackConfig
    analysis_images: int = 200
    seed: int = 0
    batch_size: int = dataclasses.field(default=0, metadata={"fingerprint": False})

    def __post_init__(self):
        if self.analysis_images < 0:
            raise UsageError.bad_value("analysis_images", self.analysis_images, "0 or more")
        if self.batch_size < 0:
            raise UsageError.bad_value("eval_batch_size", self.batch_size, "0 or more")


def evaluate_models(
    models: Sequence[LoadedModel],
    data: ImageData,
    config: RobustnessConfig,
    directory: Path,
    *,
    command: Sequence[str] = (),
    progress: bool = False,
    announce: Callable[[str], None] = print,
) -> Evaluation:
    """Measures every model; what is finished in ``directory`` is read instead.

    Args:
      models: with distinct names.
      data: its test images are used.
      config: what is measured.
      directory: existing; see above.
      command: arguments, recorded with the results.
      progress: show bars.
      announce: told of each step.

    Returns:
      The document, not written yet.

    Raises:
      UsageError: a model that takes other images, or cannot be attacked.
      StoreError: ``directory`` holds results of other settings for one of the models.
    """
    for model in models:
        _check_images(model, data)
    with full_float32():
        return _measured(models, data, config, directory, command, progress, announce)


def _measured(
    models, data: ImageData, config: RobustnessConfig, directory: Path, command, progress, announce
) -> Evaluation:
    """See ``evaluate_models``."""
    x, y = data.test_images, data.test_labels
    entries, right = [], []
    for number, model in enumerate(models, 1):
        announce(f"[{number}/{len(models)}] {model.name}: {model.what}")
        entry, examples = _attacked(model, data, config, directory, progress, announce)
        entries.append(entry)
        right.append(_right(examples, config.attacks))
    shown = min(config.analysis_images, len(y))
    analyses = {
        model.name: _analysed(model, data, config, directory, shown, announce)
        for model in models
        if shown and config.analysis.eps > 0
    }
    pairs = [
        Pair(
            a=models[i].name,
            b=models[j].name,
            measure=measure,
            **compare(right[i][measure], right[j][measure]),
        )
        for i, j in combinations(range(len(models)), 2)
        for measure in right[i]
    ]
    transfer = None
    if config.transfer is not None and config.transfer.eps > 0 and len(models) > 1:
        transfer = Transfer(
            attack=config.transfer,
            examples=len(y),
            models=[model.name for model in models],
            accuracy=_transferred(models, x, y, data, config, directory, announce),
        )
    classes = list(data.class_names)
    return Evaluation(
        format=1,
        kind="evaluation",
        package_version=tf_lottery.__version__,
        command=list(command),
        settings=settings(config),
        machine=Machine(**machine()),
        data=Data(name=data.name, test=len(y), digest=data.digest, classes=classes),
        attacks=list(config.attacks),
        models=entries,
        pairs=pairs,
        transfer=transfer,
        curves=_curves(analyses, config, shown),
        diagnosis={
            name: [Check(**check) for check in analysis["diagnosis"]]
            for name, analysis in analyses.items()
        },
    )


def _check_images(model: LoadedModel, data: ImageData) -> None:
    """Raises ``UsageError`` where a model takes other images, or gives no logits for them."""
    with _refusals(model):
        described = describe(model.model)
        for ours, theirs in zip(described.image_shape, data.input_shape, strict=True):
            if ours not in (None, theirs):
                size = f"; trained with --image_size={model.image_size}" if model.image_size else ""
                raise UsageError(
                    f"--dataset: images of {data.name} are {data.input_shape}, "
                    f"{model.name} takes {described.image_shape}{size}",
                    "dataset",
                )
        classes, highest = described.check(data.input_shape), int(data.test_labels.max())
        if classes is not None and highest >= classes:
            raise UsageError(
                f"--dataset: {data.name} has labels up to {highest}, {model.name} tells "
                f"{classes} classes apart",
                "dataset",
            )


def _batch_size(config: RobustnessConfig, data: ImageData) -> int:
    return config.batch_size or even_batch_size(len(data.test_labels))


def _identity(model: LoadedModel, data: ImageData, config: RobustnessConfig) -> dict:
    return {
        "revision": _REVISION,
        "model": model.digest,
        "data": data.digest,
        "images": len(data.test_labels),
        "attacks": settings(config.attacks),
        "seed": config.seed,
    }


def _attacked(
    model: LoadedModel,
    data: ImageData,
    config: RobustnessConfig,
    directory: Path,
    progress: bool,
    announce: Callable[[str], None],
) -> tuple[Model, Mapping[str, np.ndarray]]:
    """The document's entry of one model, and its examples."""
    place = directory / model.name
    identity = _identity(model, data, config)
    known = _read_json(place / "model.json")
    if known is not None:
        if known["identity"] != identity:
            lines = differences(identity, known["identity"])
            raise StoreError(
                f"--evaluation_dir: {place} holds results of other settings, images or another "
                f"model of that name ({several(lines)}); choose another --evaluation_dir or "
                "remove it"
            )
        announce("  finished already")
        for line in known.get("warnings", ()):
            announce(f"  warning: {line}")
        return _read_entry(place / "model.json", known), weights.read_arrays(place / "examples.npz")
    place.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(place / "progress.npz")
    with _refusals(model), _naming_directory():
        found = Evaluator(model.model, config.attacks, _batch_size(config, data))(
            data.test_images,
            data.test_labels,
            config.seed,
            progress,
            checkpoint,
            identity,
            lambda line: announce(f"  {line}"),
        )
    arrays = {"index": data.test_index, **found.arrays()}
    weights.write_arrays(place / "examples.npz", arrays)
    entry = _entry(model, found, config.attacks)
    files.write_json(
        place / "model.json",
        {"identity": identity, "entry": plain(entry), "warnings": list(found.warnings)},
    )
    checkpoint.remove()
    return entry, arrays


def _read_entry(path: Path, known: dict) -> Model:
    try:
        return msgspec.convert(known.get("entry"), Model)
    except msgspec.ValidationError as error:
        raise StoreError(f"{path} is damaged ({error}); remove it to measure again") from None


@contextlib.contextmanager
def _naming_directory() -> Iterator[None]:
    """Says with which flag to get out of the way of a checkpoint that does not fit."""
    try:
        yield
    except StoreError as error:
        raise StoreError(f"--evaluation_dir: {error}, or choose another directory") from error


@contextlib.contextmanager
def _refusals(model: LoadedModel) -> Iterator[None]:
    """Turns what the evaluator cannot work with into a message that names the flag."""
    try:
        yield
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(
            f"--model_path: {model.what} cannot be evaluated: {error}", "model_path"
        ) from error


def _entry(model: LoadedModel, found: Evaluated, attacks: Sequence[AttackConfig]) -> Model:
    survivors = [found.survived[attack.name] for attack in attacks]
    columns = ("seconds", "forward_passes", "input_gradient_passes")
    cost = {}
    for name, parts in found.passes.items():
        each = {part: vars(passes) for part, passes in parts.items()}
        sums = {column: sum(passes[column] for passes in each.values()) for column in columns}
        cost[name] = Cost(**sums, parts=each if len(each) > 1 else {})
    broken_by = {
        attack.name: {
            part.name: int((found.broken_by[attack.name] == part.name).sum())
            for part in attack.components
        }
        for attack in attacks
    }
    return Model(
        name=model.name,
        what=model.what,
        examples=len(found.labels),
        natural=found.natural,
        robust=dict(found.robust),
        worst=float(np.logical_and.reduce(survivors).mean()) if survivors else None,
        broken_by=broken_by,
        standing={name: int(flags.sum()) for name, flags in found.survived.items()},
        cost=cost,
        digest=model.digest,
        training_eps=model.training_eps,
    )


def _right(
    examples: Mapping[str, np.ndarray], attacks: Sequence[AttackConfig]
) -> dict[str, np.ndarray]:
    """Which images a model gets right, by measure; the worst of one attack is that attack."""
    right = right_images(examples, [attack.name for attack in attacks])
    return {name: flags for name, flags in right.items() if name != "worst" or len(attacks) > 1}


def _analysed(
    model: LoadedModel,
    data: ImageData,
    config: RobustnessConfig,
    directory: Path,
    images: int,
    announce: Callable[[str], None],
) -> dict:
    """Curves and diagnosis of one model."""
    attack = config.analysis
    identity = _identity(model, data, config) | {
        "analysis": settings(attack),
        "images": images,
        "attacks": None,
    }

    def measure() -> dict:
        announce(f"curves and diagnosis of {model.name} on {images} images")
        x, y = data.test_images[:images], data.test_labels[:images]
        options = {"seed": config.seed, "batch_size": min(images, _batch_size(config, data))}
        with _refusals(model):
            radii, by_eps = eps_curve(model.model, x, y, attack, **options)
            steps, by_steps = steps_curve(logits_function(model.model), x, y, attack, **options)
            checks = diagnose(
                model.model,
                x,
                y,
                norm=attack.norm,
                eps=attack.eps,
                eps_accuracy=(radii, by_eps),
                **options,
            )
        return {
            "eps": {"values": radii, "accuracy": by_eps},
            "steps": {"values": steps, "accuracy": by_steps},
            "diagnosis": [dataclasses.asdict(check) for check in checks],
        }

    return _cached(directory / model.name / "analysis.json", identity, measure)


def _curves(analyses: Mapping[str, dict], config: RobustnessConfig, images: int) -> Curves | None:
    if not analyses:
        return None

    def curve(over: str) -> Curve:
        measured = {name: analysis[over] for name, analysis in analyses.items()}
        return Curve(
            attack=config.analysis,
            examples=images,
            values=next(iter(measured.values()))["values"],
            accuracy={name: found["accuracy"] for name, found in measured.items()},
            rises={
                name: [
                    (start, end, gain)
                    for start, end, gain in rises(found["values"], found["accuracy"], images)
                ]
                for name, found in measured.items()
            },
        )

    return Curves(eps=curve("eps"), steps=curve("steps"))


def _transferred(
    models: Sequence[LoadedModel], x, y, data: ImageData, config: RobustnessConfig,
    directory: Path, announce: Callable[[str], None],
) -> list[list[float]]:  # fmt: skip
    assert config.transfer is not None
    identity = {
        "models": [model.digest for model in models],
        "attack": settings(config.transfer),
        "data": data.digest,
        "images": len(y),
        "seed": config.seed,
        "revision": _REVISION,
    }
    functions = {model.name: logits_function(model.model) for model in models}
    attack = config.transfer

    def measure() -> list[list[float]]:
        return transfer_matrix(
            functions, x, y, attack, config.seed, _batch_size(config, data), announce
        ).tolist()

    return _cached(directory / "transfer.json", identity, measure)


def _cached(path: Path, identity: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
    """What was measured for the same identity, else what is measured now."""
    plain = json.loads(json.dumps(identity))
    known = _read_json(path)
    if known is not None and known["identity"] == plain:
        return known["result"]
    result = measure()
    files.write_json(path, {"identity": plain, "result": result})
    return json.loads(json.dumps(result))


def _read_json(path: Path) -> Any:
    """The document, or ``None`` where there is none.

    Raises:
      StoreError: damaged.
    """
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_bytes())
        document["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError(f"{path} is damaged; remove it to measure again") from None
    return document
