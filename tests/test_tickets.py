"""Tickets: round trips, application, damage, hostile files."""

import io
import json
import os
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest

from tf_lottery import tickets as tickets_module
from tf_lottery import weights
from tf_lottery.config import ModelConfig
from tf_lottery.errors import TicketError
from tf_lottery.models import build_model
from tf_lottery.pruning.masks import prunable_kernels, wrap
from tf_lottery.tickets import NetworkSpec, Ticket, read_document

MODEL = ModelConfig("convnet", width_multiplier=0.1, normalize=True)
SPEC = NetworkSpec(MODEL, (8, 8, 1), 4, mean=(0.5,), std=(0.25,))
FOUND = {"kind": "boosting", "objective": "fgsm", "rates": [0.01, 1e-05], "cost": {"seconds": 1.5}}


@pytest.fixture(scope="module")
def initial():
    return weights.get_weights(SPEC.build(3))


@pytest.fixture(scope="module")
def ticket(tiny_masks, initial):
    masks = tiny_masks(prunable_kernels(SPEC.build(3)), density=0.3, dead={"conv2": 1})
    return Ticket(SPEC, "tiny", 3, weights.digest(initial), masks, found=FOUND)


@pytest.fixture(scope="module")
def rewound(ticket, initial):
    """A ticket that goes back to epoch 2, whose weights and statistics have moved."""
    rng = np.random.default_rng(0)
    later = {k: (v + rng.uniform(0.1, 0.9, v.shape)).astype("float32") for k, v in initial.items()}
    return Ticket(
        SPEC, "tiny", 3, ticket.init_digest, ticket.masks, rewind_epoch=2,
        rewind_weights=later, found=FOUND, parent=ticket.digest,
    )  # fmt: skip


@pytest.fixture
def saved(ticket, tmp_path):
    return ticket.save(tmp_path / "ticket")


@pytest.fixture
def saved_rewound(rewound, tmp_path):
    return rewound.save(tmp_path / "rewound")


def same(a, b):
    assert list(a.masks) == list(b.masks)
    for name, mask in a.masks.items():
        assert b.masks[name].dtype == bool
        np.testing.assert_array_equal(b.masks[name], mask)
    for field in ("spec", "dataset", "init_seed", "init_digest", "rewind_epoch", "found", "parent",
                  "package_version", "digest"):  # fmt: skip
        assert getattr(a, field) == getattr(b, field), field
    if a.rewind_weights is None:
        assert b.rewind_weights is None
    else:
        assert weights.digest(a.rewind_weights) == weights.digest(b.rewind_weights)


def forge(path, change, digests=True):
    """Edits ``ticket.json`` as somebody would who knows the format: its digests fit again."""
    document = json.loads((path / "ticket.json").read_text())
    document = change(document) or document
    if digests:
        for name in list(document.get("files", {})):
            if isinstance(document["files"], dict) and (path / name).is_file():
                document["files"][name] = tickets_module._sha256((path / name).read_bytes())
    document["document_digest"] = tickets_module._document_digest(document)
    (path / "ticket.json").write_text(json.dumps(document))


# --- round trips -----------------------------------------------------------------------


def test_round_trip(ticket, rewound, saved, saved_rewound):
    same(ticket, Ticket.load(saved))
    same(rewound, Ticket.load(str(saved_rewound)))
    assert sorted(os.listdir(saved)) == ["masks.npz", "ticket.json"]
    assert sorted(os.listdir(saved_rewound)) == ["masks.npz", "rewind.npz", "ticket.json"]


def test_saving_twice_gives_the_same_ticket(ticket, saved):
    first = (saved / "ticket.json").read_bytes()
    ticket.save(saved)
    assert (saved / "ticket.json").read_bytes() == first
    same(ticket, Ticket.load(saved))


def test_saving_over_another_ticket(ticket, rewound, saved_rewound):
    ticket.save(saved_rewound)
    same(ticket, Ticket.load(saved_rewound))


