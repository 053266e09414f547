"""What a stage's key depends on, and the order of stages."""

import pickle
import re

import pytest

from tf_lottery.engine.stage import Stage, ancestors, in_order


def stage(kind="train", label="a", settings=None, parents=None, **runtime):
    return Stage(kind, label, {"x": 1} if settings is None else settings, parents or {}, runtime)


def test_the_key_is_pinned():
    # Changing how keys are made orphans every store users have.
    import hashlib
    import json

    text = json.dumps(
        {"kind": "init", "parents": {}, "settings": {"a": [1, 0.5], "b": None}},
        sort_keys=True,
        separators=(",", ":"),
    )
    made = stage("init", settings={"b": None, "a": [1, 0.5]})
    assert made.key == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert made.name == f"init-{made.key}"
    assert re.fullmatch(r"[0-9a-f]{16}", made.key)


def test_settings_kind_and_parents_make_the_key():
    root, other = stage("init"), stage("init", settings={"x": 2})
    variants = [
        stage(),
        stage(settings={"x": 2}),
        stage(settings={"x": 1, "y": None}),
        stage("prune"),
        stage(parents={"start": root}),
        stage(parents={"start": other}),
        stage(parents={"ticket": root}),
        stage(parents={"start": root, "ticket": other}),
        stage(parents={"start": other, "ticket": root}),
    ]
    assert len({variant.key for variant in variants}) == len(variants)


def test_a_grandparents_settings_change_the_key():
    def chain(x):
        return stage(parents={"p": stage("prune", parents={"s": stage("init", settings={"x": x})})})

    assert chain(1).key == chain(1).key
    assert chain(1).key != chain(2).key


def test_label_runtime_and_the_order_of_dicts_do_not():
    root, other = stage("init"), stage("init", settings={"x": 2})
    assert stage(label="a").key == stage(label="b", extra=object()).key
    assert stage(settings={"a": 1, "b": 2}).key == stage(settings={"b": 2, "a": 1}).key
    assert stage(parents={"a": root, "b": other}).key == stage(parents={"b": other, "a": root}).key


def test_a_revision_changes_the_key_and_the_first_does_not():
    keys = [Stage("train", "a", {"x": 1}, revision=number).key for number in (1, 2, 3)]
    assert keys[0] == stage().key
    assert len(set(keys)) == 3
    assert pickle.loads(pickle.dumps(Stage("train", "a", {"x": 1}, revision=3))).key == keys[2]


def test_non_json_settings_are_refused():
    with pytest.raises(ValueError):
        _ = stage(settings={"x": float("nan")}).key
    with pytest.raises(TypeError):
        _ = stage(settings={"x": object()}).key


def diamond():
    root = stage("init", "root")
    left = stage("train", "left", {"side": "l"}, {"start": root})
    right = stage("train", "right", {"side": "r"}, {"start": root})
    tip = stage("prune", "tip", parents={"a": left, "b": right})
    return root, left, right, tip


def test_parents_come_first_and_each_key_once():
    root, left, right, tip = diamond()
    assert in_order([tip]) == [root, left, right, tip]
    assert in_order([right, tip, left]) == [root, right, left, tip]
    assert in_order([tip, tip]) == in_order([tip])
    twin = stage("init", "the same work under another name")
    assert in_order([root, twin]) == [root]
    assert in_order([]) == []


def test_ancestors_leave_the_stage_itself_out():
    root, left, right, tip = diamond()
    assert ancestors(tip) == [root, left, right]
    assert ancestors(root) == []


def test_stages_can_be_sent_to_another_process():
    for each in diamond():
        copy = pickle.loads(pickle.dumps(each))
        assert (copy.key, copy.label) == (each.key, each.label)
        assert {r: p.key for r, p in copy.parents.items()} == {
            r: p.key for r, p in each.parents.items()
        }
