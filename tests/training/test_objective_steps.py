"""One training step of every objective, against NumPy: a dense layer, differentiated by hand."""

import dataclasses
import functools

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.attacks.seeds import normal, random_bits
from tf_lottery.keras import keras, tf
from tf_lottery.objectives import nuclear_norm
from tf_lottery.options.build import AttackOptions
from tf_lottery.options.settings import TrainConfig, attack_from_name
from tf_lottery.pruning.masks import wrap
from tf_lottery.training.model import make_training_model, objective_parts
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting

EPS, RATE, SIZE, CLASSES = 0.1, 0.5, 6, 3
PIXELS = 8
MASK = np.ones((PIXELS, CLASSES), bool)
MASK[1, 2] = MASK[5, 0] = MASK[6, 1] = False


def batch(seed=0):
    rng = np.random.default_rng(seed)
    image = rng.random((SIZE, 2, 2, 2))
    image[:, 0, 0] = rng.choice([0.0, 1.0, 0.03, 0.98], (SIZE, 2))  # at the border of the box
    return {
        "image": tf.constant(image, tf.float32),
        "label": tf.constant(np.arange(SIZE) % CLASSES, tf.int32),
        "index": tf.range(SIZE, dtype=tf.int32),
        "epoch": tf.fill([SIZE], 2),
    }


def images():
    """A batch of the tiny network's: eight noisy images of four classes."""
    return {
        "image": tf.constant(np.random.default_rng(0).random((8, 8, 8, 1)), tf.float32),
        "label": tf.constant(np.arange(8) % 4, tf.int32),
        "index": tf.range(8),
        "epoch": tf.zeros([8], tf.int32),
    }


def make(name, total_steps=0, **options):
    """A model that has a mask."""
    rng = np.random.default_rng(1)
    network = keras.Sequential(
        [keras.Input((2, 2, 2)), keras.layers.Flatten(), keras.layers.Dense(CLASSES, name="logits")]
    )
    network.layers[-1].set_weights([rng.normal(0, 1, MASK.shape), rng.normal(0, 0.3, CLASSES)])
    masked = wrap(network)
    masked.set_masks({"logits": MASK})
    objective = AttackOptions(eps=EPS, **options).objective(name)
    config = TrainConfig(objective, epochs=2, batch_size=SIZE, weight_decay=0.0)
    model = make_training_model(masked, config, seed=4, total_steps=total_steps)
    model.compile(optimizer=keras.optimizers.SGD(RATE))
    model.optimizer.build(masked.network.trainable_variables)
    return model


def values(model):
    kernel, bias = (variable.numpy() for variable in model.network.trainable_variables)
    return kernel.astype(float), bias.astype(float)


def seeds(model, b):
    return tf.stack([model.attack_seed + b["epoch"], b["index"]], 1)


# --- by hand ---------------------------------------------------------------------------


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def softmax(z):
    return np.exp(log_softmax(z))


def onehot(y):
    return np.eye(CLASSES)[y]


def ce(z, y, smoothing=0.0):
    target = (1 - smoothing) * onehot(y) + smoothing / CLASSES
    return -(target * log_softmax(z)).sum(-1).mean()


def kl(p, q):
    return (softmax(p) * (log_softmax(p) - log_softmax(q))).sum(-1)


def nuclear(d):
    return np.linalg.svd(d, compute_uv=False).sum()


def bce(z, y):
    wrong = np.where(onehot(y) > 0, -1, softmax(z)).max(-1)
    return ce(z, y) - np.log(1.0001 - wrong).mean()


def by_pixel(kernel, x, by_logit):
    return (by_logit @ kernel.T).reshape(x.shape)


def box(x):
    return np.clip(x, 0, 1)


def ball(x_adv, x):
    return box(np.clip(x_adv, x - EPS, x + EPS))


def descend(model, loss, mask=MASK):
    """Weights after a step of SGD: the loss of (kernel, bias), differentiated numerically."""
    kernel, bias = values(model)
    flat, h = np.concatenate([kernel.ravel(), bias]), 1e-6

    def at(w):
        return loss(w[: kernel.size].reshape(kernel.shape), w[kernel.size :])

    slope = np.array([(at(flat + e) - at(flat - e)) / (2 * h) for e in h * np.eye(flat.size)])
    new = flat - RATE * slope
    return new[: kernel.size].reshape(kernel.shape) * mask, new[kernel.size :], slope