@pytest.mark.parametrize(
    "found",
    [
        {"rounds": {2: "a", 10: "b"}},
        {"rates": (0.1, 0.2), "name": "Zürich \u2028", "none": None, "big": 2**70},
    ],
    ids=["numbers as keys", "tuples and names"],
)
def test_whatever_can_be_saved_can_be_loaded(ticket, tmp_path, found):
    other = Ticket(SPEC, "tiny", 3, ticket.init_digest, ticket.masks, found=found)
    loaded = Ticket.load(other.save(tmp_path / "t"))
    assert loaded.found == json.loads(json.dumps(found))


def test_counts(ticket):
    total = sum(m.size for m in ticket.masks.values())
    kept = sum(int(m.sum()) for m in ticket.masks.values())
    assert (ticket.weights_total, ticket.weights_kept) == (total, kept)
    assert ticket.density == kept / total
    assert [layer["layer"] for layer in ticket.layers] == ["conv1", "conv2", "conv3", "logits"]
    kept_first = int(ticket.masks["conv1"].sum())
    assert ticket.layers[0] == {"layer": "conv1", "weights": 27, "kept": kept_first}


def test_document_says_it_all(ticket, saved):
    document = read_document(saved)
    assert document["format"] == 1
    assert document["dataset"] == "tiny"
    assert document["initialization"] == {"seed": 3, "digest": ticket.init_digest}
    assert document["density"] == ticket.density
    assert document["layers"] == ticket.layers
    assert document["found"] == FOUND
    assert document["shapes"]["conv1"] == [3, 3, 1, 3]
    assert document["network"]["width_multiplier"] == 0.1


