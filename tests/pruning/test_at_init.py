"""SNIP, GraSP and SynFlow against NumPy on networks of a few weights."""

import dataclasses

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.errors import DeadLayerError, LotteryError, NonFiniteError, UsageError
from tf_lottery.keras import keras, tf
from tf_lottery.pruning import ScoreContext, at_init, prune, score, select
from tf_lottery.pruning.masks import mask_weights, prunable_kernels

SHAPE, CLASSES = (2, 2, 1), 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context(ScoreContext):
    """Of a network and images of the test's own."""

    built: keras.Model
    images: np.ndarray | None = None
    labels: np.ndarray | None = None
    counted: list = dataclasses.field(default_factory=list)

    @property
    def network(self):
        return self.built

    def batch(self, images):
        assert images == at_init.IMAGES_A_CLASS * CLASSES
        return self.images, self.labels

    def attacked(self, images, labels):
        return images

    def count(self, images, forward=1, gradients=1):
        self.counted.append((images, forward, gradients))


def context(network, masks=None, **others):
    kernels = {name: kernel.numpy() for name, kernel in prunable_kernels(network).items()}
    if masks:
        mask_weights(network, masks)
    return Context(kernels, masks or {}, built=network, **others)


def images(seed=0):
    rng = np.random.default_rng(seed)
    count = at_init.IMAGES_A_CLASS * CLASSES
    labels = np.arange(count, dtype=np.int32) % CLASSES
    return {"images": rng.random((count, *SHAPE)).astype(np.float32), "labels": labels}


def perceptron(*units, activation="relu", last=None, scale=1.0, batch_norm=False, biases=0.0):
    """Dense layers from 4 pixels; ``scale`` is a factor on the second layer's weights."""
    x = inputs = keras.Input(SHAPE)
    x = keras.layers.Flatten()(x)
    for number, width in enumerate(units):
        end = number == len(units) - 1
        x = keras.layers.Dense(width, name=f"dense{number}", use_bias=not batch_norm)(x)
        if batch_norm and not end:
            if batch_norm == "images":  # TensorFlow's fused kernel
                x = keras.layers.Reshape((1, 1, width))(x)
            x = keras.layers.BatchNormalization(epsilon=1e-5, name=f"bn{number}")(x)
        x = keras.layers.Flatten()(keras.layers.Activation(last if end else activation)(x))
    network = keras.Model(inputs, x)
    rng = np.random.default_rng(7)
    for name, variable in weights.named_variables(network).items():
        if name.endswith("kernel"):
            drawn = rng.normal(size=variable.shape) * (2 / variable.shape[0]) ** 0.5
            variable.assign(drawn * (scale if name == "dense1/kernel" else 1))
        elif name.endswith("bias"):
            variable.assign(np.full(variable.shape, biases))
    return network


def loss(kernels, pixels, labels, temperature=1.0, batch_norm=False):
    """Mean cross-entropy in float64, also of complex kernels; BatchNorm with the images' own
    statistics behind each hidden layer."""
    x = pixels.reshape(len(pixels), -1).astype(np.float64)
    for number, kernel in enumerate(kernels):
        x = x @ kernel
        if number < len(kernels) - 1:
            if batch_norm:
                x = x - x.mean(0)
                x = x / np.sqrt((x**2).mean(0) + 1e-5)
            x = np.where(x.real > 0, x, 0)
    x = x / temperature
    x = x - x.real.max(1, keepdims=True)
    log = x - np.log(np.exp(x).sum(1, keepdims=True))
    return -log[np.arange(len(labels)), labels].mean()


def slopes(function, kernels, step=1e-5):
    """Central differences of a function of kernels, one weight at a time."""
    found = [np.zeros(kernel.shape) for kernel in kernels]
    for number, kernel in enumerate(kernels):
        for place in np.ndindex(kernel.shape):
            ends = []
            for sign in (1, -1):
                moved = [k.copy() for k in kernels]
                moved[number][place] += sign * step
                ends.append(function(moved))
            found[number][place] = (ends[0] - ends[1]) / (2 * step)
    return found


def gradient(function, kernels):
    """By complex steps: exact to float64."""
    found = [np.zeros(kernel.shape) for kernel in kernels]
    for number, kernel in enumerate(kernels):
        for place in np.ndindex(kernel.shape):
            moved = [k.astype(complex) for k in kernels]
            moved[number][place] += 1e-30j
            found[number][place] = function(moved).imag / 1e-30
    return found


def doubles(network):
    return [kernel.numpy().astype(np.float64) for kernel in prunable_kernels(network).values()]


@pytest.mark.parametrize("batch_norm", [False, "units", "images"])
def test_snip_is_the_loss_per_share_of_a_weight(batch_norm):
    network = perceptron(5, 4, CLASSES, batch_norm=batch_norm)
    before = weights.get_weights(network)
    asked = context(network, **images())
    found = score("snip", asked)
    kernels = doubles(network)
    # |dL / dc| at c = 1, of a factor c on each weight.
    expected = slopes(
        lambda factors: loss(
            [k * c for k, c in zip(kernels, factors, strict=True)],
            asked.images, asked.labels, batch_norm=batch_norm,
        ),
        [np.ones(kernel.shape) for kernel in kernels],
    )  # fmt: skip
    for ours, theirs in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(ours, np.abs(theirs), rtol=1e-3, atol=1e-5)
    assert asked.counted == [(30, 1, 1)]
    # Also BatchNorm's averages, which training mode moves.
    assert weights.digest(weights.get_weights(network)) == weights.digest(before)


