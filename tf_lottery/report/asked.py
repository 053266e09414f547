"""What a study asks and draws: declared before anything is run, and part of its results.

Light: read for ``--help``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Expectation = Literal["more", "less", "not_less", "same"]
Form = Literal[
    "epochs", "sweep", "transfer", "seconds", "accuracy", "cost", "layers", "pictures", "frontier"
]


class Sweep(Struct, frozen=True):
    """The setting that arms differ in: label of its axis, and whether that is logarithmic."""

    label: str
    log: bool = False


class About(Struct):
    """What the study is.

    Attributes:
      id: of the experiment; ``comparison``.
      source: where it stands in the paper, such as ``Fig. 5``, or another experiment's name; empty
        for a comparison.
      title, question: for the report; the question may be empty.
      paper: what the paper says of it; empty where it says nothing.
      sweep: of the arms' ``x``.
      scale: where the settings are not the paper's, in words.
    """

    id: str
    source: str
    title: str
    question: str = ""
    paper: str = ""
    sweep: Sweep | None = None
    scale: str = ""

    @property
    def whose(self) -> str:
        """Whose settings it has, unless ``scale`` says otherwise."""
        return "the paper's" if self.paper else "the experiment's"


class Pair(Struct):
    """Images that only one of two networks classifies correctly, of one seed."""

    seed: int
    examples: Annotated[int, Meta(ge=0)]
    only_ours: Annotated[int, Meta(ge=0)]
    only_theirs: Annotated[int, Meta(ge=0)]


class Claim(Struct, frozen=True):
    """A sentence that a run can support or contradict.

    Attributes:
      id: unique.
      text: the sentence, such as ``boosting beats re-initialised after epoch 1``.
      ours, theirs: names of arms; without ``theirs`` compared with ``value``.
      measure: see ``report.measures``.
      expect: of ours against theirs; ``not_less`` and ``same`` up to ``margin``.
      paper: what the paper found, with its numbers; may be empty.
      pairs: both networks image by image, where that is known; one a seed.
    """

    id: str
    text: str
    ours: str
    theirs: str | None
    measure: str
    expect: Expectation
    paper: str = ""
    margin: Annotated[float, Meta(ge=0)] = 0.0
    value: float | None = None
    pairs: tuple[Pair, ...] = ()


class Figure(Struct, frozen=True):
    """A figure.

    ``epochs`` draws measures over epochs, ``sweep`` over the arms' ``x``, ``transfer`` the
    matrix; ``seconds`` the validation accuracy over time, ``accuracy`` the tests, ``cost``
    seconds and FLOPs, ``layers`` the masks, ``pictures`` adversarial examples; ``frontier`` the
    first measure over the second, which is a cost.
    """

    name: str
    form: Form
    title: str
    measures: tuple[str, ...] = ()
    x_label: str = ""  # epoch, or the sweep's
    y_label: str = ""  # accuracy (%), or what the measures are
    log_x: bool = False
    arms: tuple[str, ...] | None = None  # None: all of them
