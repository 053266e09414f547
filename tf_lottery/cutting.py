"""The network that a ticket is trained as: with masks alone, or cut down to its channels.

A ticket of channels has masks like any other, at full size; whole filters are gone from them,
and with them what would read these. Its network is cut before it is trained, so that training,
validation, attacks and exports pay for what is left alone. The function is the masked network's
at every step of the training, but for rounding.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tf_lottery.compaction import Compaction, compact_for_training
from tf_lottery.models.spec import NetworkSpec
from tf_lottery.pruning.masks import MaskedNetwork, wrap
from tf_lottery.tickets import Ticket


def cut(masked: MaskedNetwork) -> tuple[MaskedNetwork, Compaction]:
    """Cuts channels out of a masked network that its training would never use.

    Those are the filters and units that no logit reads through the masks, and those that stay
    zero because they have no weight left and the BatchNorm behind them is held at zero. The
    masks alone decide, so whatever training makes of the weights, what is left takes the same
    steps as in the whole network, but for rounding. (In the whole network weight decay goes on
    shrinking weights of the channels cut out, without effect on a logit.)

    Args:
      masked: starting weights and masks, as ``Ticket.network`` gives; it is left as it is.

    Returns:
      The smaller masked network, and which channels it keeps: ``Compaction.embed`` puts its
      weights back into the shapes of the whole one.
    """
    masks = masked.get_masks()
    compaction = compact_for_training(masked.network, masks, _held(masked))
    small = wrap(compaction.network)
    cut_masks = compaction.cut({f"{name}/kernel": mask for name, mask in masks.items()})
    # A filter that had weights on channels cut out alone has none here. In the whole network
    # its BatchNorm is trained, so it is not held at zero in this one either.
    filters = {
        (layer, part): masked.filters[layer, part].numpy()[compaction.kept[layer][0]]
        for layer, part in small.filters
    }
    small.set_masks({name: cut_masks[f"{name}/kernel"] for name in masks}, filters)
    return small, compaction


def _held(masked: MaskedNetwork) -> dict[str, np.ndarray]:
    """BatchNorm layer -> bool (channels,), where scale and shift are both held at zero."""
    held: dict[str, dict[str, np.ndarray]] = {}
    for (layer, part), factor in masked.filters.items():
        held.setdefault(layer, {})[part] = factor.numpy() == 0
    # A BatchNorm with a scale or a shift alone is never all zero.
    return {
        layer: parts["gamma"] & parts["beta"]
        for layer, parts in held.items()
        if set(parts) == {"gamma", "beta"}
    }


def trained_network(
    ticket: Ticket, dtype_policy: str = "float32"
) -> tuple[MaskedNetwork, Compaction | None]:
    """The masked network that a ticket is trained as, rewound, and what was cut out for it.

    Raises:
      TicketError: as ``Ticket.network``.
    """
    masked = ticket.network(dtype_policy)
    return cut(masked) if ticket.structure == "channels" else (masked, None)


def trained_spec(ticket: Ticket) -> NetworkSpec:
    """The network of ``trained_network``, in words.

    Raises:
      TicketError: as ``Ticket.network``.
    """
    _, compaction = trained_network(ticket)
    if compaction is None:
        return ticket.spec
    fewer = {name: after for name, (before, after) in compaction.widths.items() if after < before}
    return dataclasses.replace(ticket.spec, widths=tuple(fewer.items()))