def noise(model, b, kind):
    shape = tf.constant([2, 2, 2])
    if kind == "normal":
        bits = random_bits(seeds(model, b), 0, tf.concat([[2], shape], 0))
        return normal(bits[:, 0], bits[:, 1]).numpy().astype(float)
    bits = random_bits(seeds(model, b), 0, shape).numpy().astype(float)
    return np.where(bits < 0, -1, 1) if kind == "signs" else bits / 2**31


def cross_entropy_slope(kernel, bias, x, y):
    z = x.reshape(len(x), -1) @ kernel + bias
    return by_pixel(kernel, x, softmax(z) - onehot(y))


def attacked(model, name, x, y, b, weight=0.0):
    """The images of each attack, in NumPy."""
    kernel, bias = values(model)

    def slope(at):
        return cross_entropy_slope(kernel, bias, at, y)

    flat = lambda at: at.reshape(len(at), -1) @ kernel + bias  # noqa: E731
    if name == "fgsm":
        return box(x + EPS * np.sign(slope(x)))
    if name == "fgsm_rs":
        start = ball(x + EPS * noise(model, b, "uniform"), x)
        return ball(start + 1.25 * EPS * np.sign(slope(start)), x)
    if name == "n_fgsm":
        start = box(x + 2 * EPS * noise(model, b, "uniform"))
        return box(start + EPS * np.sign(slope(start)))
    if name == "pgd2":
        start = ball(x + EPS * noise(model, b, "uniform"), x)
        middle = ball(start + EPS / 2 * np.sign(slope(start)), x)
        return ball(middle + EPS / 2 * np.sign(slope(middle)), x)
    if name == "nuat":
        start = ball(x + EPS / 2 * noise(model, b, "signs"), x)
        left, _, right = np.linalg.svd(flat(start) - flat(x), full_matrices=False)
        gradient = slope(start) + weight * by_pixel(kernel, x, left @ right)
        return ball(start + EPS * np.sign(gradient), x)
    at = ball(x + 0.001 * noise(model, b, "normal"), x)  # trades, mart
    for _ in range(3):
        gradient = slope(at)
        if name == "trades":
            gradient = by_pixel(kernel, x, softmax(flat(at)) - softmax(flat(x)))
        at = ball(at + EPS / (0.4 * 3) * np.sign(gradient), x)
    return at


def loss_of(name, x, x_adv, y, smoothing=0.0, beta=None, weight=0.0):
    """(kernel, bias) -> the published loss at fixed images."""

    def loss(kernel, bias):
        clean, adv = (at.reshape(len(at), -1) @ kernel + bias for at in (x, x_adv))
        if name == "trades":
            return ce(clean, y, smoothing) + beta * kl(clean, adv).mean()
        if name == "mart":
            doubt = 1 - (softmax(clean) * onehot(y)).sum(-1)
            plain = ce(adv, y, smoothing) + bce(adv, y) - ce(adv, y)
            return plain + beta * (kl(clean, adv) * doubt).mean()
        if name == "nuat":
            return ce(clean, y, smoothing) + weight * nuclear(adv - clean) / len(y)
        return ce(adv, y, smoothing)

    return loss


NAMES = ["fgsm", "fgsm_rs", "n_fgsm", "pgd2", "nuat", "trades", "mart"]


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.3, "beta": 2.5}], ids=["", "set"])
@pytest.mark.parametrize("name", NAMES)
def test_a_step(name, options):
    model = make(name, total_steps=8, steps=3, random_start=True, **options)
    model.optimizer.iterations.assign(3)
    b = batch()
    x, y = b["image"].numpy().astype(float), b["label"].numpy()
    beta = options.get("beta", {"trades": 6, "mart": 5, "nuat": 4}.get(name))
    weight = (beta or 0) * 3 / 8
    x_adv = attacked(model, name, x, y, b, weight)
    smoothing = options.get("label_smoothing", 0.0)
    loss = loss_of(name, x, x_adv, y, smoothing, beta, weight)
    kernel, bias, _ = descend(model, loss)
    expected = loss(*values(model))
    said = tf.function(model.train_step)(b)
    assert float(said["loss"]) == pytest.approx(expected, rel=1e-5)
    after = values(model)
    np.testing.assert_allclose(after[0], kernel, atol=2e-5)
    np.testing.assert_allclose(after[1], bias, atol=2e-5)
    assert not after[0][~MASK].any()


def test_the_attacks_differ():
    """Or the steps above would be one and the same."""
    b = batch()
    x, y = b["image"].numpy().astype(float), b["label"].numpy()
    names = NAMES[:-1]  # MART's is PGD's, which ends in FGSM's corner here
    images = [attacked(make(name), name, x, y, b, 1.0) for name in names]
    for i, one in enumerate(images):
        assert all(np.abs(one - other).max() > 1e-3 for other in images[:i])
    far = {name: np.abs(one - x).max() for name, one in zip(names, images, strict=True)}
    assert far["n_fgsm"] > 1.5 * EPS
    assert all(size <= EPS + 1e-7 for name, size in far.items() if name != "n_fgsm")


