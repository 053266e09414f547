"""What a boosting ticket depends on: Fig. 4, 5, 6 and 10."""

from __future__ import annotations

from tf_lottery.report.asked import Claim, Figure
from tf_lottery.studies.definition import (
    Arm,
    Base,
    Experiment,
    Sweep,
    at_epoch,
    number,
    of_epochs,
)
from tf_lottery.studies.paper.scale import CIFAR10, CURVES, EPOCHS, NATURAL_TRAINING


def _fig4_reference(base: Base, rate: float, epochs: float) -> str | None:
    """The authors' run, where its schedule is the one we train with."""
    if base.model == "resnet18":
        name = {0.005: "0.005", 0.01: "0.01", 0.05: "0.05", 0.1: "0.1"}.get(rate)
        share = round(100 * epochs / base.epochs)
        return name and f"learning_rate/r{name}/init_enhance{share}_m{name}_warmup0.1"
    # The run at 0.005 warmed up from 0.05, the others from 0.01.
    name = {0.01: "001", 0.05: "005", 0.1: "01"}.get(rate)
    return f"boost/vgg16/{name}_warmup" if name and epochs == base.epochs else None


def _fig4_arms(base: Base) -> list[Arm]:
    return [
        Arm(
            f"rate {number(rate)}, {of_epochs(epochs)}",
            "boosting",
            {"search_learning_rate": rate, "ticket_epochs": epochs},
            f"search rate {number(rate)}",
            epochs,
            _fig4_reference(base, rate, epochs) if base.model in CURVES else None,
        )
        for rate in base.sweeps["sweep_rates"]
        for epochs in base.sweeps["sweep_epochs"]
    ]


def _fig4_claims(base: Base) -> list[Claim]:
    low = min(base.sweeps["sweep_rates"], key=lambda rate: abs(rate - base.search_rate))
    high = base.sweeps["sweep_rates"][-1]
    short = base.sweeps["sweep_epochs"][0]
    if low == high:
        return []
    ours, theirs = (f"rate {number(rate)}, {of_epochs(short)}" for rate in (low, high))
    return [
        Claim("first", f"a search at rate {number(low)} gives a faster ticket than one at "
              f"{number(high)} (after epoch 1)", ours, theirs, "validation_natural@1", "more",
              "79.7 at rate 0.01 against 56.4 at 0.1 (VGG-16)"),
        Claim("short", f"retrained for {of_epochs(short)} it ends higher", ours, theirs,
              "test_natural@last", "more", "91.3 against 88.1 (VGG-16, 20 epochs; Table 1)"),
    ]  # fmt: skip


FIG4 = Experiment(
    "fig4",
    "Fig. 4",
    "The learning rate of the search",
    "Which learning rate of the search gives the ticket that trains fastest?",
    "The boost depends on the search's learning rate: small ones give boosting tickets, the large "
    "one of dense training does not.",
    _fig4_arms,
    _fig4_claims,
    (
        Figure("test_accuracy", "sweep", "Natural test accuracy, last epoch",
                   ("test_natural@last",), "epochs of retraining"),
        Figure("after_1", "sweep", "Natural validation accuracy after epoch 1",
                   at_epoch(1), "epochs of retraining"),
    ),
    CIFAR10,
    sets=("search_learning_rate", "ticket_epochs"),
    sweeps=(Sweep("sweep_rates", (0.005, 0.01, 0.05, 0.1), low=1e-6), EPOCHS),
    fixed=NATURAL_TRAINING,
    sweep_label="epochs of retraining",
)  # fmt: skip


_RATIOS = (0.0, 0.18, 0.32, 0.45, 0.56, 0.65, 0.73, 0.80, 0.87, 0.92, 0.98)


def _fig5_arms(base: Base) -> list[Arm]:
    rate = {"vgg": "0.01", "resnet18": "0.05"}.get(base.model)
    arms = []
    for kind, prefix in (("boosting", "init"), ("reinit", "seed9")):
        for sparsity in base.sweeps["sweep_sparsity"]:
            percent = 100 * sparsity
            run = f"pruning_ratio/{percent:.0f}/{prefix}_enhance_m{rate}_warmup0.1"
            known = rate and any(abs(sparsity - ratio) < 1e-9 for ratio in _RATIOS)
            if base.model == "resnet18" and not sparsity:
                known = False  # that run had no warm-up
            arms.append(
                Arm(
                    f"{kind}, {percent:.4g} %",
                    kind,
                    {"sparsity": sparsity},
                    kind,
                    round(percent, 4),
                    run if known else None,
                )
            )
    return arms


