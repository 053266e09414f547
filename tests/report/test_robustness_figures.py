import struct

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from tf_lottery.report.figures.saving import png
from tf_lottery.report.robustness import figures
from tf_lottery.report.robustness.captions import captions
from tf_lottery.report.style import readable, series

TWELVE = [f"model number {i} of twelve" for i in range(12)]


def _lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


@pytest.mark.parametrize("models", [("dense", "boosting"), TWELVE])
def test_all_figures_are_written_in_print_size(tmp_path, make_evaluation, models):
    saved = figures.save_figures(make_evaluation(models=models, examples=200), tmp_path)
    assert list(saved) == ["broken_by", "accuracy_per_eps", "accuracy_per_steps", "transfer"]
    for path in saved.values():
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        assert 1000 <= width <= 1500
        assert 200 <= height <= 1500
    assert set(captions(make_evaluation(models=models))) == set(saved)


def test_figures_without_data_are_skipped_and_old_ones_removed(tmp_path, make_evaluation):
    figures.save_figures(make_evaluation(examples=100), tmp_path)
    document = make_evaluation(models=("dense",), attacks=("pgd20",), examples=100)
    document.curves.steps = None
    assert set(figures.save_figures(document, tmp_path)) == {"accuracy_per_eps"}
    assert {path.stem for path in tmp_path.iterdir()} == {"accuracy_per_eps"}
    assert set(captions(document)) == {"accuracy_per_eps"}
    document.curves = None
    assert figures.save_figures(document, tmp_path) == {}


def test_same_data_same_bytes(make_evaluation):
    first, second = (png(figures.transfer(make_evaluation(examples=100))) for _ in range(2))
    assert first == second


def test_radii_are_grey_levels_with_the_reference_marked(make_evaluation):
    document = make_evaluation()
    curve = document.curves.eps
    ax = figures.accuracy_per_eps(document).axes[0]
    lines = _lines(ax)
    for name, shares in curve.accuracy.items():
        np.testing.assert_allclose(lines[name].get_xdata(), [0, 2, 4, 6, 8, 12, 16, 32])
        np.testing.assert_allclose(lines[name].get_ydata(), 100 * np.array(shares))
    vertical = [line for line in ax.get_lines() if list(line.get_ydata()) == [0, 1]]
    assert [list(line.get_xdata()) for line in vertical] == [[8, 8]]
    assert [text.get_text() for text in ax.texts] == ["radius 8/255"]
    assert ax.get_xlabel() == "l_inf radius (in 1/255)"


def test_l2_radii_are_lengths(make_evaluation):
    ax = figures.accuracy_per_eps(make_evaluation(norm="l2")).axes[0]
    assert list(_lines(ax)["dense"].get_xdata()) == [0, 0.125, 0.25, 0.375, 0.5, 0.75, 1, 2]
    assert ax.get_xlabel() == "l_2 radius"


def test_bands_are_wilson_intervals_while_they_are_few(make_evaluation):
    ax = figures.accuracy_per_steps(make_evaluation()).axes[0]
    assert len(ax.collections) == 3
    share, n, z2 = make_evaluation().curves.steps.accuracy["dense"][0], 200, 1.959964**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    corners = ax.collections[0].get_paths()[0].vertices
    first = corners[corners[:, 0] == 1][:, 1]
    np.testing.assert_allclose(
        [min(first), max(first)], [100 * (middle - half), 100 * (middle + half)], rtol=1e-4
    )
    many = make_evaluation(models=TWELVE, examples=100)
    assert len(figures.accuracy_per_steps(many).axes[0].collections) == 0
    assert "intervals (not drawn) up to ±" in captions(many)["accuracy_per_steps"].text


def test_steps_are_on_a_logarithmic_axis(make_evaluation):
    ax = figures.accuracy_per_steps(make_evaluation()).axes[0]
    assert ax.get_xscale() == "log"
    assert list(ax.get_xticks()) == [1, 2, 5, 10, 20, 50, 100]