def test_masks_take_a_bit_a_weight(tmp_path):
    n = 80_000
    mask = np.random.default_rng(0).random((400, 200)) < 0.2
    big = Ticket(SPEC, "tiny", 0, "", {"a": mask})
    big.save(tmp_path / "t")
    size = (tmp_path / "t" / "masks.npz").stat().st_size
    assert n / 8 <= size <= n / 8 + 400
    with np.load(tmp_path / "t" / "masks.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(np.unpackbits(archive["a"])[:n], mask.ravel())


def test_digest_sees_masks_initialisation_and_rewind_point(ticket, rewound):
    flipped = {k: v.copy() for k, v in ticket.masks.items()}
    flipped["conv1"].reshape(-1)[0] ^= True
    others = [
        Ticket(SPEC, "tiny", 3, ticket.init_digest, flipped),
        Ticket(SPEC, "tiny", 3, "0" * 64, ticket.masks),
        Ticket(NetworkSpec(SPEC.model, (8, 8, 1), 5), "tiny", 3, ticket.init_digest, ticket.masks),
        rewound,
    ]
    assert len({t.digest for t in (ticket, *others)}) == 5
    described = Ticket(SPEC, "other", 3, ticket.init_digest, ticket.masks, found={"x": 1})
    assert described.digest == ticket.digest  # content, not story


# --- application -----------------------------------------------------------------------


def expected_weights(source, masks, dead_bn=("bn2", 1)):
    result = {k: v.copy() for k, v in source.items()}
    for name, mask in masks.items():
        result[f"{name}/kernel"] = result[f"{name}/kernel"] * mask
    bn, filter_ = dead_bn
    result[f"{bn}/gamma"][filter_] = result[f"{bn}/beta"][filter_] = 0
    return result


def scramble(network):
    for variable in network.weights:
        variable.assign(variable * 3 + 1)


def test_apply_to_a_masked_network_rewinds_everything(ticket, rewound, initial):
    for each, source in ((ticket, initial), (rewound, rewound.rewind_weights)):
        masked = wrap(SPEC.build(77))
        scramble(masked.network)
        assert each.apply(masked) is masked
        after = weights.get_weights(masked.network)
        for name, value in expected_weights(source, ticket.masks).items():
            np.testing.assert_array_equal(after[name], value, err_msg=name)
        for name, mask in ticket.masks.items():
            np.testing.assert_array_equal(masked.get_masks()[name], mask)
    # The initialisation's statistics are those of an untrained BatchNorm.
    ticket.apply(masked)
    after = weights.get_weights(masked.network)
    assert not after["bn1/moving_mean"].any()
    assert (after["bn1/moving_variance"] == 1).all()


@pytest.mark.parametrize("which", ["ticket", "rewound"])
def test_apply_to_a_bare_network_gives_the_same_network(which, request, initial):
    each = request.getfixturevalue(which)
    masked, bare = each.network(), SPEC.build(5)
    scramble(bare)
    assert each.apply(bare) is bare
    for name, mask in each.masks.items():
        assert not bare.get_layer(name).kernel.numpy()[~mask].any()
    x = np.random.default_rng(0).random((3, 8, 8, 1)).astype("float32")
    np.testing.assert_allclose(
        bare(x, training=False), masked.network(x, training=False), atol=1e-6
    )
    ours, theirs = weights.get_weights(bare), weights.get_weights(masked.network)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_network_is_ready_to_train(saved, initial, ticket):
    masked = Ticket.load(saved).network()
    assert not masked.is_dense()
    np.testing.assert_array_equal(
        masked.kernels["conv3"].numpy(), initial["conv3/kernel"] * ticket.masks["conv3"]
    )


def test_apply_to_another_architecture(ticket):
    others = [
        build_model("lenet", (8, 8, 1), 4, 0, width_multiplier=0.1),
        build_model("convnet", (8, 8, 1), 4, 0, width_multiplier=0.2),
        build_model("convnet", (8, 8, 1), 5, 0, width_multiplier=0.1),
        build_model("convnet", (8, 8, 3), 4, 0, width_multiplier=0.1),
    ]
    for other in others:
        for network in (other, wrap(other)):
            bare = getattr(network, "network", network)
            before = weights.digest(weights.get_weights(bare))
            with pytest.raises(TicketError, match="the ticket is for convnet"):
                ticket.apply(network)
            assert weights.digest(weights.get_weights(bare)) == before


def test_another_initialisation_than_the_tickets(ticket):
    other = Ticket(SPEC, "tiny", 4, ticket.init_digest, ticket.masks)
    with pytest.raises(TicketError, match="seed 4 gives another initialisation"):
        other.apply(SPEC.build(4))
    with pytest.raises(TicketError, match="TensorFlow version"):
        other.network()


# --- damage ----------------------------------------------------------------------------


def test_any_flipped_byte_is_noticed(rewound, tmp_path):
    good = rewound.save(tmp_path / "good")
    files = sorted(os.listdir(good))
    assert len(files) == 3
    rng = np.random.default_rng(0)
    unnoticed = []
    for name in files:
        content = (good / name).read_bytes()
        for position in rng.choice(len(content), 80, replace=False):
            flip = int(rng.choice([1, 2, 4, 8, 16, 64, 128, 255]))
            bad = bytearray(content)
            bad[position] ^= flip
            (good / name).write_bytes(bad)
            try:
                Ticket.load(good)
            except TicketError:
                pass
            else:
                # White space for white space says the same.
                if name != "ticket.json" or json.loads(bad) != json.loads(content):
                    unnoticed.append((name, int(position), flip))
        (good / name).write_bytes(content)
    assert not unnoticed
    same(rewound, Ticket.load(good))


def test_cut_and_empty_files(rewound, tmp_path):
    good = rewound.save(tmp_path / "good")
    for name in os.listdir(good):
        content = (good / name).read_bytes()
        for length in (0, 1, len(content) // 2, len(content) - 2):
            (good / name).write_bytes(content[:length])
            with pytest.raises(TicketError, match=name.replace(".", r"\.")):
                Ticket.load(good)
        (good / name).write_bytes(content)


def test_missing_files(rewound, tmp_path):
    for name in ("ticket.json", "masks.npz", "rewind.npz"):
        path = rewound.save(tmp_path / name)
        (path / name).unlink()
        with pytest.raises(TicketError, match=rf"{name} cannot be read"):
            Ticket.load(path)
        (path / name).mkdir()
        with pytest.raises(TicketError, match=name):
            Ticket.load(path)
    with pytest.raises(TicketError, match=r"--ticket: .*nowhere"):
        Ticket.load(tmp_path / "nowhere")
    with pytest.raises(TicketError, match="a ticket is a directory"):
        Ticket.load(path / "masks.npz")


def test_masks_of_another_ticket_are_noticed(ticket, rewound, tmp_path):
    path = ticket.save(tmp_path / "a")
    flipped = {k: ~v for k, v in ticket.masks.items()}
    other = Ticket(SPEC, "tiny", 3, ticket.init_digest, flipped).save(tmp_path / "b")
    shutil.copy(other / "masks.npz", path / "masks.npz")
    with pytest.raises(TicketError, match=r"masks\.npz is damaged"):
        Ticket.load(path)
    forge(path, lambda d: None)  # even if the file digest is made to fit
    with pytest.raises(TicketError, match="content does not fit its digest"):
        Ticket.load(path)


def test_newer_format_says_update(saved):
    def newer(document):
        document["format"] = 2
        document["package_version"] = "9.1"

    forge(saved, newer)
    with pytest.raises(TicketError, match=r"format 2 \(tf_lottery 9\.1\).*update tf_lottery"):
        Ticket.load(saved)


# --- hostile files: valid digests, impossible content -----------------------------------


def put(*keys, value):
    def change(document):
        place = document
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    change.__name__ = f"{'.'.join(map(str, keys))}={str(value)[:30]}"
    return change


HOSTILE = [
    put("shapes", "conv1", value=[10**6, 10**6]),
    put("shapes", "conv1", value=[10**12]),
    put("shapes", "conv1", value=[10**4000]),
    put("shapes", "conv1", value=[-3, -3, 1, 3]),
    put("shapes", "conv1", value=[0, 10**12]),
    put("shapes", "conv1", value=[3, 3, 1, 3.0]),
    put("shapes", "conv1", value=["3", 3, 1, 3]),
    put("shapes", "conv1", value=27),
    put("shapes", "conv1", value=None),
    put("shapes", "conv1", value=[27]),
    put("shapes", value=[]),
    put("shapes", value={}),
    put("shapes", "extra", value=[3]),
    put("files", value={"../x": "0", "masks.npz": "0"}),
    put("files", value={"../masks.npz": "0"}),
    put("files", value=["masks.npz"]),
    put("files", value={}),
    put("files", value=None),
    put("files", "rewind.npz", value="0"),
    put("network", "input_shape", value=[8, 8]),
    put("network", "input_shape", value=[float("inf"), 8, 1]),
    put("network", "input_shape", value=[float("nan"), 8, 1]),
    put("network", "width_multiplier", value=10**400),
    put("network", "width_multiplier", value=float("inf")),
    put("network", "width_multiplier", value=-1),
    put("network", "name", value="../vgg"),
    put("network", "depth", value="deep"),
    put("network", "mean", value=3),
    put("network", "num_classes", value=float("-inf")),
    put("network", value=None),
    put("initialization", value=None),
    put("initialization", "digest", value=5),
    put("rewind_epoch", value=-1),
    put("rewind_epoch", value=[[]]),
    put("rewind_epoch", value=4),
    put("digest", value=None),
    put("format", value=10**30),
    put("format", value="1"),
    put("format", value=None),
    lambda document: ["no", "object"],
]


@pytest.mark.parametrize("change", HOSTILE, ids=lambda f: f.__name__)
def test_hostile_document(saved, change):
    document = json.loads((saved / "ticket.json").read_text())
    document = change(document) or document
    if isinstance(document, dict):
        document["document_digest"] = tickets_module._document_digest(document)
    (saved / "ticket.json").write_text(json.dumps(document))
    with pytest.raises(TicketError):
        Ticket.load(saved)


def test_forging_alone_is_not_what_raises(saved, ticket):
    """The tests above would pass for nothing if ``forge`` made unreadable tickets."""
    forge(saved, lambda document: document["found"].update(note="mine"))
    assert Ticket.load(saved).found["note"] == "mine"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b'{"format": 1}',
        b"[" * 100_000,
        b'{"format": 1' + b"0" * 5000 + b"}",
    ],
    ids=["empty", "list", "object", "null", "bare", "deep", "long number"],
)
def test_other_documents(saved, content):
    (saved / "ticket.json").write_bytes(content)
    with pytest.raises(TicketError, match=r"ticket\.json"):
        Ticket.load(saved)


