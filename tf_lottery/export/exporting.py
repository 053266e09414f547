"""``--mode=export``: writes a model's files, reads them back, and measures what they are."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

import tf_lottery
from tf_lottery import files
from tf_lottery.attacks import make_attack
from tf_lottery.compaction import Compaction, compact
from tf_lottery.data import ImageData, load
from tf_lottery.errors import LotteryError, UsageError
from tf_lottery.evaluation.loading import LoadedModel
from tf_lottery.evaluation.packing import packed, unit_pixels
from tf_lottery.export import export_saved_model
from tf_lottery.export.artefacts import (
    Artefact,
    SavedModelArtefact,
    TFLiteArtefact,
    cores,
    predictions,
)
from tf_lottery.export.latency import interleaved
from tf_lottery.export.tflite import TFLITE_FORMATS, convert
from tf_lottery.keras import full_float32, keras, tf
from tf_lottery.machine import machine
from tf_lottery.models import forward_flops
from tf_lottery.options.checks import some_of
from tf_lottery.options.settings import (
    EXPORT_FORMATS,
    AttackConfig,
    DataConfig,
    derive_seed,
)
from tf_lottery.report import exported
from tf_lottery.report.document import Machine
from tf_lottery.report.exported import (
    EXPORT,
    Accuracy,
    Exported,
    File,
    Latency,
    Measured,
    Timing,
)
from tf_lottery.report.json_document import plain, write_document

BATCHES = (1, 64)
TEST_IMAGES = 1000  # of a data set's test split, unless told otherwise
REPRESENTATIVE = 200  # training images whose activations set the ranges of int8


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """What is written and measured.

    Attributes:
      attack: that the files are tried on.
      formats: of ``settings.EXPORT_FORMATS``.
      compact: cut out what no logit depends on.
      seed: of the attack's random starts and the representative images.
      verbose: let TensorFlow talk.
    """

    attack: AttackConfig
    formats: tuple[str, ...] = ("saved_model",)
    compact: bool = False
    seed: int = 0
    verbose: bool = False

    def __post_init__(self):
        some_of("formats", self.formats, EXPORT_FORMATS)


@dataclasses.dataclass(frozen=True)
class Images:
    """The images to measure on.

    Attributes:
      data: ``None`` if they cannot be had.
      missing: why accuracy is not measured; empty if it is.
    """

    data: ImageData | None
    missing: str = ""


def find_images(
    loaded: LoadedModel,
    config: DataConfig,
    given: frozenset[str] = frozenset(),
    formats: Sequence[str] = (),
) -> Images:
    """Loads the data set a model was trained on, as its record says.

    Args:
      loaded: the model.
      config: of the command line. Unless ``--test_examples`` was set, at most 1,000 test
        images are used.
      given: the flags that were set: ``--dataset`` and ``--image_size`` beat the record, and
        what is wrong with a flag that was set is an error.
      formats: that are to be written: those of int8 need images of any model.

    Raises:
      UsageError: a flag that was set does not fit.
    """
    untrained = "a ticket's weights are not trained yet" if loaded.is_untrained_ticket else ""
    if untrained and not any("int8" in name for name in formats):
        return Images(None, untrained)
    name = config.name if "dataset" in given else loaded.dataset
    if name is None:
        return Images(None, "the model has no record of its data set; --dataset=NAME says which")
    size = config.image_size if "image_size" in given else loaded.image_size
    try:
        data = load(dataclasses.replace(config, name=name, image_size=size))
        _check_fit(loaded, data)
    except UsageError as error:
        if error.flag in given:
            raise
        return Images(None, str(error))
    except LotteryError as error:
        return Images(None, str(error))
    if "test_examples" not in given:
        parts = ("test_images", "test_labels", "test_index")
        first = {part: getattr(data, part)[:TEST_IMAGES] for part in parts}
        data = dataclasses.replace(data, **first)
    return Images(data, untrained)


def _check_fit(loaded: LoadedModel, data: ImageData) -> None:
    sizes = zip(loaded.input_shape, data.input_shape, strict=False)
    if len(loaded.input_shape) != 3 or any(ours not in (None, theirs) for ours, theirs in sizes):
        raise UsageError(
            f"--dataset: images of {data.name} are {data.input_shape}, the model takes "
            f"{tuple(loaded.input_shape)}",
            "dataset",
        )
    if loaded.network.output_shape != (None, data.num_classes):
        raise UsageError(
            f"--dataset: {data.name} has {data.num_classes} classes, the model's outputs are "
            f"{loaded.network.output_shape}",
            "dataset",
        )


def export_model(
    loaded: LoadedModel,
    target: Path,
    images: Images,
    config: ExportConfig,
    *,
    command: Sequence[str] = (),
    announce: Callable[[str], None] = print,
) -> Exported:
    """Writes the files into ``target``, and ``export.json`` with what was measured on them.

    Args:
      loaded: a model with a Keras network.
      target: new or empty directory; a SavedModel fills it itself, TFLite files and
        ``export.json`` lie beside it.
      images: to measure on; without them accuracy is left out, and int8 cannot be had.
      config: what to write.
      command: arguments, recorded.
      announce: told of each step.

    Returns:
      The document that ``export.json`` holds.

    Raises:
      UsageError: an int8 format without images.
      LotteryError: TensorFlow's converter refuses the network. Nothing is written then.
    """
    formats = [name for name in EXPORT_FORMATS if name in config.formats]
    wanted = [TFLITE_FORMATS[name] for name in formats if name in TFLITE_FORMATS]
    whole = loaded.network
    compaction = compact(whole) if config.compact else None
    network = whole if compaction is None else compaction.network
    pixels = None
    if any(one.numbers == "int8" for one in wanted):
        if images.data is None:
            raise UsageError(
                "--formats: int8 needs training images to set its ranges by, and there are "
                f"none: {images.missing}",
                "formats",
            )
        pixels = representative_images(images.data, config.seed)
    contents = {}
    for one in wanted:
        announce(f"converting: {one.label}")
        contents[one] = convert(network, one, pixels, config.verbose)
    names = images.data.class_names if images.data is not None else ()
    cut = _cut(whole, compaction)
    metadata = {**(loaded.metadata or {}), "compaction": plain(cut)}
    found: list[Measurable] = []

    def add(label: str, kind: str, artefact: Artefact, kept: bool, compacted: bool) -> None:
        file = artefact.path.relative_to(target).as_posix() if kept else None
        found.append(Measurable(label, kind, artefact, file, compacted))

    if "saved_model" in formats:
        export_saved_model(network, target, names, metadata)
    target.mkdir(parents=True, exist_ok=True)
    for one, content in contents.items():
        files.write_atomically(target / one.file, content)
    with tempfile.TemporaryDirectory() as scratch:
        if config.compact or "saved_model" not in formats:
            before = export_saved_model(whole, Path(scratch) / "before", names, metadata)
            add("before: SavedModel", "saved_model", SavedModelArtefact(before), False, False)
        if "saved_model" in formats:
            made = SavedModelArtefact(target)
            add("SavedModel", "saved_model", made, True, config.compact)
        for one in wanted:
            file = TFLiteArtefact(target / one.file, cores(), config.verbose)
            add(one.label, one.name, file, True, config.compact)
        results = measured(found, whole.input_shape[1:], images, config, announce)
        document = Exported(
            format=1,
            kind="export",
            package_version=tf_lottery.__version__,
            command=list(command),
            model=loaded.what,
            machine=Machine(**machine()),
            compaction=cut,
            **msgspec.structs.asdict(results),
        )
    write_document(target / EXPORT, document)
    return document


def _cut(whole: keras.Model, compaction: Compaction | None) -> exported.Compaction | None:
    """What was cut out, for the record."""
    if compaction is None:
        return None
    before, after = (sum(forward_flops(each).values()) for each in (whole, compaction.network))
    return exported.Compaction(
        removed=compaction.removed,
        channels=sum(before for before, _ in compaction.widths.values()),
        flops=(before, after),
        kept={
            layer: compaction.kept[layer][1].tolist()
            for layer, (before, after) in compaction.widths.items()
            if after < before
        },
    )


def representative_images(data: ImageData, seed: int) -> np.ndarray:
    """float32 (n, h, w, c) in [0, 1]: up to 200 training images, drawn by the seed."""
    random = np.random.default_rng(derive_seed(seed, "export", "representative"))
    count = min(REPRESENTATIVE, len(data.train_images))
    return unit_pixels(data.train_images[random.permutation(len(data.train_images))[:count]])


# Measuring ---------------------------------------------------------------------------


class Measurable(NamedTuple):
    """A file to measure; for ``file`` and ``compacted`` see ``report.exported.File``."""

    label: str
    format: str
    artefact: Artefact
    file: str | None = None
    compacted: bool = False


def measured(
    files: Sequence[Measurable],
    shape: Sequence[int],
    images: Images,
    config: ExportConfig,
    announce: Callable[[str], None] = lambda line: None,
) -> Measured:
    """What ``export.json`` says about files, in their order.

    Args:
      files: with distinct labels. Among them a SavedModel, on whose last one the TFLite files'
        adversarial examples are made.
      shape: (height, width, channels) of an image.
      images: to measure accuracy on.
      config: attack and seed.
      announce: told of each step.
    """
    announce("timing, all files in turns")
    latency, rounds = _timed(files, shape)
    accuracy, judged = None, {}
    if images.data is not None and not images.missing:
        data = images.data
        with full_float32():
            judged = _judged(files, data, config, announce)
        accuracy = Accuracy(
            dataset=data.name,
            digest=data.digest,
            examples=len(data.test_labels),
            attack=config.attack,
        )
    rows = []
    for one in files:
        counts, sizes = one.artefact.counts(), one.artefact.sizes()
        rows.append(
            File(
                label=one.label,
                format=one.format,
                file=one.file,
                compacted=one.compacted,
                weights=counts[0],
                nonzero_weights=counts[1],
                bytes=sizes[0],
                gzip_bytes=sizes[1],
                latency_ms=latency[one.label],
                **judged.get(one.label, {}),
            )
        )
    timing = Timing(batches=list(BATCHES), rounds=rounds, threads=cores())
    missing = images.missing or None
    return Measured(rows=rows, timing=timing, accuracy=accuracy, not_measured=missing)


def _timed(
    files: Sequence[Measurable], shape: Sequence[int]
) -> tuple[dict[str, dict[str, Latency]], int]:
    """``latency_ms`` by label, and how often each was run."""
    random = np.random.default_rng(0)
    calls = {}
    for batch in BATCHES:
        given = random.random((batch, *shape), np.float32)
        for one in files:
            run = one.artefact.runner(batch)
            calls[one.label, batch] = lambda run=run, given=given: run(given)
    found = interleaved(calls)
    latency: dict[str, dict[str, Latency]] = {one.label: {} for one in files}
    for (label, batch), seconds in found.items():
        latency[label][str(batch)] = Latency(
            median=1000 * seconds.median, low=1000 * seconds.low, high=1000 * seconds.high
        )
    return latency, next(iter(found.values())).rounds


def _judged(
    files: Sequence[Measurable],
    data: ImageData,
    config: ExportConfig,
    announce: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """``natural``, ``robust`` and ``crafted_on`` by label."""
    x, y = data.test_images, data.test_labels
    crafted: dict[str, np.ndarray] = {}
    for one in files:
        if one.format == "saved_model":
            announce(f"{config.attack.name} on {one.label}, {len(y):,} images")
            assert isinstance(one.artefact, SavedModelArtefact)
            crafted[one.label] = _crafted(one.artefact, x, y, config)
    # A TFLite file has no gradient: it gets what was crafted on its float twin.
    twin = list(crafted)[-1]
    found = {}
    for one in files:
        seen = one.label if one.label in crafted else twin
        clean = predictions(one.artefact, x)
        lost = float((clean < 0).mean())
        if lost:
            announce(
                f"warning: {one.label} gives NaN for {lost:.1%} of the test images: do not use "
                "it; among TensorFlow Lite's sparse formats float32 and int8 do not"
            )
        right = clean == y
        survived = right & (predictions(one.artefact, crafted[seen]) == y)
        found[one.label] = {
            "natural": float(right.mean()),
            "robust": float(survived.mean()),
            "crafted_on": seen,
        }
    return found


def _crafted(
    artefact: SavedModelArtefact, x: np.ndarray, y: np.ndarray, config: ExportConfig
) -> np.ndarray:
    """float32 (n, h, w, c): adversarial examples of a SavedModel."""
    attack = make_attack(config.attack)
    run = tf.function(
        lambda images, labels, seeds: attack(artefact.model.logits, images, labels, seeds),
        input_signature=[
            tf.TensorSpec([None, *x.shape[1:]], tf.float32),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None, 2], tf.int32),
        ],
    )
    found = []
    # Seeds by position, as in every evaluation: the same examples, the same verdicts.
    for rows, size in packed(len(y), 250):
        index = np.minimum(np.arange(rows.start, rows.start + size), rows.stop - 1)
        seeds = np.stack([np.full(size, config.seed), index], axis=1).astype(np.int32)
        attacked = run(unit_pixels(x[index]), y[index].astype(np.int32), seeds)
        found.append(attacked.numpy()[: rows.stop - rows.start])
    return np.concatenate(found)
