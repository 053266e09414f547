"""The errors a user may meet, each one line long.

Every message says what was wrong, what was given and what it may be, so that
the command line can print it as it stands (without ``-v`` no traceback).
"""

from collections.abc import Iterable


class LotteryError(Exception):
    """Base of all expected failures; the command line exits with ``exit_code``."""

    exit_code = 1


class UsageError(LotteryError):
    """A flag or argument that cannot be used (exit code 2).

    Attributes:
      flag: name of the offending flag without dashes, or ``""``.
    """

    exit_code = 2

    def __init__(self, message: str, flag: str = ""):
        super().__init__(message)
        self.flag = flag

    @classmethod
    def bad_value(cls, flag: str, got: object, allowed: str) -> "UsageError":
        """``--flag=got``: must be ``allowed``."""
        return cls(f"--{flag}: got {got!r}, must be {allowed}", flag)

    @classmethod
    def unknown(cls, flag: str, got: object, choices: Iterable[str]) -> "UsageError":
        """``got`` is not one of ``choices``."""
        return cls(f"--{flag}: unknown value {got!r}, may be one of {', '.join(choices)}", flag)


class DataError(LotteryError):
    """A data set that cannot be had or read."""


class TicketError(LotteryError):
    """A ticket that is damaged, too new, or made for another network."""


class StoreError(LotteryError):
    """A store or work directory that cannot be used."""


class DeadLayerError(LotteryError):
    """A layer that pruning would leave without a single weight."""


class PrecisionError(LotteryError):
    """A half-precision network whose training attack has lost its input gradients."""


class NonFiniteError(LotteryError):
    """A loss, gradient or weight that is not finite or too large; names stage, epoch, step."""


class CollapseError(LotteryError):
    """FGSM training that has become robust to FGSM alone; names stage and epoch."""


class LostWorkerError(LotteryError):
    """Another process of a training on several machines that ended or cannot be reached."""


class FrozenError(LotteryError):
    """What attacks differentiate in a network's place is another function; names the layer."""