def test_document_of_unreasonable_size(saved):
    with open(saved / "ticket.json", "r+b") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(TicketError, match="larger than"):
        Ticket.load(saved)


def npz(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def npy_header(shape, descr="|u1"):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return header.getvalue()


def test_masks_file_that_claims_terabytes(saved):
    """``np.load`` allocates what the array's header claims before it reads the data."""
    with np.load(saved / "masks.npz") as archive:
        real = {name: npy_header(archive[name].shape) + archive[name].tobytes() for name in archive}
    npz(saved / "masks.npz", **{**real, "conv1": npy_header((10**13,)) + b"123"})
    forge(saved, lambda document: None)
    with pytest.raises(TicketError):
        Ticket.load(saved)


def test_masks_file_that_unpacks_to_far_more_than_its_shapes(saved):
    with np.load(saved / "masks.npz") as archive:
        real = {name: npy_header(archive[name].shape) + archive[name].tobytes() for name in archive}
    with zipfile.ZipFile(saved / "masks.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in real.items():
            if name == "conv1":
                content = npy_header((2**26,)) + bytes(2**26)
            archive.writestr(f"{name}.npy", content)
    assert (saved / "masks.npz").stat().st_size < 2**18
    forge(saved, lambda document: None)
    tracemalloc.start()
    try:
        with pytest.raises(TicketError):
            Ticket.load(saved)
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "member", [b"", b"no array", b"cos\nsystem\n(S'true'\ntR.", npy_header((4,), "|O") + b"x"]
)
def test_masks_file_with_something_else_inside(saved, member):
    with np.load(saved / "masks.npz") as archive:
        names = list(archive)
    npz(saved / "masks.npz", **dict.fromkeys(names, member))
    forge(saved, lambda document: None)
    with pytest.raises(TicketError):
        Ticket.load(saved)


def test_masks_file_with_a_password_or_unknown_compression(saved):
    content = bytearray((saved / "masks.npz").read_bytes())
    start = content.index(b"PK\x01\x02")
    for offset, value in ((8, 1), (10, 99)):
        bad = bytearray(content)
        bad[start + offset] |= value
        (saved / "masks.npz").write_bytes(bad)
        forge(saved, lambda document: None)
        with pytest.raises(TicketError):
            Ticket.load(saved)


def test_rewind_weights_of_another_network(rewound, initial, tmp_path):
    """Consistent digests, but the weights do not suit the network."""
    wrong = {k: v for k, v in initial.items() if k != "bn1/beta"}
    odd = Ticket(SPEC, "tiny", 3, rewound.init_digest, rewound.masks, 2, wrong)
    loaded = Ticket.load(odd.save(tmp_path / "odd"))
    with pytest.raises(TicketError, match="bn1/beta"):
        loaded.network()
    with pytest.raises(TicketError, match="bn1/beta"):
        loaded.apply(SPEC.build(0))


def test_rewinding_to_an_epoch_needs_its_weights(ticket, tmp_path):
    """Without them the initialisation would silently be taken for epoch 4."""
    odd = Ticket(SPEC, "tiny", 3, ticket.init_digest, ticket.masks, rewind_epoch=4)
    with pytest.raises(TicketError, match="rewind"):
        Ticket.load(odd.save(tmp_path / "odd"))