def _fig5_claims(base: Base) -> list[Claim]:
    ratios = base.sweeps["sweep_sparsity"]
    paper = min(ratios, key=lambda ratio: abs(ratio - 0.8))
    name = f"{100 * paper:.4g} %"
    claims = [
        Claim("reinit", f"at {name} boosting beats re-initialised after epoch 1",
              f"boosting, {name}", f"reinit, {name}", "validation_natural@1", "more",
              "79.7 against 57.0 at 80 % (VGG-16)"),
    ]  # fmt: skip
    low, high = (f"{100 * ratio:.4g} %" for ratio in (ratios[0], ratios[-1]))
    if ratios[0] < paper:
        claims.append(
            Claim("dense", f"after epoch 1 a ticket of {name} is ahead of one of {low}",
                  f"boosting, {name}", f"boosting, {low}", "validation_natural@1", "more",
                  "79.7 at 80 % against 51.7 unpruned (VGG-16)")
        )  # fmt: skip
    if ratios[-1] > paper:
        claims.append(
            Claim("sparse", f"after epoch 1 a ticket of {name} is ahead of one of {high}",
                  f"boosting, {name}", f"boosting, {high}", "validation_natural@1", "more",
                  "60 to 90 % are best, 98 % falls off")
        )  # fmt: skip
    return claims


FIG5 = Experiment(
    "fig5",
    "Fig. 5",
    "The pruning ratio",
    "How much has to be pruned for a ticket to train fast?",
    "Tickets of 60 to 90 % train fastest; the same masks on fresh weights do not.",
    _fig5_arms,
    _fig5_claims,
    (
        Figure("after_1_and_5", "sweep", "Natural validation accuracy",
                   at_epoch(1, 5), "weights removed (%)"),
    ),
    CIFAR10,
    sets=("sparsity",),
    sweeps=(Sweep("sweep_sparsity", _RATIOS, low=0, high=0.999),),
    fixed=NATURAL_TRAINING,
    sweep_label="weights removed (%)",
)  # fmt: skip


# Depth and width of the authors' WideResNets: those that have curves.
_FIG6_SHAPES = {(34, width) for width in (1, 2, 5, 8, 10)}
_FIG6_SHAPES |= {(depth, 10) for depth in (10, 16, 22, 28, 34)}


def _fig6_arms(base: Base) -> list[Arm]:
    """Width is swept at the greatest depth, depth at the greatest width."""
    widths, depths = base.sweeps["sweep_widths"], base.sweeps["sweep_depths"]
    shapes = [(depths[-1], width, "width", width) for width in widths]
    shapes += [(depth, widths[-1], "depth", depth) for depth in depths]
    fixed_rate = base.options["learning_rate"] == 0.01
    folder = "wideresnet_0.01" if fixed_rate else "wideresnet_0.05wamupto0.1"
    suffix = "m0.05_0.01" if fixed_rate else "m0.05_warmup0.1"
    arms = []
    for kind, prefix in (("boosting", "init"), ("reinit", "seed9")):
        for depth, width, what, x in shapes:
            shape = f"{number(depth)}_{number(width)}"
            run = f"depth_width/{folder}/wideresnet_{shape}/{prefix}_enhance_{suffix}"
            arms.append(
                Arm(
                    f"{kind}, {number(depth)}-{number(width)} ({what})",
                    kind,
                    {"depth": depth, "width": width},
                    f"{kind}, {what}",
                    x,
                    run if (depth, width) in _FIG6_SHAPES else None,
                )
            )
    return arms


