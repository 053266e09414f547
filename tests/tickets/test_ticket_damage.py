"""Tickets that are damaged, newer, or made to harm: one clean error each."""

import io
import json
import os
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest

from tf_lottery import tickets as tickets_module
from tf_lottery.errors import TicketError
from tf_lottery.options.settings import ModelConfig
from tf_lottery.tickets import NetworkSpec, Ticket

MODEL = ModelConfig("convnet", width_multiplier=0.1, normalize=True)
SPEC = NetworkSpec(MODEL, (8, 8, 1), 4, mean=(0.5,), std=(0.25,))
FOUND = {"kind": "boosting", "objective": "fgsm", "rates": [0.01, 1e-05], "cost": {"seconds": 1.5}}


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
    assert Ticket.load(good).digest == rewound.digest


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
