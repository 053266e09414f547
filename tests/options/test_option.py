"""From the declaration of an option come its flag, help, default, keyword, check and key."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from absl import flags as absl_flags

from tf_lottery.errors import UsageError
from tf_lottery.main import main
from tf_lottery.options import flags
from tf_lottery.options.build import DEFAULTS, OPTIONS, lottery_config
from tf_lottery.options.checks import at_least, within
from tf_lottery.options.command import parse
from tf_lottery.options.option import Options, added, option
from tf_lottery.options.registry import Registry
from tf_lottery.options.settings import settings


@dataclasses.dataclass(frozen=True)
class Toy(Options, topic="Toys", modes=("run", "plan")):
    """Every kind of option."""

    number: float = option(8 / 255, "A number.", within("[0, 1)"))
    name: str = option("red", "A colour.", flag="colour", choices=("red", "blue"))
    some: tuple[str, ...] = option(("a",), "Some letters.", choices=("a", "b"))
    found: str = option("one", "A function.", choices=Registry("a function", {"one": "os:sep"}))
    perhaps: int | None = added(None, "A count.", at_least(1), topic="Others", modes=("export",))
    switch: bool = option(False, "A switch.", short_name="s", recorded=False)
    inner: int = option(3, check=at_least(0))
    plain: int = 3


def parsed(*arguments):
    values = absl_flags.FlagValues()
    for declared in Toy.declared:
        flags.define(declared, values)
    values(["toy", *arguments])
    return values


def test_a_flag_is_made_from_its_declaration():
    assert [o.flag for o in Toy.declared] == [
        "number", "colour", "some", "found", "perhaps", "switch",
    ]  # fmt: skip
    assert parsed().flag_values_dict() == {
        "number": 8 / 255, "colour": "red", "some": ["a"], "found": "one", "perhaps": None,
        "switch": False, "s": False,
    }  # fmt: skip
    given = parsed("--number=1/4", "--colour=blue", "--some=a,b", "--perhaps=2", "-s")
    assert (given.number, given.colour, given.some) == (0.25, "blue", ["a", "b"])
    assert (given.perhaps, given.switch) == (2, True)
    with pytest.raises(absl_flags.IllegalFlagValueError, match=r"colour.*red.*blue"):
        parsed("--colour=green")


def test_topic_and_modes_are_those_of_the_class_unless_told():
    told = {o.flag: (o.topic, o.modes) for o in Toy.declared}
    assert told["number"] == ("Toys", ("run", "plan"))
    assert told["perhaps"] == ("Others", ("export",))


def test_help_tells_choices_and_default():
    assert [o.text for o in Toy.declared] == [
        "A number. [8/255]",
        "<red|blue>: A colour. [red]",
        "Some letters. [a]",
        "<one>: A function. Or package.module:function. [one]",
        "A count.",
        "A switch. [off]",
    ]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("number", 1.0, "--number: got 1.0, must be in [0, 1)"),
        ("number", float("nan"), "--number: got nan, must be in [0, 1)"),
        ("name", "green", "--colour: unknown value 'green', may be one of red, blue"),
        ("some", ("a", "c"), "--some: unknown value 'c', may be one of a, b"),
        ("some", ("a", "a"), "--some: got 'a,a', must be each of them once"),
        ("some", (), "--some: got '', must be some of a, b"),
        ("found", "x", "--found: unknown value 'x', may be one of one, package.module:function"),
        ("perhaps", 0, "--perhaps: got 0, must be 1 or more"),
        ("inner", -1, "--inner: got -1, must be 0 or more"),
    ],
)
def test_a_bad_value_names_the_flag(field, value, message):
    with pytest.raises(UsageError) as caught:
        Toy(**{field: value})
    assert str(caught.value) == message
    assert message.startswith(f"--{caught.value.flag}: ")


def test_values_come_by_flag_and_other_fields_by_name():
    values = {"number": 0.5, "colour": "blue", "some": ("b",), "found": "a.b:c"}
    values |= {"perhaps": 4, "switch": True}
    assert Toy.of(values, plain=9) == Toy(0.5, "blue", ("b",), "a.b:c", 4, True, plain=9)


def test_a_class_that_inherits_checks_and_takes_all_but_declares_its_own():
    @dataclasses.dataclass(frozen=True)
    class More(Toy):
        more: int = option(1, "More.", at_least(1))

    assert [o.flag for o in More.declared] == ["more"]
    values = {o.flag: o.default for o in (*Toy.declared, *More.declared)}
    assert More.of(values) == More()
    with pytest.raises(UsageError, match="--colour"):
        More.of({**values, "colour": "green"})


def test_a_key_holds_what_can_change_a_result():
    assert settings(Toy()) == {
        "number": 8 / 255, "name": "red", "some": ["a"], "found": "one", "inner": 3, "plain": 3,
    }  # fmt: skip
    assert settings(Toy(perhaps=2))["perhaps"] == 2


# All options of a run ---------------------------------------------------------


def test_keywords_and_defaults_of_a_run_are_those_declared():
    parameters = inspect.signature(lottery_config).parameters
    assert {name: p.default for name, p in parameters.items()} == DEFAULTS
    for name in DEFAULTS:
        assert f"\n      {name}: " in lottery_config.__doc__
    with pytest.raises(TypeError, match="nosuch"):
        lottery_config(nosuch=1)
    assert parse([]).options == DEFAULTS


def other(told):
    """Text and value that are not the default."""
    if told.choices:
        word = [word for word in told.choices if word not in (told.default or ())][-1]
        return (word, (word,)) if told.kind.startswith("tuple") else (word, word)
    return {
        "bool": ("false", False) if told.default else ("true", True),
        "int": ("7", 7),
        "float": ("5/8", 0.625),
        "str": ("word", "word"),
        "int | str": ("current", "current"),
        "tuple[str, ...]": ("a,b", ("a", "b")),
        "tuple[float, ...]": ("1/4,0.625", (0.25, 0.625)),
    }[told.kind]


FILL_IN = {f"{role}{name}" for role in ("", "search_", "ticket_") for name in ("recipe", "phases")}


@pytest.mark.parametrize("name", sorted(set(DEFAULTS) - {"data_dir"} - FILL_IN))
def test_a_flag_sets_its_option_alone(name):
    text, value = other(OPTIONS[name])
    command = parse([f"--{name}={text}"])
    assert command.options == {**DEFAULTS, name: value}
    assert value != DEFAULTS[name]
    assert command.given == {name}


BAD = {"dataset": "No Such", "attacks": ("fgsm", "deepfool"), "validation_attack": "deepfool"}


@pytest.mark.parametrize("name", sorted(n for n, o in OPTIONS.items() if o.kind != "bool"))
def test_every_option_refuses_a_bad_value_by_its_name(name):
    if name == "data_dir":
        return
    bad = -1 if OPTIONS[name].kind in ("int", "float") else "nosuch"
    bad = (bad,) if OPTIONS[name].kind.startswith("tuple") else bad
    with pytest.raises(UsageError) as caught:
        lottery_config(**{name: BAD.get(name, bad)})
    assert str(caught.value).startswith(f"--{name}: ")
    assert caught.value.flag == name


NUMBERS = sorted(n for n, o in flags.OPTIONS.items() if o.kind in ("int", "float"))


@pytest.mark.parametrize("name", NUMBERS)
def test_the_command_line_refuses_every_bad_number_by_its_flag(name, capsys, tmp_path):
    assert main([f"--{name}=-1", f"--workdir={tmp_path}/w"]) == 2
    assert f"--{name}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_every_flag_has_help_a_topic_and_a_mode():
    for told in flags.OPTIONS.values():
        assert told.help.endswith("."), told.flag
        assert told.topic, told.flag
        assert told.modes, told.flag
