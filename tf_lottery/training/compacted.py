"""A ticket made smaller before it is retrained: the same training with fewer operations."""

from __future__ import annotations

from tf_lottery import weights
from tf_lottery.compaction import Compaction, compact_for_training
from tf_lottery.pruning.masks import MaskedNetwork, wrap


def compact_masked(masked: MaskedNetwork) -> tuple[MaskedNetwork, Compaction]:
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

    Example:
      >>> from tf_lottery import build_model
      >>> whole = wrap(build_model("convnet", (8, 8, 1), 10, seed=0))
      >>> masks = whole.get_masks()
      >>> masks["conv1"][..., :20] = False
      >>> whole.set_masks(masks)
      >>> small, compaction = compact_masked(whole)
      >>> small.kernels["conv1"].shape[-1], compaction.removed
      (12, 20)
    """
    masks = masked.get_masks()
    held: dict = {}
    for (layer, part), factor in masked.filters.items():
        held.setdefault(layer, {})[part] = factor.numpy() == 0
    # A BatchNorm with a scale or a shift alone is never all zero.
    both = {
        layer: parts["gamma"] & parts["beta"]
        for layer, parts in held.items()
        if set(parts) == {"gamma", "beta"}
    }
    compaction = compact_for_training(masked.network, masks, both)
    small = wrap(compaction.network)
    cut = compaction.cut({f"{name}/kernel": mask for name, mask in masks.items()})
    small.set_masks({name: cut[f"{name}/kernel"] for name in masks})
    # A filter that had weights on channels cut out alone has none here. In the whole network
    # its BatchNorm is trained, so it is not held at zero in this one either.
    for (layer, part), factor in small.filters.items():
        (kept,) = compaction.kept[layer]
        factor.assign(masked.filters[layer, part].numpy()[kept])
    weights.set_weights(small.network, weights.get_weights(compaction.network))
    return small, compaction
