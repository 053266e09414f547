"""FLOPs of ``forward_flops`` and of the cost ledger against the operations of real graphs.

A count of convolutions and matrix products in the graph of a whole training step, from
the shapes that TensorFlow inferred. Only what runs is counted: TensorFlow also builds
gradients nobody asked for (of the pixels in the training step, of the kernels in the
attack), which lead to no output and are pruned before the graph is executed.
"""

import collections
import dataclasses
import math

import pytest

from tf_lottery.keras import keras, tf
from tf_lottery.lottery.costs import training_cost
from tf_lottery.models import build_model, forward_flops
from tf_lottery.options.settings import AttackConfig, ObjectiveConfig, TrainConfig
from tf_lottery.pruning.masks import wrap
from tf_lottery.training.model import make_training_model

BATCH = 4
SHAPE = (9, 8, 3)  # an odd side, so that padding counts
SMALL = {
    "convnet": {"width_multiplier": 0.1},
    "lenet": {"width_multiplier": 0.1},
    "resnet18": {"width_multiplier": 0.05},
    "vgg": {"depth": 7, "width_multiplier": 0.05},
    "wide_resnet": {"depth": 10, "width": 2, "width_multiplier": 0.25},
}
NATURAL = ObjectiveConfig("natural")
FGSM = ObjectiveConfig("fgsm", AttackConfig("fgsm", steps=1))
PGD = ObjectiveConfig("pgd", AttackConfig("pgd10", steps=10, random_start=True))
TRADES = ObjectiveConfig("outside_training:trades", PGD.attack)
PASSES = ("forward", "input_gradient", "weight_gradient")


def pass_of(node):
    """Which pass a convolution or matrix product belongs to; ``None`` for other nodes."""
    if node.op == "MatMul":  # x W, dy W', x' dy
        if node.attr["transpose_a"].b:
            return "weight_gradient"
        return "input_gradient" if node.attr["transpose_b"].b else "forward"
    return {
        "Conv2D": "forward",
        "Conv2DBackpropInput": "input_gradient",
        "Conv2DBackpropFilter": "weight_gradient",
    }.get(node.op)


# Which input of a gradient's node is the gradient that comes from behind.
_GRADIENT_INPUT = {
    ("MatMul", "input_gradient"): 0,
    ("MatMul", "weight_gradient"): 1,
    ("Conv2DBackpropInput", "input_gradient"): 2,
    ("Conv2DBackpropFilter", "weight_gradient"): 2,
}


class Nodes:
    """The nodes of a graph or function that lead to ``roots``, with the shapes they make."""

    def __init__(self, nodes, roots, arguments=()):
        by_name = {node.name: node for node in nodes}
        self.shapes = {node.name: self.made(node) for node in nodes}
        self.shapes |= {name: self.made(attributes) for name, attributes in arguments}
        self.reached, pending = [], {self.base(root) for root in roots}
        seen = set(pending)
        while pending:
            node = by_name.get(pending.pop())  # none for an argument of the function
            if node is not None:
                self.reached.append(node)
                found = {self.base(name) for name in node.input} - seen
                seen |= found
                pending |= found

    @staticmethod
    def made(described):
        return [[d.size for d in s.dim] for s in described.attr["_output_shapes"].list.shape]

    @staticmethod
    def base(name):
        return name.removeprefix("^").split(":")[0]

    def count(self):
        """(pass, "flops" or "nodes") -> number, of this graph without its loops."""
        totals = collections.Counter()
        for node in self.reached:
            kind = pass_of(node)
            if kind is None:
                continue
            inputs = [self.shapes.get(self.base(name), [None])[0] for name in node.input]
            made = self.shapes[node.name][0]
            kernel = made if kind == "weight_gradient" else inputs[1]
            # The layer's output or, behind it, the gradient with respect to that.
            output = made if kind == "forward" else inputs[_GRADIENT_INPUT[node.op, kind]]
            totals[kind, "flops"] += 2 * math.prod(output) * math.prod(kernel[:-1])
            totals[kind, "nodes"] += 1
        return totals


def counted(function):
    """What the function's graph does outside loops, and in one round of its only loop."""
    definition = function.graph.as_graph_def(add_shapes=True)
    ends = [*(tensor.op for tensor in function.graph.outputs), *function.graph.control_outputs]
    outside = Nodes(definition.node, [operation.name for operation in ends])
    library = {f.signature.name: f for f in definition.library.function}
    rounds = []
    for node in outside.reached:
        if node.op in ("While", "StatelessWhile"):
            body = library[node.attr["body"].func.name]
            # The frozen network's kernels are made before the loop, and are its arguments.
            arguments = [
                (argument.name, body.arg_attr[number])
                for number, argument in enumerate(body.signature.input_arg)
            ]
            ends = [*body.ret.values(), *body.control_ret.values()]
            totals = Nodes(body.node_def, ends, arguments).count()
            if totals:  # a loop that draws random numbers has no convolution
                rounds.append(totals)
    assert len(rounds) <= 1
    return outside.count(), (rounds or [collections.Counter()])[0]


