"""The rules of the package's structure, checked on the source text."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import tf_lottery

ROOT = Path(tf_lottery.__file__).parent
MODULES = {
    ".".join(("tf_lottery", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(ROOT.rglob("*.py"))
}
LAYERS = {
    0: (
        "options",
        "engine",
        "statistics",
        "machine",
        "errors",
        "files",
        "flattening",
        "interruption",
        "terminal",
        "type_aliases",
        "keras",
        "narrowing",
        "nesting",
        "weights",
    ),
    1: ("data", "models", "attacks", "objectives", "pruning", "compaction"),
    2: ("training", "evaluation", "tickets", "channels", "cutting", "report", "export"),
    3: ("lottery", "studies"),
    4: ("__main__", "main", "cli", "api", "study_cli"),
}
LAYER = {concept: layer for layer, concepts in LAYERS.items() for concept in concepts}
# The package itself (its version) may be read anywhere.
CONCEPTS = {name: name.split(".")[1] for name in MODULES if name != "tf_lottery"}


def nodes(path):
    """Every syntax node of a file."""
    yield from ast.walk(ast.parse(path.read_text()))


def imports(path):
    """Full names of what a file imports, wherever in the file, for type checkers too."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
    return found


def edges():
    for name, concept in CONCEPTS.items():
        for target in imports(MODULES[name]):
            if target in CONCEPTS:
                yield name, concept, target, CONCEPTS[target]


def test_every_module_has_a_layer():
    assert set(CONCEPTS.values()) == set(LAYER)


def test_no_module_hides_one_that_python_starts_with():
    """``python tf_lottery/x.py`` puts the folder first: its modules would be taken for others."""
    names = {path.stem for path in ROOT.glob("*.py")} & sys.stdlib_module_names
    assert names <= {"__main__", "statistics"}  # nothing that Python starts with imports that one


def test_imports_point_downward():
    found = list(edges())
    assert len(found) > 50  # the walk sees imports at all
    upward = [(a, b) for a, ours, b, theirs in found if LAYER[theirs] > LAYER[ours]]
    assert upward == []


def test_concepts_of_layer_1_do_not_import_each_other():
    mixed = [
        (a, b)
        for a, ours, b, theirs in edges()
        if LAYER[ours] == LAYER[theirs] == 1 and ours != theirs
    ]
    assert mixed == []


def circle(graph):
    """Some circle of a graph (node -> nodes), or nothing."""
    done, under_way = set(), []

    def visit(node):
        if node in under_way:
            return [*under_way[under_way.index(node) :], node]
        if node in done:
            return []
        under_way.append(node)
        for target in sorted(graph.get(node, ())):
            if found := visit(target):
                return found
        done.add(under_way.pop())
        return []

    return next(filter(None, map(visit, sorted(graph))), [])


def test_circles_are_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_no_file_is_on_a_circle_of_imports():
    graph = {}
    for name, _, target, _ in edges():
        # A package's own file gathers what its modules offer: they must not look up to it.
        graph.setdefault(name, set()).add(target)
    assert circle(graph) == []


def test_no_folder_is_on_a_circle_of_imports():
    graph = {}
    for _, ours, _, theirs in edges():
        if ours != theirs:
            graph.setdefault(ours, set()).add(theirs)
    assert circle(graph) == []


def test_the_engine_needs_no_network_and_no_tensorflow():
    assert {theirs for _, ours, _, theirs in edges() if ours == "engine"} <= {
        *(
            "engine",
            "errors",
            "files",
            "interruption",
            "keras",
        )  # keras: in the function that opens a URL
    }
    code = (
        "import sys, tf_lottery.engine.ray, tf_lottery.engine.processes, "
        "tf_lottery.engine.remote_store, tf_lottery.engine.serial;"
        "print(sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"tensorflow", "tf_keras", "keras"} & set(ast.literal_eval(done.stdout))


def importers(*libraries):
    return {
        name
        for name, path in MODULES.items()
        if any(
            target == library or target.startswith(f"{library}.")
            for target in imports(path)
            for library in libraries
        )
    }


def test_only_the_keras_module_imports_tensorflow_and_keras():
    assert importers("tensorflow", "tf_keras", "keras") == {"tf_lottery.keras"}


def test_only_masks_imports_tfmot():
    assert importers("tensorflow_model_optimization") == {"tf_lottery.pruning.masks"}


def test_only_data_imports_tensorflow_datasets():
    found = importers("tensorflow_datasets")
    assert found
    assert {CONCEPTS[name] for name in found} == {"data"}


def test_only_the_flags_module_touches_flags():
    def names(path):
        for node in nodes(path):
            if isinstance(node, ast.Name):
                yield node.id
            elif isinstance(node, ast.Attribute):
                yield node.attr
            elif isinstance(node, ast.alias):
                yield node.name

    users = {name for name, path in MODULES.items() if "FLAGS" in set(names(path))}
    assert users == {"tf_lottery.options.command", "tf_lottery.options.flags"}
    assert importers("absl.flags") == set()
    absl_flags = {
        name
        for name, path in MODULES.items()
        for node in nodes(path)
        if isinstance(node, ast.ImportFrom)
        and node.module == "absl"
        and any(alias.name == "flags" for alias in node.names)
    }
    assert absl_flags == {"tf_lottery.options.command", "tf_lottery.options.flags"}
    assert {name for name in MODULES if "tf_lottery.options.command" in imports(MODULES[name])} <= {
        "tf_lottery.main",
        "tf_lottery.cli",
        "tf_lottery.study_cli",
        "tf_lottery.options.effects",
    }


def test_no_module_is_a_drawer():
    assert not {name.split(".")[-1] for name in MODULES} & {"utils", "util", "helpers", "misc"}


@pytest.mark.parametrize("name", MODULES)
def test_files_are_short(name):
    lines = len(MODULES[name].read_text().splitlines())
    assert lines < (100 if name == "tf_lottery.main" else 450)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name):
    assert ast.get_docstring(ast.parse(MODULES[name].read_text()))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["--sparsity=2"]])
def test_no_heavy_import_before_work_starts(arguments):
    code = (
        "import sys, json; from tf_lottery.main import main; code = main(sys.argv[1:]);"
        "print(); print(json.dumps([code, sorted({m.split('.')[0] for m in sys.modules})]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == (2 if "--sparsity=2" in arguments else 0)
    heavy = {
        "tensorflow", "tf_keras", "tensorflow_model_optimization", "tensorflow_datasets",
        "numpy", "sklearn", "matplotlib", "jinja2", "tensorboard",
    }  # fmt: skip
    assert not heavy & set(modules)


def test_importing_the_package_switches_onednn_on_unless_told_otherwise():
    code = (
        "import os, tf_lottery, platform, sys; assert 'tensorflow' not in sys.modules;"
        "print(platform.machine(), os.environ.get('TF_ENABLE_ONEDNN_OPTS'))"
    )

    def run(**extra):
        import os

        environment = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=environment | extra,
        )
        return done.stdout.split()

    machine, value = run()
    assert value == ("1" if machine.lower() in ("x86_64", "amd64") else "None")
    assert run(TF_ENABLE_ONEDNN_OPTS="0")[1] == "0"
