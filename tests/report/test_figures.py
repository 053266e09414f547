import io
import struct

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from tf_lottery.options.settings import KINDS
from tf_lottery.report import figures, save_all
from tf_lottery.report.style import styles

ALL = {
    "accuracy_per_epoch",
    "accuracy_per_second",
    "test_accuracy",
    "cost",
    "layer_density",
    "adversarial_examples",
}


def _size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def _lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_all_figures_are_written_in_print_size(tmp_path, make_document, make_pictures):
    document = make_document(KINDS, ("fgsm", "pgd20", "pgd100", "cw"))
    saved = save_all(document, make_pictures(count=10), tmp_path)
    assert set(saved) == ALL
    for name, path in saved.items():
        assert path == tmp_path / f"{name}.png"
        width, height = _size(path)
        assert 1000 <= width <= 1500
        assert 300 <= height <= 2500
        assert path.stat().st_size > 5000
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.png" for name in ALL}


def test_figures_without_data_are_skipped_and_old_ones_removed(
    tmp_path, make_document, make_pictures
):
    save_all(make_document(), make_pictures(), tmp_path)
    bare = make_document(("dense",), attacks=())
    bare["curves"] = {}
    assert set(save_all(bare, None, tmp_path)) == {"test_accuracy", "cost"}
    assert {path.stem for path in tmp_path.iterdir()} == {"test_accuracy", "cost"}


def test_same_data_same_bytes(make_document):
    first, second = (figures.png(figures.cost(make_document())) for _ in range(2))
    assert first == second


def test_accuracy_lines_hold_the_curves(make_document):
    document = make_document()
    natural, robust = figures.accuracy_per_epoch(document).axes
    for ax, key in ((natural, "validation_natural"), (robust, "validation_robust")):
        lines = _lines(ax)
        assert {"dense", "boosting", "reinit", "search: boosting"} <= set(lines)
        for label, curve in document["curves"].items():
            np.testing.assert_array_equal(lines[label].get_xdata(), [r["epoch"] for r in curve])
            np.testing.assert_allclose(lines[label].get_ydata(), [100 * r[key] for r in curve])
    assert lines["search: boosting"].get_linewidth() < lines["dense"].get_linewidth()


def test_natural_training_has_one_panel(make_document):
    figure = figures.accuracy_per_epoch(make_document(attacks=()))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["Natural validation accuracy"]


def test_time_axis_starts_after_the_search(make_document):
    document = make_document()
    ax = figures.accuracy_per_second(document).axes[0]
    lines = _lines(ax)
    np.testing.assert_allclose(lines["dense"].get_xdata(), 5.0 * np.arange(1, 21))
    tick = ax.xaxis.get_major_formatter()
    assert [tick(value) for value in (0.25, 40.0, 1_347_640.0)] == ["0.25", "40", "1,347,640"]
    np.testing.assert_allclose(lines["boosting"].get_xdata(), 40 + 4.3 * np.arange(1, 21))


def test_bars_are_best_and_diamonds_last(make_document):
    document = make_document()
    ax = figures.test_accuracy(document).axes[0]
    bars = [container for container in ax.containers if hasattr(container, "patches")]
    diamonds = [line for line in ax.get_lines() if line.get_marker() == "D"]
    for row, group, points in zip(document["rows"], bars, diamonds, strict=True):
        names = ("natural", "fgsm", "pgd20", "worst")
        best, last = ([100 * row[name][which] for name in names] for which in ("best", "last"))
        np.testing.assert_allclose([patch.get_height() for patch in group.patches], best)
        np.testing.assert_allclose(points.get_ydata(), last)


def test_worst_bars_need_two_attacks(make_document):
    ticks = [
        [label.get_text() for label in figures.test_accuracy(document).axes[0].get_xticklabels()]
        for document in (make_document(), make_document(attacks=("pgd20",)))
    ]
    assert ticks == [["natural", "fgsm", "pgd20", "worst"], ["natural", "pgd20"]]


def test_cost_stacks_search_and_training(make_document):
    seconds, flops = figures.cost(make_document()).axes
    search, train = seconds.containers
    assert [patch.get_width() for patch in search] == [0, 40, 40]
    assert [patch.get_width() for patch in train] == [100, 86, 90]
    assert [patch.get_x() for patch in train] == [0, 40, 40]
    assert flops.containers[1][1].get_x() == 40e9
    assert any("126  (1.26x)" in text.get_text() for text in seconds.texts)


def test_density_bars_merge_equal_masks(make_document):
    document = make_document(("dense", "boosting", "reinit", "random_mask"))
    masks = figures.distinct_masks(document)
    assert [names for names, _ in masks] == [["boosting", "reinit"], ["random_mask"]]
    ax = figures.layer_density(document).axes[0]
    widths = [[patch.get_width() for patch in group] for group in ax.containers]
    kept = [round(n * 0.2) for n in (288, 9216, 18432, 640)]
    shares = [100 * k / n for k, n in zip(kept, (288, 9216, 18432, 640), strict=True)]
    np.testing.assert_allclose(widths[0], shares)
    assert ax.get_yticklabels()[1].get_text() == "conv2  (9.22 k)"


def test_no_masks_no_density_figure(make_document):
    assert figures.layer_density(make_document(("dense",))) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_adversarial_grid(make_pictures, channels):
    pictures = make_pictures(count=3, channels=channels, eps=8 / 255)
    figure = figures.adversarial_examples(pictures)
    grid = np.array(figure.axes).reshape(3, 3)
    shown = np.array(grid[2][0].get_images()[0].get_array(), float).reshape(8, 8, channels)
    change = pictures["adversarial"][0].astype(float) - pictures["clean"][0].astype(float)
    np.testing.assert_allclose(shown, 0.5 + 10 * change / 255, atol=1e-6)
    assert {image.get_interpolation() for ax in figure.axes for image in ax.get_images()} == {
        "nearest"
    }
    labels = [grid[1][column].xaxis.label for column in range(3)]
    assert [label.get_text() for label in labels] == ["✗ one", "✓ one", "✗ zero"]
    assert [label.get_color() for label in labels] == [figures.WRONG, figures.RIGHT, figures.WRONG]
    assert [ax.get_title() for ax in grid[0]] == ["zero", "one", "two"]


def test_large_radii_are_enlarged_less():
    assert figures.amplification(8 / 255) == 10
    assert figures.amplification(0.25) * 0.25 <= 0.5


def test_many_pictures_are_cut(make_pictures):
    assert len(figures.adversarial_examples(make_pictures(count=12)).axes) == 3 * 8


def test_kinds_differ_without_colour(make_document):
    drawn = styles(make_document(KINDS)).values()
    for field in ("line", "marker", "hatch"):
        assert len({getattr(style, field) for style in drawn}) == len(KINDS)


def test_second_row_of_a_kind_is_lighter(make_document):
    document = make_document(("dense", "boosting"))
    document["rows"].append(dict(document["rows"][1], name="again"))
    drawn = styles(document)
    assert sum(to_rgb(drawn["again"].color)) > sum(to_rgb(drawn["boosting"].color))
    assert drawn["again"].marker != drawn["boosting"].marker


def test_hostile_names_are_drawn_as_they_stand(make_document, make_pictures):
    document = make_document()
    document["layers"]["boosting"][0]["layer"] = r"$\frac{1$"
    assert figures.png(figures.layer_density(document))
    pictures = make_pictures(names=[r"$\bad{$", "_", "a\nb" * 30])
    figure = figures.adversarial_examples(pictures)
    assert len(io.BytesIO(figures.png(figure)).getvalue()) > 5000
    assert figure.axes[0].get_title() == r"$\bad{$"