def training_step(name, objective):
    """A bare network, and the graph of its training step on ``BATCH`` images."""
    masked = wrap(build_model(name, SHAPE, 10, 0, **SMALL[name]))
    config = TrainConfig(objective, batch_size=BATCH)
    model = make_training_model(masked, config, 0)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(masked.network.trainable_variables)
    model.compile(optimizer=optimizer)
    batch = {key: tf.TensorSpec((BATCH,), tf.int32) for key in ("label", "index", "epoch")}
    batch["image"] = tf.TensorSpec((BATCH, *SHAPE))
    return masked.network, tf.function(model.train_step).get_concrete_function(batch)


@pytest.mark.parametrize(
    ("name", "objective"),
    [(name, objective) for name in SMALL for objective in (NATURAL, PGD)]
    + [("convnet", FGSM), ("convnet", TRADES)],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_training_step_costs_what_the_ledger_says(name, objective, monkeypatch):
    # The ledger counts the network's layers, also those that an attack does in less work.
    monkeypatch.setattr("tf_lottery.models.frozen._sees_all", lambda layer: False)
    network, function = training_step(name, objective)
    flops = forward_flops(network)
    full, first = sum(flops.values()), next(iter(flops.values()))
    outside, attack_step = counted(function)
    # By default one pass of each kind, but for the gradient of the pixels, which nobody needs.
    layers = len(flops)
    steps = objective.attack_steps
    there, back, of_weights = (3, 2, 2) if objective is TRADES else (1, 1, 1)
    assert outside == {
        ("forward", "flops"): there * BATCH * full,
        ("forward", "nodes"): there * layers,
        ("input_gradient", "flops"): back * BATCH * (full - first),
        ("input_gradient", "nodes"): back * (layers - 1),
        ("weight_gradient", "flops"): of_weights * BATCH * full,
        ("weight_gradient", "nodes"): of_weights * layers,
    }
    # An attack step needs the pixels' gradient and no weight's.
    if steps:
        assert attack_step == {
            ("forward", "flops"): BATCH * full,
            ("forward", "nodes"): layers,
            ("input_gradient", "flops"): BATCH * full,
            ("input_gradient", "nodes"): layers,
        }
    else:
        assert not attack_step
    cost = training_cost(TrainConfig(objective, epochs=1, batch_size=BATCH), BATCH, full)
    total = sum(outside[p, "flops"] + steps * attack_step[p, "flops"] for p in PASSES)
    expected = 27 if objective is TRADES else {0: 3, 1: 5, 10: 23}[steps]
    assert cost.flops == expected * BATCH * full
    assert cost.flops - total == back * BATCH * first
    for column in dataclasses.asdict(cost):
        if column.endswith("_passes"):
            kind = column.removesuffix("_passes")
            done = outside[kind, "nodes"] + steps * attack_step[kind, "nodes"]
            assert math.ceil(done / layers) * BATCH == getattr(cost, column)


@pytest.mark.parametrize(
    ("name", "shape", "percent"),
    [
        ("vgg", (32, 32, 3), 0.19),
        ("resnet18", (32, 32, 3), 0.11),
        ("wide_resnet", (32, 32, 3), 0.01),
        ("lenet", (28, 28, 1), 1.51),
    ],
)
def test_the_pixels_gradient_that_the_ledger_counts_in_vain_is_small(name, shape, percent):
    """The paper's networks; as a share of a natural step, the cheapest."""
    with tf.Graph().as_default():  # shapes only: nothing is allocated
        flops = list(forward_flops(build_model(name, shape, 10, 0)).values())
    share = 100 * flops[0] / (3 * sum(flops))
    assert percent - 0.01 < share <= percent


def test_by_hand_at_the_paper_s_size():
    """VGG-16 on 32x32: side and channels of each convolution, multiplied out."""
    with tf.Graph().as_default():
        flops = forward_flops(build_model("vgg", (32, 32, 3), 10, 0))
    table = [
        (32, 3, 64), (32, 64, 64), (16, 64, 128), (16, 128, 128), (8, 128, 256), (8, 256, 256),
        (8, 256, 256), (4, 256, 512), (4, 512, 512), (4, 512, 512), *[(2, 512, 512)] * 3,
    ]  # fmt: skip
    convolutions = [2 * side * side * 9 * there * here for side, there, here in table]
    assert list(flops.values()) == [*convolutions, 2 * 512 * 512, 2 * 512 * 10]
    assert sum(flops.values()) == 626_927_616
