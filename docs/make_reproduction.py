"""Writes docs/reproduction.md from the results in docs/results and the notes beside them.

    python docs/make_reproduction.py [--check]

Numbers and verdicts come from the results in ``docs/results/<id>``; what they mean stands in
``docs/results/<id>/notes.md``. ``--check`` writes nothing and fails if the page is out of date.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tf_lottery.report.pages import escape_markdown
from tf_lottery.report.results import Results, find_results, read_results
from tf_lottery.report.verdicts import verdicts
from tf_lottery.studies.paper import PAPER

DOCS = Path(__file__).parent
PAGE = DOCS / "reproduction.md"


def page() -> str:
    """The whole text."""
    sections, rows = [], []
    missing = []
    for experiment in PAPER:
        name = experiment.id
        path = find_results(DOCS / "results" / name)
        if not path.exists():
            missing.append(f"{experiment.source} (`{name}`)")
            continue
        document = read_results(path)
        found = verdicts(document)
        rows += [
            f"| [{experiment.source}](#{name}) | {_cell(v.claim)} | {_cell(v.paper)} | "
            f"{_cell(v.found)} | **{v.outcome}** |"
            for v in found
        ]
        sections.append(_section(name, document))
    parts = [(DOCS / "reproduction_intro.md").read_text().rstrip()]
    if missing:
        parts.append(f"Not run yet at any scale: {'; '.join(missing)}.")
    table = [
        "| source | claim | the paper | here | holds here? |",
        "| --- | --- | --- | --- | --- |",
    ]
    parts += ["\n".join(table + rows), *sections]
    return "\n\n".join(parts) + "\n"


def _section(name: str, document: Results) -> str:
    told = document.study
    seeds = len(document.seeds)
    lines = [
        f'<a id="{name}"></a>',
        "",
        f"## {told.source}: {told.title}",
        "",
        f"{told.question} {told.paper}",
        "",
        f"Here: `flags/small/{name}.flags`, {seeds} seed{'s' * (seeds > 1)}, "
        f"{document.data.name}. {_cell(_upper(told.scale))}.",
        "",
    ]
    for figure in document.figures:
        picture = f"results/{name}/figures/{figure.name}.png"
        if (DOCS / picture).exists():
            lines += [f"![{figure.title}]({picture})", ""]
    lines += [(DOCS / "results" / name / "notes.md").read_text().rstrip(), ""]
    lines.append(f"[Report with all tables](results/{name}/report.md)")
    return "\n".join(lines)


def _upper(words: str) -> str:
    return words[:1].upper() + words[1:]


def _cell(text: str) -> str:
    return escape_markdown(text)


def main(arguments: list[str]) -> int:
    """Exit code: 1 if ``--check`` finds the page out of date."""
    text = page()
    if arguments == ["--check"]:
        if PAGE.exists() and PAGE.read_text() == text:
            return 0
        print(f"{PAGE} is out of date: python docs/make_reproduction.py", file=sys.stderr)
        return 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
