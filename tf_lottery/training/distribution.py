"""Training one network on several devices, of one machine or of several.

``tf.distribute`` owns the mechanism: variables with a copy a device (a *replica*), and
sums over them. This module says how a training here uses it:

- Each batch is cut into equal parts, one a replica, in the order of one device.
- A plain network, without strategy, is the truth at both ends of each epoch's training:
  it is what is placed on the devices, and what the trained weights are collected into.
  So whatever looks at a network (files, checkpoints, logs) knows nothing of devices, and
  a run may go on with another number of them.
- Of several processes the first is the *chief*. It alone reads and writes stores and
  checkpoints; the others have no files and get weights and words from it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tf_lottery import weights
from tf_lottery.errors import LostWorkerError, UsageError
from tf_lottery.keras import keras, tf
from tf_lottery.options.settings import TrainConfig
from tf_lottery.pruning.masks import MaskedNetwork, wrap
from tf_lottery.training.batch_norm import SynchronizedBatchNorm

_WORDS = 1024  # numbers in one message between processes
_BLOCK = 2**22  # numbers in one message of weights, 16 MiB


class Distribution:
    """Where networks are trained.

    Args:
      strategy: of ``tf.distribute``; ``None``: this process, one device.
      worker: number of this process; 0 is the chief.
      workers: number of processes.

    Attributes:
      replicas: devices that share a batch, of all processes.
      chief: this process writes what a training leaves.
    """

    def __init__(self, strategy: Any = None, worker: int = 0, workers: int = 1):
        self._strategy = strategy
        self._workers = workers
        self.worker = worker
        self.replicas: int = 1 if strategy is None else strategy.num_replicas_in_sync
        self.chief = worker == 0
        self._followed = False  # the other processes wait to be told something

    # --- networks and batches ---------------------------------------------------------

    def check(self, config: TrainConfig) -> None:
        """Raises ``UsageError`` for a training that these devices cannot share."""
        self.data_on_device(config.data_on_device)
        if config.batch_size % self.replicas:
            raise UsageError.bad_value(
                "batch_size",
                config.batch_size,
                f"a multiple of {self.replicas}, the number of devices that share a batch",
            )
        if config.jit_compile and self.replicas > 1 and self._has_cpu():
            raise UsageError(
                "--jit_compile: XLA cannot compile a step that several CPU devices share; leave "
                "it out",
                "jit_compile",
            )
        if config.batch_norm_groups not in (1, self.replicas):
            raise UsageError.bad_value(
                "devices",
                config.batch_norm_groups,
                f"{self.replicas}, the number of devices there are, with --nosync_batch_norm",
            )
        if config.sparsity_update is not None and self._strategy is not None:
            raise UsageError.bad_value(
                "sparsity_update", config.sparsity_update.name, "none with --distribute"
            )
        for phase in config.parts if self.replicas > 1 else ():
            objective = phase.objective
            if objective.awp_gamma:
                raise UsageError.bad_value("awp_gamma", objective.awp_gamma, "0 on several devices")
            if not objective.shared_by_devices:
                allowed = "one that looks at each image alone, on several devices"
                raise UsageError.bad_value("objective", objective.name, allowed)
        for flag, others in (("on_nan", "stop"), ("on_overfit", "warn or stop")):
            if self._workers > 1 and getattr(config, flag) == "rollback":
                # Only the chief reads checkpoints and knows of the collapse.
                raise UsageError.bad_value(
                    flag, "rollback", f"{others} when several processes train together"
                )

    def _has_cpu(self) -> bool:
        return any("CPU" in device for device in self._strategy.extended.worker_devices)

    def scope(self) -> contextlib.AbstractContextManager:
        """Where models, optimizers and metrics of a training are made."""
        return contextlib.nullcontext() if self._strategy is None else self._strategy.scope()

    def place(self, masked: MaskedNetwork, batch_norm_groups: int = 1) -> MaskedNetwork:
        """A copy of a network and its masks on the devices; ``masked`` itself for one.

        Args:
          masked: made outside of ``scope``. In all processes it gets the chief's values.
          batch_norm_groups: 1: BatchNorm statistics are of the whole batch; else each
            replica has those of its own part.
        """
        if self._strategy is None:
            return masked
        self.share([*masked.wrapped.variables, *masked.filters.values()])
        synchronize = batch_norm_groups == 1 < self.replicas
        with self.scope():
            placed = wrap(masked.network, SynchronizedBatchNorm if synchronize else None)
            if not masked.is_dense():
                filters = {key: factor.numpy() for key, factor in masked.filters.items()}
                placed.set_masks(masked.get_masks(), filters)
        return placed

    def resume(self, masked: MaskedNetwork, placed: MaskedNetwork, optimizer: Any) -> None:
        """Brings the weights and optimizer that the chief has restored to all devices."""
        if self._strategy is None:
            return
        self.share([*masked.wrapped.variables, *optimizer.variables])
        weights.set_weights(placed.network, weights.get_weights(masked.network))

    def twin(self, network: keras.Model) -> keras.Model:
        """A copy of a bare network for inference on the devices."""
        if self._strategy is None:
            return network
        with self.scope():
            return keras.models.clone_model(network)

    def batches(self, make: Callable[..., tf.data.Dataset]) -> Any:
        """The batches of a pipeline, each part on its replica.

        Args:
          make: called with ``parts`` and ``mine``, as of ``data.training_batches``.
        """
        if self._strategy is None:
            return make(parts=1, mine=range(1))

        def of_this_process(context):
            local = self.replicas // context.num_input_pipelines
            first = context.input_pipeline_id * local
            return make(parts=self.replicas, mine=range(first, first + local))

        return self._strategy.distribute_datasets_from_function(of_this_process)

    def data_on_device(self, choice: str) -> str:
        """``choice``, one of ``settings.DATA_ON_DEVICE``; several devices are fed by the host.

        Raises:
          UsageError: it is ``on``, and there is a strategy.
        """
        if self._strategy is None:
            return choice
        if choice == "on":
            raise UsageError.bad_value(
                "data_on_device", choice, "auto or off together with --distribute"
            )
        return "off"

    # --- between processes ------------------------------------------------------------

    def tell(self, message: Any = None) -> Any:
        """The chief's message, in every process; all have to call it.

        Args:
          message: JSON; the chief's counts.

        Raises:
          LostWorkerError: a process is gone.
        """
        if self._workers == 1:
            return message
        content = json.dumps(message).encode() if self.chief else b""
        size = int(self._sum(np.array([len(content)], np.float32), _WORDS)[0])
        numbers = np.zeros(size, np.float32)
        numbers[: len(content)] = np.frombuffer(content, np.uint8)
        return json.loads(self._sum(numbers, _WORDS).astype(np.uint8).tobytes())

    def agree_on(self, what: str, value: str) -> None:
        """Makes sure that all processes have the same value; all have to call it.

        Raises:
          UsageError: in every process, if one of them has another than the chief.
          LostWorkerError: a process is gone.
        """
        if self._workers == 1:
            return
        votes = np.zeros(self._workers, np.float32)
        votes[self.worker] = value != self.tell(value)
        odd = np.flatnonzero(self._sum(votes, _WORDS))
        if len(odd):
            raise UsageError(
                f"--distribute=multiworker: {what} of worker {', '.join(map(str, odd))} differs "
                "from that of worker 0; start every worker with the same command, package and data",
                "distribute",
            )

    def share(self, variables: Sequence[Any]) -> None:
        """Gives variables their values in the chief; all processes have to call it.

        Raises:
          LostWorkerError: a process is gone.
        """
        if self._workers == 1:
            return
        values = [variable.numpy() for variable in variables]
        floats = [i for i, value in enumerate(values) if value.dtype == np.float32]
        flat = np.concatenate([values[i].ravel() for i in floats])
        flat = self._sum(flat if self.chief else np.zeros_like(flat), _BLOCK)
        position = 0
        for i in floats:
            size = values[i].size
            variables[i].assign(flat[position : position + size].reshape(values[i].shape))
            position += size
        others = [i for i in range(len(values)) if i not in floats]  # counters
        told = self.tell([values[i].tolist() for i in others])
        for i, value in zip(others, told, strict=True):
            variables[i].assign(value)

    def _sum(self, values: np.ndarray, block: int) -> np.ndarray:
        """The sum of float32 vectors of one length over all processes."""
        # A process speaks once, by its first replica.
        mouth = self.worker * self.replicas // self._workers
        result = np.empty_like(values)
        for first in range(0, len(values), block):
            part = values[first : first + block]
            # One shape for all messages, which are then traced once. Float32 is what
            # every device can sum; whole numbers below 2**24 stay exact.
            said = np.zeros((self.replicas, block), np.float32)
            said[mouth, : len(part)] = part
            each = self._strategy.experimental_distribute_values_from_function(
                lambda context, said=said: tf.constant(said[context.replica_id_in_sync_group])
            )
            with self.failures():
                total = self._strategy.reduce("SUM", each, axis=None).numpy()
            result[first : first + block] = total[: len(part)]
        return result

    # --- ends -------------------------------------------------------------------------

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """Turns what TensorFlow raises when another process is gone into one line."""
        try:
            yield
        except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
            if self._workers == 1:
                raise
            self._followed = False  # nobody is left to be told
            raise LostWorkerError(
                f"worker {self.worker} of {self._workers}: another worker ended or cannot be "
                "reached; start all workers again, the same command goes on after the last "
                "finished epoch"
            ) from error

    @contextlib.contextmanager
    def calling(self, message: Any) -> Iterator[None]:
        """The chief's part of work that the other processes do with it.

        Args:
          message: tells them what it is.
        """
        self.tell(message)
        self._followed = False
        yield
        self._followed = True

    @contextlib.contextmanager
    def leading(self) -> Iterator[None]:
        """The chief's work, all of it; however it ends, the others hear of it and end too."""
        self._followed = True
        try:
            yield
        except BaseException as error:
            # In the midst of a training they do not listen, but notice.
            if self._followed:
                with contextlib.suppress(LostWorkerError):
                    self.tell({"failed": str(error) or type(error).__name__})
            raise
        self.tell({"end": True})
