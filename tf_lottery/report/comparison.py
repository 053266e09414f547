"""What a comparison of kinds asks, and what it draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tf_lottery.report.asked import About, Claim, Figure

DENSE, TWIN, BOOSTING = "dense", "dense_twin", "boosting"
# What the boosting ticket is held against: the same mask on other weights, as many weights.
CONTROLS = ("reinit", "random_mask")
MARGIN = 0.005  # as robust: at most half a point below
PHRASES = {
    "dense": "the dense network",
    "dense_twin": "the dense network trained as the tickets are",
    "boosting": "the boosting ticket",
    "winning": "the winning ticket",
    "reinit": "the same mask re-initialised",
    "random_mask": "a random mask of the same density",
    "early": "the early-bird ticket",
    "snip": "the SNIP ticket",
    "grasp": "the GraSP ticket",
    "synflow": "the SynFlow ticket",
    "random": "the random ticket",
    "flying_bird": "the network of Flying Bird",
}
ABOUT = About("comparison", "", "Comparison")
FIGURES = (
    Figure("accuracy_per_epoch", "epochs", "Accuracy per epoch",
           ("validation_natural", "validation_robust")),
    Figure("accuracy_per_second", "seconds", "The same against time",
           ("validation_natural", "validation_robust"), "seconds of search and training"),
    Figure("test_accuracy", "accuracy", "Test accuracy"),
    Figure("cost", "cost", "Cost of a model"),
    Figure("layer_density", "layers", "Weights kept in each layer"),
    Figure("adversarial_examples", "pictures", "Adversarial examples"),
)  # fmt: skip


def claims(kinds: Sequence[str], attacks: bool) -> list[Claim]:
    """What can be asked of the kinds that are compared, each as the ticket would like it.

    Args:
      kinds: names of the arms, which are their kinds.
      attacks: whether the networks are attacked; else clean images are all there is.
    """
    return list(_claims(kinds, attacks))


def tickets(kinds: Sequence[str]) -> list[str]:
    """The kinds that are tickets: neither dense nor a control."""
    return [kind for kind in kinds if kind not in (DENSE, TWIN, *CONTROLS)]


def phrase(kind: str) -> str:
    """``the boosting ticket``; of a kind from elsewhere its name."""
    return PHRASES.get(kind, kind)


def _claims(kinds: Sequence[str], attacks: bool) -> Iterator[Claim]:
    robust = "more robust" if attacks else "higher"
    pairs = [
        (ticket, other)
        for ticket in tickets(kinds)
        for other in (
            DENSE,
            TWIN,
            *(("reinit", "random_mask", "winning") if ticket == BOOSTING else ()),
        )
        if other in kinds
    ]
    for ticket, other in pairs:
        if other != "random_mask":
            yield Claim(f"first_{ticket}_{other}", f"after epoch 1 {phrase(ticket)} is ahead of "
                        f"{phrase(other)}", ticket, other, "validation@1", "more")  # fmt: skip
    for ticket, other in pairs:
        yield Claim(f"last_{ticket}_{other}", f"{phrase(ticket)} ends {robust} than "
                    f"{phrase(other)}", ticket, other, "test@last", "more")  # fmt: skip
        # The last epoch shows what robust overfitting leaves; the best one was chosen on
        # validation images.
        yield Claim(f"best_{ticket}_{other}", f"at its best validation epoch {phrase(ticket)} "
                    f"is {robust} than {phrase(other)} at its own", ticket, other, "test@best",
                    "more")  # fmt: skip
        if other == DENSE and attacks:
            yield Claim(f"natural_{ticket}", f"{phrase(ticket)} ends more accurate on clean "
                        f"images than {phrase(other)}", ticket, other, "test_natural@last",
                        "more")  # fmt: skip
    if DENSE not in kinds:
        return
    if TWIN in kinds:
        yield Claim("last_dense_twin_dense", f"{phrase(TWIN)} ends no more than half a point less "
                    f"robust than {phrase(DENSE)}", TWIN, DENSE, "test@last", "not_less",
                    margin=MARGIN)  # fmt: skip
    for kind in kinds:
        if kind != DENSE:
            yield Claim(f"reach_{kind}", f"{phrase(kind)}, search included, takes fewer FLOPs to "
                        "the dense network's best validation accuracy than that took itself",
                        kind, None, "run:flops_to_dense_over_dense", "less", value=1.0)  # fmt: skip
    if TWIN in kinds:
        yield Claim("cost_dense_twin", f"training {phrase(TWIN)} takes fewer FLOPs than the dense "
                    "training", TWIN, None, "run:total_flops_over_dense", "less",
                    value=1.0)  # fmt: skip
    for ticket in tickets(kinds):
        yield Claim(f"cost_{ticket}", f"search and training of {phrase(ticket)} take fewer FLOPs "
                    "than the dense training", ticket, None, "run:total_flops_over_dense", "less",
                    value=1.0)  # fmt: skip