def test_free_training_descends_and_ascends_in_one_backward_pass():
    model = make("free")
    step = tf.function(model.train_step)
    delta = np.zeros((SIZE, 2, 2, 2))
    cut_off = 0
    for number in (0, 0, 0, 1, 1):  # the perturbation goes on to the next images
        b = batch(number)
        x, y = b["image"].numpy().astype(float), b["label"].numpy()
        np.testing.assert_allclose(model.perturbation.numpy(), delta, atol=1e-6)
        kernel, bias, _ = descend(model, loss_of("free", x, box(x + delta), y))
        inside = (x + delta >= 0) & (x + delta <= 1)
        slope = cross_entropy_slope(*values(model), box(x + delta), y) * inside
        delta = np.clip(delta + EPS * np.sign(slope), -EPS, EPS)
        step(b)
        np.testing.assert_allclose(values(model)[0], kernel, atol=2e-5)
        np.testing.assert_allclose(values(model)[1], bias, atol=2e-5)
        cut_off += (~inside).sum()
        assert np.abs(delta).max() == EPS
    assert cut_off


@pytest.mark.parametrize(
    ("name", "options"),
    [("nuat", {}), ("free", {}), ("n_fgsm", {}), ("trades", {"awp_gamma": 0.1})],
)
def test_a_compiled_step_is_the_same(name, options):
    ends = []
    for compiled in (False, True):
        model = make(name, total_steps=3, steps=2, label_smoothing=0.1, **options)
        step = tf.function(model.train_step, jit_compile=compiled)
        for number in (0, 1):
            step(batch(number))
        ends.append(values(model))
    for plain, xla in zip(*ends, strict=True):
        np.testing.assert_allclose(plain, xla, atol=1e-5)


def test_gradients_for_masks_leave_the_perturbation_alone():
    model = make("free")
    model.loss_and_gradients(batch())
    assert not model.perturbation.numpy().any()


@pytest.mark.parametrize("name", ["fgsm", "trades"])
def test_a_step_with_perturbed_weights(name):
    gamma = 0.2
    model = make(name, steps=3, awp_gamma=gamma)
    b = batch()
    x, y = b["image"].numpy().astype(float), b["label"].numpy()
    x_adv = attacked(model, name, x, y, b)
    loss = loss_of(name, x, x_adv, y, beta=6)
    kernel, bias = values(model)
    slope = descend(model, loss)[2][: kernel.size].reshape(kernel.shape) * MASK
    worse = kernel + gamma * np.linalg.norm(kernel) / np.linalg.norm(slope) * slope
    assert loss(worse, bias) > loss(kernel, bias)

    def moved(w, c):  # differentiated at the worse weights, applied to the others
        return loss(w + worse - kernel, c)

    expected = descend(model, moved)
    tf.function(model.train_step)(b)
    np.testing.assert_allclose(values(model)[0], expected[0], atol=2e-5)
    np.testing.assert_allclose(values(model)[1], expected[1], atol=2e-5)


def test_perturbed_weights_are_put_back_to_the_bit_and_pruned_ones_stay(tiny_network, tiny_masks):
    masked = wrap(tiny_network())
    masked.set_masks(tiny_masks(masked.kernels))
    objective = AttackOptions(eps=EPS, awp_gamma=0.5).objective("fgsm")
    config = TrainConfig(objective, epochs=1, batch_size=8)
    model = make_training_model(masked, config, 0)
    seen = []
    plain = model.objective

    def looked_at(step):
        seen.append({name: kernel.numpy() for name, kernel in masked.kernels.items()})
        return plain(step)

    model.minimise(looked_at, *objective_parts(config, objective)[1:])
    model.compile(optimizer=keras.optimizers.SGD(RATE))
    before = {name: kernel.numpy() for name, kernel in masked.kernels.items()}
    b = images()
    model.loss_and_gradients(b)
    first, second = seen
    for name, mask in masked.get_masks().items():
        np.testing.assert_array_equal(first[name], before[name])
        far = np.linalg.norm(second[name] - before[name]) / np.linalg.norm(before[name])
        assert far == pytest.approx(0.5, rel=1e-4)
        assert not second[name][~mask].any()
        np.testing.assert_array_equal(masked.kernels[name].numpy(), before[name])


