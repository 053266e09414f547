"""``report.html`` and ``report.md`` of a work directory."""

from __future__ import annotations

import base64
import functools
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from tf_lottery.files import write_atomically
from tf_lottery.report import formats
from tf_lottery.report.captions import Caption, captions
from tf_lottery.report.figures import save_all
from tf_lottery.report.results import (
    PICTURES,
    RESULTS,
    Document,
    accuracy_names,
    read_pictures,
    read_results,
)
from tf_lottery.report.text import attack_words
from tf_lottery.report.verdict import TICKETS, findings, headline_words, partner

FIGURES = "figures"
_PROGRAM = ("python", "-m", "tf_lottery.main")
# The colour of a finding is never its only sign.
OUTCOMES = {"ahead": "better", "behind": "worse", "even": "no difference", "note": "note"}
LEDGER_SUMS = (
    "seconds", "examples", "forward_passes", "input_gradient_passes",
    "weight_gradient_passes", "flops",
)  # fmt: skip


def write_report(workdir: str | os.PathLike) -> Path:
    """Writes ``figures/*.png``, ``report.md`` and ``report.html`` from ``results.json``.

    ``report.html`` holds its figures and asks nothing of the network, so that the
    one file can be mailed. Each file is replaced as a whole.

    Returns:
      The path of ``report.html``.

    Raises:
      StoreError: ``results.json`` is missing or damaged, or ``pictures.npz`` is damaged.
    """
    workdir = Path(workdir)
    document = read_results(workdir / RESULTS)
    pictures = read_pictures(workdir / PICTURES)
    saved = save_all(document, pictures, workdir / FIGURES)
    context = _context(document, workdir)
    return render(workdir, "report", context, saved, captions(document, pictures))


def render(
    folder: Path,
    template: str,
    context: dict[str, Any],
    saved: Mapping[str, Path],
    texts: Mapping[str, Caption],
) -> Path:
    """Writes ``report.md`` and ``report.html`` into ``folder``, each replaced as a whole.

    Args:
      folder: holds the folder ``figures``.
      template: name of the two templates without ``.md.j2`` and ``.html.j2``.
      context: their variables, but for ``figures``.
      saved: figure name -> path, in the order of the report.
      texts: figure name -> caption; may hold more than was saved.

    Returns:
      The path of ``report.html``.
    """
    figures = [
        {
            "caption": texts[name],
            "path": f"{FIGURES}/{path.name}",
            "data": base64.b64encode(path.read_bytes()).decode(),
        }
        for name, path in saved.items()
    ]
    for kind in ("md", "html"):
        text = _environment().get_template(f"{template}.{kind}.j2").render(context, figures=figures)
        write_atomically(folder / f"report.{kind}", text)
    return folder / "report.html"


def next_steps(document: Document, workdir: Path) -> list[tuple[str, str]]:
    """(what for, shell command) pairs."""
    tickets = [row for row in document["rows"] if row["kind"] in TICKETS]
    shown = (tickets or document["rows"])[0]
    model = workdir / "saved_model" / shown["name"]
    test = [f"--dataset={shown['dataset']}", "--attacks=pgd100", "--restarts=5"]
    if document["attacks"]:
        norm = document["attacks"][0].get("norm", "linf")
        test.append(f"--eval_eps={formats.length(document['attacks'][0]['eps'], norm)}")
        if norm != "linf":
            test.append(f"--eval_norm={norm}")
    steps = [
        (
            "Look at curves, images and hyperparameters in TensorBoard",
            _shell(["tensorboard", f"--logdir={workdir / 'tensorboard'}"]),
        ),
        (
            "Test a trained network under a stronger attack. It is a SavedModel: "
            "float pixels in [0, 1] in, logits out",
            _shell([*_PROGRAM, "--mode=evaluate", f"--model_path={model}", *test]),
        ),
    ]
    if tickets:
        ticket = f"--ticket={workdir / 'tickets' / tickets[0]['name']}"
        steps.append(
            (
                "See what a ticket keeps, layer by layer, and how it was found",
                _shell([*_PROGRAM, "--mode=inspect", ticket]),
            )
        )
    rebuild = _shell([*_PROGRAM, "--mode=report", f"--workdir={workdir}"])
    return [*steps, ("Write this report anew from results.json", rebuild)]