def test_rises_are_ringed(make_evaluation):
    document = make_evaluation()
    curve = document.curves.steps
    ring = _lines(figures.accuracy_per_steps(document).axes[0])[figures.RISE]
    assert list(ring.get_xdata()) == [10]
    np.testing.assert_allclose(ring.get_ydata(), [100 * curve.accuracy["boosting"][3]])
    assert "boosting (by up to 0.5 points)" in captions(document)["accuracy_per_steps"].text
    for rises in curve.rises.values():
        rises.clear()
    assert figures.RISE not in _lines(figures.accuracy_per_steps(document).axes[0])
    assert "Rings" not in captions(document)["accuracy_per_steps"].text


def test_heat_map_has_every_number_and_frames_the_white_box(make_evaluation):
    document = make_evaluation()
    ax = figures.transfer(document).axes[0]
    matrix = np.array(document.transfer.accuracy)
    shown = {text.get_position(): text for text in ax.texts}
    for (row, column), share in np.ndenumerate(matrix):
        text = shown[(column, row)]
        assert text.get_text() == f"{100 * share:.1f}"
        assert (text.get_fontweight() == "bold") == (row == column)
        cell = ax.get_images()[0].cmap(share)
        assert _contrast(to_rgb(text.get_color()), cell[:3]) >= 4.5
    frames = {(patch.get_x() + 0.47, patch.get_y() + 0.47) for patch in ax.patches}
    assert frames == {(0, 0), (1, 1), (2, 2)}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("classified by", "crafted on")
    assert [label.get_text() for label in ax.get_yticklabels()] == document.transfer.models


def test_long_names_become_numbers_below_the_columns(make_evaluation):
    ax = figures.transfer(make_evaluation(models=TWELVE, examples=100)).axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == [str(i) for i in range(1, 13)]
    assert ax.get_yticklabels()[3].get_text() == "model number 3 of twelve   4"


def _contrast(one, other):
    """WCAG 2.1: of relative luminances."""

    def luminance(color):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_text_contrasts_with_any_shade():
    rng = np.random.default_rng(0)
    for color in [(0, 0, 0), (1, 1, 1), *rng.random((200, 3))]:
        chosen = readable(color)
        other = {"black": "white", "white": "black"}[chosen]
        assert _contrast(to_rgb(chosen), color) >= _contrast(to_rgb(other), color)


def test_bars_sum_to_all_images(make_evaluation):
    document = make_evaluation()
    ax = figures.broken_by(document).axes[0]
    groups = [group for group in ax.containers if hasattr(group, "patches")]
    labels = [group.get_label() for group in groups]
    assert labels == ["wrong when clean", "apgd_ce", "apgd_t", "fab_t", "square", "standing"]
    widths = np.array([[patch.get_width() for patch in group] for group in groups])
    np.testing.assert_allclose(widths.sum(axis=0), 100)
    for model, column in zip(document.models, widths.T, strict=True):
        parts = model.broken_by["autoattack"]
        expected = [100 * (1 - model.natural), *(n / 10 for n in parts.values())]
        np.testing.assert_allclose(column, [*expected, 100 * model.robust["autoattack"]])
    starts = np.array([[patch.get_x() for patch in group] for group in groups])
    np.testing.assert_allclose(starts[1:], np.cumsum(widths, axis=0)[:-1])


def test_no_suite_no_bars(make_evaluation):
    assert figures.broken_by(make_evaluation(attacks=("pgd20", "square"))) is None


def test_a_dozen_models_differ_without_colour_and_with_it():
    drawn = list(series(TWELVE).values())
    assert len({style.marker for style in drawn}) == 12
    assert len({(str(style.color), str(style.line)) for style in drawn}) == 12


@pytest.mark.filterwarnings("error")
def test_hostile_names_are_drawn_as_they_stand(make_evaluation):
    name = r"$\frac{1$ <b>" + "x" * 80
    document = make_evaluation(models=(name, "_hidden"), examples=100)
    for draw in figures.FIGURES.values():
        assert len(png(draw(document))) > 5000
    legend = figures.accuracy_per_eps(document).legends[0]
    shown = [text.get_text().strip("\N{ZERO WIDTH SPACE}") for text in legend.get_texts()]
    assert shown == [name[:35] + "…", "_hidden", "a rise"]
