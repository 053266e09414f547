"""Settings of the devices that share the batches of a training."""

from __future__ import annotations

from dataclasses import dataclass

from tf_lottery.errors import UsageError
from tf_lottery.options.checks import at_least
from tf_lottery.options.option import Options, option

DEVICES = "Many devices (docs/distributed.md)"


@dataclass(frozen=True)
class DeviceOptions(Options, topic=DEVICES):
    """Of the devices that share a batch: they are part of a result with a BatchNorm of each."""

    devices: int = option(
        0,
        "How many devices, of all machines together; 0: all. Mirrored without a GPU: so many "
        "devices are made of the CPU.",
        at_least(0),
    )
    sync_batch_norm: bool = option(
        True,
        "BatchNorm statistics over the whole batch, so that results do not depend on the "
        "devices. Off: over each device's part; --devices is then part of the result.",
    )

    @property
    def batch_norm_groups(self) -> int:
        """Of ``TrainConfig``; ``UsageError`` where it is not known."""
        if not self.devices and not self.sync_batch_norm:
            allowed = "how many there are, with --nosync_batch_norm"
            raise UsageError.bad_value("devices", self.devices, allowed)
        return 1 if self.sync_batch_norm else self.devices