def test_the_pass_for_the_perturbation_does_not_move_the_averages(tiny_network):
    ends = []
    for gamma in (0.0, 1e-7):
        masked = wrap(tiny_network())
        objective = AttackOptions(eps=EPS, awp_gamma=gamma).objective("trades")
        config = TrainConfig(objective, epochs=1, batch_size=8)
        model = make_training_model(masked, config, 0)
        model.compile(optimizer=keras.optimizers.SGD(RATE))
        b = images()
        start = [value.numpy() for value in masked.network.non_trainable_variables]
        tf.function(model.train_step)(b)
        ends.append([value.numpy() for value in masked.network.variables])
        moved = [value.numpy() for value in masked.network.non_trainable_variables]
        assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(start, moved, strict=True))
    for plain, perturbed in zip(*ends, strict=True):
        np.testing.assert_allclose(plain, perturbed, atol=1e-4)


# --- the nuclear norm ------------------------------------------------------------------


def difference(rng, *spectrum, shape=(7, 4)):
    left, _ = np.linalg.qr(rng.normal(size=(shape[0], len(spectrum))))
    right, _ = np.linalg.qr(rng.normal(size=(shape[1], len(spectrum))))
    return left @ np.diag(spectrum) @ right.T, left @ right.T


@pytest.mark.parametrize(
    "spectrum",
    [(3.0, 1.0, 0.5, 0.1), (2.0, 2.0, 2.0, 1.0), (2.0, 2.0), (1.5,), (1e-6, 1e-6), (1e6, 1.0e5)],
    ids=str,
)
def test_the_nuclear_norm_has_a_gradient_also_where_singular_values_meet(spectrum):
    matrix, expected = difference(np.random.default_rng(0), *spectrum)
    matrix = tf.constant(matrix, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(matrix)
        norm = 3 * nuclear_norm(matrix)
    assert float(norm) == pytest.approx(3 * sum(spectrum), rel=1e-5)
    np.testing.assert_allclose(tape.gradient(norm, matrix), 3 * expected, atol=1e-4)


def test_the_nuclear_norm_of_nothing_is_flat():
    matrix = tf.zeros((5, 3))
    with tf.GradientTape() as tape:
        tape.watch(matrix)
        norm = nuclear_norm(matrix)
    assert float(norm) == 0
    np.testing.assert_array_equal(tape.gradient(norm, matrix), np.zeros((5, 3)))


# --- noise -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uniform", "normal", "signs"])
def test_noise_is_an_examples_own_and_of_its_size(kind):
    from tf_lottery.attacks.pgd import ProjectedGradient

    config = dataclasses.replace(
        attack_from_name("pgd1", eps=0.1), noise=0.3, noise_kind=kind, projected=False
    )
    attack = ProjectedGradient(config)
    keys = tf.stack([tf.zeros([400], tf.int32), tf.range(400)], 1)
    found = attack._noise(keys, 0, tf.constant([5, 5, 1])).numpy()
    alone = attack._noise(keys[7:8], 0, tf.constant([5, 5, 1])).numpy()
    np.testing.assert_array_equal(found[7:8], alone)
    assert abs(found.mean()) < 0.01
    deviation = {"uniform": 0.3 / np.sqrt(3), "normal": 0.3, "signs": 0.3}[kind]
    assert found.std() == pytest.approx(deviation, rel=0.03)
    if kind != "normal":
        assert np.abs(found).max() <= np.float32(0.3)
    assert (len(np.unique(found)) == 2) == (kind == "signs")


def test_a_gradient_that_is_not_finite_moves_no_kernel(sparse, tiny_network, tiny_data, tmp_path):
    """Float16 leaves out its first steps, but BatchNorm's averages have moved by then."""
    objective = AttackOptions(eps=EPS, awp_gamma=0.01).objective("pgd2")
    config = TrainConfig(objective, epochs=5, batch_size=32, dtype_policy="mixed_float16")
    scaled = keras.mixed_precision.LossScaleOptimizer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            keras.mixed_precision,
            "LossScaleOptimizer",
            functools.partial(scaled, initial_scale=2.0**20),
        )
        rows = train(
            sparse(dtype_policy="mixed_float16"),
            tiny_data,
            config,
            seed=0,
            directory=tmp_path,
            validation_network=tiny_network(),
            reporting=Reporting(verbose=0),
        )
    norms = [row["gradient_norm"] for row in rows]
    assert norms[0] == 0 < norms[-1]  # of no step of the first epoch
    assert rows[-1]["loss"] < rows[0]["loss"]
    final = weights.read_arrays(tmp_path / "final.npz")
    assert all(np.isfinite(value).all() for value in final.values())