def _context(document: Document, workdir: Path) -> dict[str, Any]:
    rows = document["rows"]
    ledger = document["ledger"]
    fresh = [entry for entry in ledger if not entry["cached"]]
    topics: dict[str, list] = {}
    for finding in findings(document):
        topics.setdefault(finding.topic, []).append(finding)
    return {
        "document": document,
        "rows": rows,
        "accuracies": accuracy_names(document),
        "headline": headline_words(document) if document["attacks"] else None,
        "recorded": _unique(row["name"] for row in rows if row["search_source"] == "ticket"),
        "models": _unique(row["model"] for row in rows),
        "datasets": _unique(row["dataset"] for row in rows),
        "seeds": _unique(row["seed"] for row in rows),
        "topics": topics,
        "outcomes": OUTCOMES,
        "ledger": ledger,
        "sums": {key: sum(entry[key] for entry in ledger) for key in LEDGER_SUMS},
        "fresh": {key: sum(entry[key] for entry in fresh) for key in LEDGER_SUMS},
        "cached": len(ledger) - len(fresh),
        "settings": formats.flatten(document["settings"]),
        "command": command_line(document["command"]),
        "reached": {row["name"]: _reached(document, row) for row in rows},
        "next_steps": next_steps(document, workdir),
    }


def _reached(document: Document, row: dict) -> str:
    own = row["kind"] == "dense" and row["epochs_to_dense"] is None
    if own or partner(document, row, "dense") is None:
        return formats.NONE
    return formats.epochs(row["epochs_to_dense"])


def command_line(argv: list[str]) -> str:
    """The command line; a bare argument list gets its program."""
    program = _PROGRAM if not argv or argv[0].startswith("-") else ()
    return _shell([*program, *argv])


def _shell(argv: Sequence[str]) -> str:
    """A command to paste, quoted; one flag a line when it is long."""
    line = shlex.join(argv)
    if len(line) <= 88:
        return line
    parts: list[str] = []
    for word in argv:
        if word.startswith("-") or not parts:
            parts.append(shlex.quote(word))
        else:
            parts[-1] += f" {shlex.quote(word)}"
    # "python -m module" stays together.
    if len(parts) > 1 and parts[1].startswith("-m "):
        parts[:2] = [" ".join(parts[:2])]
    return " \\\n  ".join(parts)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tf_lottery.report", "templates"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": formats.percent,
        "ratio": formats.ratio,
        "seconds": formats.seconds,
        "si": formats.si,
        "points": formats.points,
        "p_value": formats.p_value,
        "attack_words": attack_words,
        "norms": norms,
        "typeset": typeset,
        "md": escape_markdown,
        "indented": _indented,
    }
    environment.globals |= {
        "interval": formats.interval,
        "point_interval": formats.point_interval,
    }
    return environment


def escape_markdown(value: object) -> str:
    """One line of text in which no character is markup, neither Markdown nor HTML."""
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~$!])", r"\\\1", text)


def typeset(text: str) -> str:
    """Plain text with curly apostrophes and minus signs, with spaces that do not break
    before %, in bounds and in p-values."""
    text = text.replace("'", "’").replace(" %", "\N{NO-BREAK SPACE}%")
    text = re.sub(r"(?<![\w.\-])-(?=\d)", "\N{MINUS SIGN}", text)
    text = re.sub(r"\bp ([<=]) (?=\d)", "p\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", text)
    return re.sub(r"(?<=\d), (?=[\d\N{MINUS SIGN}.]+\])", ",\N{NO-BREAK SPACE}", text)


def norms(text: str) -> Markup:
    """HTML of plain text in which ``l_inf radius`` and ``l_2 radius`` are typeset."""
    signs = {"inf": "∞", "2": "2"}
    html = str(escape(typeset(text)))
    # A model may be called l_2 as well.
    found = re.sub(r"\bl_(inf|2)(?= radius)", lambda m: f"l<sub>{signs[m[1]]}</sub>", html)
    return Markup(found)


def _indented(text: str) -> str:
    """An indented code block, which no content can end early, unlike a fence."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _unique(values) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))
