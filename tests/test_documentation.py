"""Documents say what the source says; pages made from results are up to date with them."""

import ast
import functools
import importlib.util
import re
from pathlib import Path

import msgspec
import pytest

import tf_lottery
from tf_lottery.report import asked, document, results
from tf_lottery.report.figures.pictures import read_pictures
from tf_lottery.report.pages import render
from tf_lottery.report.results import EXPERIMENT, PICTURES, RESULTS, find_results, read_results
from tf_lottery.report.robustness import EVALUATION, read_evaluation
from tf_lottery.report.robustness.figures import FIGURES
from tf_lottery.report.robustness.report import page as evaluation_page
from tf_lottery.report.study import page

DOCS = Path(tf_lottery.__file__).parents[1] / "docs"


def load(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def maker():
    return load("make_reproduction")


def test_the_pages_of_performance_and_scale_are_made_from_the_measurements(capsys):
    assert load("make_performance").main(["--check"]) == 0, capsys.readouterr().err


def test_the_page_of_the_papers_claims_is_made_from_the_results(maker, capsys):
    assert maker.main(["--check"]) == 0, capsys.readouterr().err


DIRECTORIES = sorted(
    {path.parent for name in (EXPERIMENT, RESULTS) for path in (DOCS / "results").glob(f"*/{name}")}
)


@pytest.mark.parametrize("path", DIRECTORIES, ids=lambda path: path.name)
def test_the_reports_of_studies_are_made_from_their_results(path, monkeypatch):
    monkeypatch.chdir(DOCS.parent)
    path = path.relative_to(DOCS.parent)
    document = read_results(find_results(path))
    # Drawing takes most of the time and is tested elsewhere; here it matters which figures.
    figures = {figure.name: path / "figures" / f"{figure.name}.png" for figure in document.figures}
    saved = {name: picture for name, picture in figures.items() if picture.exists()}
    assert {picture.stem for picture in (path / "figures").iterdir()} == set(saved)
    text = render(page(document, saved, read_pictures(path / PICTURES), path), "md")
    assert text == (path / "report.md").read_text()


EVALUATIONS = sorted(path.parent for path in (DOCS / "results").glob(f"*/*/{EVALUATION}"))


@pytest.mark.parametrize("path", EVALUATIONS, ids=lambda path: path.parent.name)
def test_the_reports_of_evaluations_are_made_from_their_results(path):
    document = read_evaluation(path / EVALUATION)
    told = evaluation_page(document, {name: path / "figures" / f"{name}.png" for name in FIGURES})
    assert render(told, "md") == (path / "report.md").read_text()


def test_an_outdated_page_is_told(maker, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(maker, "PAGE", tmp_path / "page.md")
    assert maker.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert maker.main([]) == 0
    assert maker.main(["--check"]) == 0


# Names in the documents are those of the source.

PACKAGE = Path(tf_lottery.__file__).parent
ROOT = PACKAGE.parent
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
# Files that a recipe makes.
NEW = {"tf_lottery/models/mlp.py"}


@functools.cache
def defined(path):
    """Names that a file defines, methods and fields as ``Class.name``."""

    def names(body):
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield node.name
                if isinstance(node, ast.ClassDef):
                    yield from (f"{node.name}.{name}" for name in names(node.body))
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name))

    return set(names(ast.parse(path.read_text()).body))


def places(text):
    """(file, name or nothing) of code spans: a name belongs to the file before it."""
    path = None
    for span in re.findall(r"`([^`\n]+)`", text):
        if span.endswith((".py", "/")):
            path = span
            yield path, None
        elif path and path.endswith(".py") and re.fullmatch(r"[A-Za-z_][\w.]*", span):
            yield path, span


def table(text, heading):
    """Cells of the first table below a heading."""
    rows = []
    for line in text.partition(f"\n{heading}\n")[2].splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif rows:
            break
    return rows[2:]


ARCHITECTURE = (DOCS / "architecture.md").read_text()


def test_the_map_of_the_source_leads_to_what_it_names():
    found = [
        place for *_, cell in table(ARCHITECTURE, "## Where is what") for place in places(cell)
    ]
    assert len(found) > 150
    for path, name in found:
        assert (PACKAGE / path).exists(), path
        assert name is None or name in defined(PACKAGE / path), f"{path}: {name}"


def test_the_map_of_the_source_leaves_no_folder_out():
    named = {path.split("/")[0] for path, _ in places(ARCHITECTURE)}
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders <= named


def test_the_layers_are_those_that_are_tested():
    from test_architecture import LAYERS

    found = {}
    for layer, modules, _ in table(ARCHITECTURE, "## Layers"):
        names = re.findall(r"`(\w+)(?:/|\.py)`", modules)
        found[int(layer)] = set(names)
    assert found == {layer: set(names) for layer, names in LAYERS.items()}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_files_and_tests_that_are_named_exist(path):
    text = path.read_text()
    folders, endings = "tf_lottery|tests|benchmarks|flags|docs", "py|md|flags|json"
    named = set(re.findall(rf"\b(?:{folders})/[\w/.-]*\.(?:{endings})\b", text)) - NEW
    assert not [name for name in named if not (ROOT / name).exists()]
    sources = "".join(test.read_text() for test in (ROOT / "tests").rglob("*.py"))
    assert not [n for n in re.findall(r"`(test_\w+)`", text) if f"def {n}(" not in sources]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_names_that_stand_beside_a_file_stand_in_it(path):
    """``name`` in ``path``, and ``path``, ``name``."""
    text = path.read_text()
    name, file = r"`([A-Za-z_][\w.]*)`", r"`(tf_lottery/[\w/]+\.py)`"
    found = re.findall(rf"{name}\s(?:in|of)\s{file}", text)
    found += [pair[::-1] for pair in re.findall(rf"{file}, {name}", text)]
    for name, file in found:
        known = defined(ROOT / file)
        assert name in known | {each.rpartition(".")[2] for each in known}, f"{file}: {name}"


@functools.cache
def anchors(path):
    text = path.read_text()
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    made = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return made | set(re.findall(r'<a id="([\w-]+)"></a>', text))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert target.startswith("http") or file.exists(), target
        assert not anchor or target.startswith("http") or anchor in anchors(file), target


def test_results_are_described_field_by_field():
    described = {}
    for struct, fields, _ in table(ARCHITECTURE, "## results.json, field by field"):
        described.setdefault(struct.strip("`"), []).extend(re.findall(r"`(\w+)`", fields))
    structs = {
        kind.__name__: [field.name for field in msgspec.structs.fields(kind)]
        for module in (results, asked, document)
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__
        if issubclass(kind, msgspec.Struct)
    }
    assert {name: sorted(fields) for name, fields in described.items()} == {
        name: sorted(fields) for name, fields in structs.items()
    }
