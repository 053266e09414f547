"""Every artefact, damaged at random: noticed by name, or without effect; never a wrong result."""

import contextlib
import io
import json
import random
import shutil

import pytest

from tf_lottery import files
from tf_lottery.engine.stage import in_order
from tf_lottery.engine.store import Store
from tf_lottery.errors import LotteryError
from tf_lottery.lottery.graph import entries
from tf_lottery.main import main
from tf_lottery.options.command import parse
from tf_lottery.report.results import read_results
from tf_lottery.tickets import Ticket

RUN = [
    "--dataset=digits", "--train_examples=64", "--validation_examples=30", "--test_examples=20",
    "--model=convnet", "--width_multiplier=0.05", "--batch_size=16", "--epochs=2",
    "--search_epochs=1", "--eps=0.15", "--steps=1", "--attacks=pgd2", "--validation_attack=pgd1",
    "--compare=boosting",
]  # fmt: skip


def run(*arguments):
    """Exit code, standard output and complaints of a command line."""
    out, complaints = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(complaints):
        code = main([*arguments])
    return code, out.getvalue(), complaints.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A work directory and the stages of its store."""
    workdir = tmp_path_factory.mktemp("damage") / "w"
    code, out, complaints = run(*RUN, f"--workdir={workdir}")
    assert code == 0, out + complaints
    config = parse([*RUN, f"--workdir={workdir}"]).config()
    return workdir, in_order([stage for entry in entries(config) for stage in entry.stages])


def content(workdir, stages):
    """All that is read of a run by others and by later runs."""
    store = Store(workdir / "stages", read_only=True)
    found = {"results": read_results(workdir / "results.json")}
    found["ticket"] = Ticket.load(workdir / "tickets" / "boosting").to_json()
    for stage in stages:
        found[stage.name] = manifest = store.manifest(stage)
        for name in manifest["files"]:
            found[stage.name, name] = files.digest(store.file(stage, name))
    return found


def artefacts(workdir):
    paths = [path for path in workdir.glob("stages/*-*/**/*") if path.is_file()]
    # Attacks are there for evaluations to come; what is read here is of those that there are.
    paths = [path for path in paths if "stages/attack-" not in str(path)]
    paths += [workdir / "results.json", *(workdir / "tickets").glob("*/*")]
    return sorted(paths)


def flip(whole, choose):
    place = choose.randrange(len(whole))
    return whole[:place] + bytes([whole[place] ^ (1 << choose.randrange(8))]) + whole[place + 1 :]


DAMAGES = {
    "flip": flip,
    "byte": lambda whole, choose: flip(flip(whole, choose), choose),
    "cut": lambda whole, choose: whole[: choose.randrange(len(whole))],
    "longer": lambda whole, choose: whole + choose.randbytes(choose.randrange(1, 9)),
    "zeros": lambda whole, choose: bytes(len(whole)),
    "missing": None,
}


def damage_often(finished, cases, seed):
    """Outcomes of so many damages, by kind."""
    workdir, stages = finished
    whole, paths, choose = content(workdir, stages), artefacts(workdir), random.Random(seed)
    outcomes = {"noticed": 0, "without effect": 0}
    for _ in range(cases):
        path, kind = choose.choice(paths), choose.choice([*DAMAGES])
        before = path.read_bytes()
        if kind == "missing":
            path.unlink()
        else:
            path.write_bytes(DAMAGES[kind](before, choose))
        try:
            seen = content(workdir, stages)
            assert seen == whole, (kind, path)
        except LotteryError as error:
            said = str(error)
        else:
            said = ""
        finally:
            path.write_bytes(before)
        outcomes["noticed" if said else "without effect"] += 1
        if said:
            assert "\n" not in said
            assert str(path) in said or str(path.parent) in said, (kind, path, said)
    assert content(workdir, stages) == whole
    return outcomes


def test_damage_is_noticed_by_name_or_has_no_effect(finished):
    outcomes = damage_often(finished, 500, seed=0)
    # Without effect is little: a byte that JSON does not read, or the name of the digest.
    assert outcomes["noticed"] > 480, outcomes


@pytest.mark.slow
def test_damage_is_noticed_five_thousand_times(finished):
    print(damage_often(finished, 5000, seed=1))


@pytest.mark.parametrize("name", ["best.npz", "history.json", "manifest.json"])
def test_a_damaged_stage_stops_and_is_done_again_if_removed(finished, tmp_path, name):
    workdir, stages = finished
    shutil.copytree(workdir, tmp_path / "w")
    (stage,) = [s for s in stages if s.kind == "train" and s.label == "train: boosting"]
    home = tmp_path / "w" / "stages" / stage.name
    path = home / name
    path.write_bytes(flip(path.read_bytes(), random.Random(3)))
    (tmp_path / "w" / "results.json").unlink()
    code, _, complaints = run(*RUN, f"--workdir={tmp_path / 'w'}")
    assert code == 1
    assert len(complaints.splitlines()) == 1, complaints
    assert str(path) in complaints
    shutil.rmtree(home)
    code, _, complaints = run(*RUN, f"--workdir={tmp_path / 'w'}")
    assert code == 0, complaints
    ours, theirs = (
        read_results(place / "results.json").rows[0] for place in (tmp_path / "w", workdir)
    )
    assert ours.tests == theirs.tests


def test_a_changed_number_in_the_results_is_told(finished, tmp_path):
    workdir, _ = finished
    document = json.loads((workdir / "results.json").read_text())
    document["rows"][0]["natural"]["best"] = 1.0
    (tmp_path / "results.json").write_text(json.dumps(document))
    code, _, complaints = run("--mode=report", f"--workdir={tmp_path}")
    assert code == 1
    assert f"{tmp_path / 'results.json'}: changed since it was written" in complaints