@pytest.mark.parametrize("batch_norm", [False, "units", "images"])
def test_grasp_is_what_the_gradient_loses(batch_norm):
    network = perceptron(4, CLASSES, batch_norm=batch_norm)
    before = weights.get_weights(network)
    asked = context(network, **images())
    found = score("grasp", asked)
    kernels = doubles(network)

    def half_square(moved):
        found = gradient(lambda at: loss(at, asked.images, asked.labels, 200, batch_norm), moved)
        return sum(np.sum(part**2) for part in found) / 2

    # d(|g|^2 / 2) / dc at c = 1: positive where the gradient needs the weight.
    expected = slopes(
        lambda factors: half_square([k * c for k, c in zip(kernels, factors, strict=True)]),
        [np.ones(kernel.shape) for kernel in kernels],
        1e-6,
    )
    largest = max(np.abs(part).max() for part in expected)
    for ours, theirs in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * largest)
    assert asked.counted == [(30, 1, 1), (30, 3, 3)]
    assert weights.digest(weights.get_weights(network)) == weights.digest(before)


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_parts_add_up_to_the_whole(name, monkeypatch):
    whole = score(name, context(perceptron(5, 4, CLASSES), **images()))
    monkeypatch.setattr(at_init, "PART", 7)
    parts = score(name, context(perceptron(5, 4, CLASSES), **images()))
    for layer, value in whole.items():
        largest = np.abs(value).max()
        np.testing.assert_allclose(parts[layer], value, rtol=1e-4, atol=1e-5 * largest)


def assert_flow(found, expected):
    """The best weight of a layer stays, whatever its flow is."""
    best = np.unravel_index(expected.argmax(), expected.shape)
    assert found[best] == np.inf
    rest = expected.copy()
    rest[best] = np.inf
    np.testing.assert_allclose(found, rest, rtol=1e-6)


def test_flow_by_hand():
    """Two layers: the flow through a weight is its size times what is behind and before it."""
    network = perceptron(3, 2, biases=0.7)  # which do not count
    first, second = doubles(network)
    found = score("synflow", context(network))
    behind, before = np.abs(second).sum(1), np.abs(first).sum(0)
    assert_flow(found["dense0"], np.abs(first) * behind)
    assert_flow(found["dense1"], np.abs(second) * before[:, None])


def test_batch_norm_is_a_factor_and_an_offset_of_pixels_is_undone():
    inputs = keras.Input(SHAPE)
    x = keras.layers.Rescaling([4.0], offset=[-2.0])(inputs)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(2, name="dense", use_bias=False)(x)
    x = keras.layers.BatchNormalization(epsilon=0.0, name="bn")(x)
    network = keras.Model(inputs, keras.layers.ReLU()(x))
    kernel = np.array([[1.0, -2.0], [3.0, 4.0], [-5.0, 6.0], [7.0, 8.0]])
    values = {"gamma": [-2.0, 3.0], "beta": [5.0, 6.0], "moving_mean": [7.0, 8.0],
              "moving_variance": [4.0, 9.0]}  # fmt: skip
    given = {"dense/kernel": kernel, **{f"bn/{name}": value for name, value in values.items()}}
    weights.set_weights(network, {n: np.array(v, np.float32) for n, v in given.items()})
    found = score("synflow", context(network))
    assert_flow(found["dense"], np.abs(kernel) * [2 / 2, 3 / 3])


