"""The Python names of the package: find a ticket, train it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tf_lottery import weights
from tf_lottery.data.own import hold
from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.store import Store
from tf_lottery.lottery.graph import make_entry
from tf_lottery.lottery.precision import with_measured_policy
from tf_lottery.lottery.work import Workshop
from tf_lottery.options.settings import LotteryConfig
from tf_lottery.tickets import Ticket

_log = logging.getLogger(__name__)


def find_ticket(
    config: LotteryConfig, store: str | Path | None = None, *, data: Any = None
) -> Ticket:
    """Searches the boosting ticket of a config.

    Args:
      config: see ``tf_lottery.lottery_config``.
      store: directory of finished stages to use and extend; ``None`` forgets them.
      data: images of your own in the place of ``config.data.name``: ``(x_train, y_train, x_test,
        y_test)``, uint8 or float in [0, 1], labels integers or strings; two ``tf.data.Dataset``
        of (image, label); or what ``--dataset`` takes. They are read into memory.

    Returns:
      The ticket, with its provenance in ``found``.

    Raises:
      LotteryError: see ``tf_lottery.errors``.
    """
    config = _with_data(config, data)
    with _store(store) as kept:
        workshop = Workshop(kept)
        workshop.check(config)
        stage = make_entry(with_measured_policy(config, workshop, _log.info), "boosting").ticket
        assert stage is not None  # only the dense network has none
        run_stages([stage], workshop)
        return Ticket.load(kept.file(stage, "ticket"))


@dataclass(frozen=True)
class TrainedTicket:
    """What retraining a ticket gave.

    Attributes:
      network: bare ``tf_keras`` model with the best epoch's weights; of a ticket of channels
        the small one.
      history: rows as in ``training.callbacks.History``.
    """

    network: object
    history: list[dict]


def train_ticket(
    ticket: Ticket,
    config: LotteryConfig,
    store: str | Path | None = None,
    *,
    data: Any = None,
) -> TrainedTicket:
    """Retrains a ticket under ``settings.ticket_train``.

    Args:
      ticket: of ``settings.model`` and a data set of the same shape.
      config: data, schedule, seed.
      store, data: as of ``find_ticket``.

    Raises:
      TicketError: the ticket is for another network.
      LotteryError: see ``tf_lottery.errors``.
    """
    config = _with_data(config, data)
    with _store(store) as kept:
        workshop = Workshop(kept)
        workshop.check(config, ticket)
        config = with_measured_policy(config, workshop, _log.info)
        entry = make_entry(config, "boosting", ticket)
        run_stages([entry.train], workshop)
        network = workshop.spec(config, entry.train).build(ticket.init_seed)
        weights.set_weights(network, weights.read_arrays(kept.file(entry.train, "best.npz")))
        return TrainedTicket(network, workshop.history(entry.train))


def _with_data(config: LotteryConfig, data: Any) -> LotteryConfig:
    if data is None:
        return config
    return dataclasses.replace(config, data=dataclasses.replace(config.data, name=hold(data)))


@contextlib.contextmanager
def _store(path: str | Path | None) -> Iterator[Store]:
    """The store at ``path``, or one that is removed afterwards."""
    if path is not None:
        yield Store(path)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            yield Store(temporary)