def _fig6_claims(base: Base) -> list[Claim]:
    widths, depths = base.sweeps["sweep_widths"], base.sweeps["sweep_depths"]
    first = "validation_natural@1"
    wide = f"{number(depths[-1])}-{number(widths[-1])}"
    claims = [
        Claim("reinit", f"boosting beats re-initialised after epoch 1 ({wide})",
              f"boosting, {wide} (width)", f"reinit, {wide} (width)", first, "more",
              "90.88 after one epoch (34-10)"),
    ]  # fmt: skip
    if len(widths) > 1:
        narrow = f"{number(depths[-1])}-{number(widths[0])}"
        claims.append(
            Claim("width", f"the wider network's ticket ({wide}) is ahead of the narrower one's "
                  f"({narrow}) after epoch 1", f"boosting, {wide} (width)",
                  f"boosting, {narrow} (width)", first, "more",
                  "90.9 (34-10) against 42.1 (34-1), by the authors' curves")
        )  # fmt: skip
    if len(depths) > 1:
        shallow = f"{number(depths[0])}-{number(widths[-1])}"
        claims.append(
            Claim("depth", f"the deeper network's ticket ({wide}) is ahead of the shallower "
                  f"one's ({shallow}) after epoch 1", f"boosting, {wide} (depth)",
                  f"boosting, {shallow} (depth)", first, "more",
                  "90.9 (34-10) against 56.4 (10-10); from depth 22 on little is gained")
        )  # fmt: skip
    return claims


FIG6 = Experiment(
    "fig6",
    "Fig. 6",
    "Width and depth",
    "Do wider and deeper networks have better boosting tickets?",
    "Wider is better; depth stops mattering at about 22. WideResNet-34-10 reaches 90.88 % "
    "validation accuracy in one epoch.",
    _fig6_arms,
    _fig6_claims,
    (
        Figure("width", "sweep", "Natural validation accuracy, width", at_epoch(1, 5),
                   "width factor", arms=("boosting, width", "reinit, width")),
        Figure("depth", "sweep", "Natural validation accuracy, depth", at_epoch(1, 5),
                   "depth", arms=("boosting, depth", "reinit, depth")),
    ),
    CIFAR10,
    models=("wide_resnet",),
    sets=("depth", "width"),
    sweeps=(
        Sweep("sweep_widths", (1, 2, 5, 8, 10), whole=True),
        Sweep("sweep_depths", (10, 16, 22, 28, 34), whole=True, low=10),
    ),
    fixed={**NATURAL_TRAINING, "model": "wide_resnet"},
    defaults={"learning_rate": 0.01, "warmup_epochs": 0},
    sweep_label="width factor or depth",
)  # fmt: skip


def _fig10_arms(base: Base) -> list[Arm]:
    runs = {
        "vgg": ("enhance100_m0.01_warmup0.1", "enhance_m0.01_warmup0.1"),
        "resnet18": ("enhance_005m0.05_warmup0.1", "enhance_m0.05_warmup0.1"),
    }.get(base.model)
    arms = []
    for index, (name, schedule) in enumerate(
        (("iterative", "decreasing"), ("one-shot", "one_shot"))
    ):
        for kind, prefix in (("boosting", "init"), ("reinit", "seed9")):
            single = "single_" if index else ""
            run = f"pruning_steps/{single}{prefix}_{runs[index]}" if runs else None
            arms.append(Arm(f"{name}, {kind}", kind, {"pruning_schedule": schedule}, reference=run))
    return arms


def _fig10_claims(base: Base) -> list[Claim]:
    del base
    pair = ("iterative, boosting", "one-shot, boosting")
    return [
        Claim("last", "iterative and one-shot tickets end within 1 point", *pair,
              "test_natural@last", "same", "no difference; by the authors' curves 92.2 against "
              "92.1 (VGG-16), 93.3 against 93.4 (ResNet-18)", 0.01),
        Claim("first", "iterative and one-shot tickets are within 2 points after epoch 1", *pair,
              "validation_natural@1", "same", "no difference; but by the authors' curves 83.0 "
              "against 79.7 (VGG-16) and 84.2 against 76.9 (ResNet-18)", 0.02),
        Claim("one_shot", "the one-shot ticket beats its mask re-initialised after epoch 1",
              "one-shot, boosting", "one-shot, reinit", "validation_natural@1", "more",
              "79.7 against 57.0 (VGG-16)"),
    ]  # fmt: skip


FIG10 = Experiment(
    "fig10",
    "Fig. 10",
    "Iterative against one-shot pruning",
    "Is it worth searching a ticket in several rounds?",
    "There is no difference, so that the cheaper one-shot pruning will do.",
    _fig10_arms,
    _fig10_claims,
    (
        Figure("accuracy_per_epoch", "epochs", "Natural validation accuracy",
                   ("validation_natural",)),
    ),
    CIFAR10,
    sets=("pruning_schedule",),
    fixed=NATURAL_TRAINING,
)  # fmt: skip