def flow(kernels):
    """|w dR/dw| of a chain of dense layers."""
    sizes = [np.abs(kernel) for kernel in kernels]
    found = []
    for number, size in enumerate(sizes):
        before = np.ones(sizes[0].shape[0])
        for other in sizes[:number]:
            before = before @ other
        behind = np.ones(sizes[-1].shape[1])
        for other in reversed(sizes[number + 1 :]):
            behind = other @ behind
        found.append(before[:, None] * size * behind)
    return found


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_synflow_round_by_round(sparsity):
    network = perceptron(8, 6, 5, CLASSES)
    kernels = doubles(network)
    total = sum(kernel.size for kernel in kernels)
    left = [np.ones(kernel.shape, bool) for kernel in kernels]
    for number in range(1, 101):
        scores = flow([k * m for k, m in zip(kernels, left, strict=True)])
        keep = round((1 - sparsity) ** (number / 100) * total)
        ranked = sorted(
            (-scores[layer][place], layer, place)
            for layer, mask in enumerate(left)
            for place in zip(*np.nonzero(mask), strict=True)
        )
        left = [np.zeros(kernel.shape, bool) for kernel in kernels]
        for _, layer, place in ranked[:keep]:
            left[layer][place] = True
    asked = context(network, sparsity=sparsity)
    found = score("synflow", asked)
    masks = select(found, asked.masks, sparsity)
    for ours, theirs in zip(masks.values(), left, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    rounds = 1 if sparsity == 0 else 100
    assert asked.counted == [(1, 1, 0)] + [(1, 1, 1)] * rounds


def test_synflow_goes_on_from_masks():
    network = perceptron(8, 6, 5, CLASSES)
    first = context(network, sparsity=0.5)
    masks = select(score("synflow", first), first.masks, 0.5)
    second = context(network, masks, sparsity=0.8)
    thinner = select(score("synflow", second), second.masks, 0.8)
    assert sum(int(mask.sum()) for mask in thinner.values()) == round(0.2 * (32 + 48 + 30 + 15))
    assert all(not (thinner[name] & ~mask).any() for name, mask in masks.items())


def test_synflow_leaves_no_layer_empty_where_magnitude_does():
    network = perceptron(16, 16, 16, CLASSES, scale=1e-3)
    kernels = {name: kernel.numpy() for name, kernel in prunable_kernels(network).items()}
    with pytest.raises(DeadLayerError, match="dense1"):
        prune(kernels, None, 0.95, "magnitude")
    asked = context(network, sparsity=0.95)
    masks = select(score("synflow", asked), asked.masks, 0.95)
    assert all(mask.any() for mask in masks.values())


def test_a_shortcut_beside_a_much_wider_way_keeps_its_best_weight():
    x = inputs = keras.Input(SHAPE)
    x = keras.layers.Flatten()(x)
    way = keras.layers.Dense(16, name="way0", use_bias=False, kernel_initializer="ones")(x)
    way = keras.layers.Dense(4, name="way1", use_bias=False, kernel_initializer="ones")(way)
    short = keras.layers.Dense(4, name="short", use_bias=False)(x)
    end = keras.layers.Dense(2, name="end", use_bias=False, kernel_initializer="ones")
    network = keras.Model(inputs, end(keras.layers.Add()([way, short])))
    sizes = np.full((4, 4), 1e-3)
    sizes[2, 1] = 2e-3
    network.get_layer("short").kernel.assign(sizes)
    asked = context(network, sparsity=0.5)
    masks = select(score("synflow", asked), asked.masks, 0.5)
    assert np.argwhere(masks["short"]).tolist() == [[2, 1]]
    assert sum(int(mask.sum()) for mask in masks.values()) == (64 + 64 + 16 + 8) // 2


def test_deep_networks_do_not_overflow_as_they_would_in_float32():
    network = perceptron(*[8] * 4, CLASSES, scale=3e38)
    asked = context(network, sparsity=0.5)
    found = score("synflow", asked)
    assert max(float(v[np.isfinite(v)].max()) for v in found.values()) > 3.4e38


@pytest.mark.parametrize(
    ("network", "error", "words"),
    [
        (lambda: perceptron(4, 3, last="softmax"), UsageError, "not positively homogeneous"),
        (lambda: perceptron(4, 3, activation="tanh"), UsageError, "not positively homogeneous"),
        (lambda: perceptron(*[1] * 8, CLASSES), None, ""),
    ],
)
def test_where_synflow_works(network, error, words):
    made = network()
    if error is None:
        score("synflow", context(made))
        for kernel in prunable_kernels(made).values():
            kernel.assign(tf.fill(kernel.shape, 1e38))
        error, words = NonFiniteError, f"the flow through {made.name} overflows"
    with pytest.raises(error, match=words):
        score("synflow", context(made))


def test_what_says_nothing_is_refused():
    network = perceptron(4, CLASSES, biases=-100.0)  # dead units: no gradient reaches the first
    network.get_layer("dense1").kernel.assign(tf.zeros((4, CLASSES)))
    with pytest.raises(LotteryError, match="snip is 0 for every weight"):
        score("snip", context(network, **images()))
    bad = images()
    bad["images"][0] = np.nan
    with pytest.raises(NonFiniteError, match="--score: snip is NaN or infinite in dense0"):
        score("snip", context(perceptron(4, CLASSES), **bad))
    with pytest.raises(NonFiniteError, match="--score: grasp is NaN or infinite in dense0"):
        score("grasp", context(perceptron(4, CLASSES), **bad))


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow"])
def test_weights_alone_are_not_enough(name):
    kernels = {name: kernel.numpy() for name, kernel in prunable_kernels(perceptron(3, 2)).items()}
    with pytest.raises(UsageError, match="--score: the function asks for a network"):
        prune(kernels, None, 0.5, name)


def test_planned_passes_are_those_counted():
    network = perceptron(5, CLASSES)
    for name in ("snip", "grasp", "synflow"):
        asked = context(network, sparsity=0.5, **images())
        score(name, asked)
        number, forward, gradients = at_init.planned_passes(name, CLASSES)
        assert sum(n * f for n, f, _ in asked.counted) == number * forward
        assert sum(n * g for n, _, g in asked.counted) == number * gradients
    assert at_init.planned_passes("magnitude", CLASSES) == (0, 0, 0)
