"""Figures of a study: what is drawn is what the document says."""

import io
import struct
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import studies
from matplotlib.collections import PolyCollection
from msgspec.structs import replace

from tf_lottery.errors import StoreError
from tf_lottery.report.asked import Figure
from tf_lottery.report.captions import caption
from tf_lottery.report.figures import panels, pictures
from tf_lottery.report.figures.bars import distinct_masks
from tf_lottery.report.figures.drawing import draw, mean_transfer, save_figures
from tf_lottery.report.figures.saving import png, svg
from tf_lottery.report.style import line_styles
from tf_lottery.statistics import half_width, wilson

COMPARED = {figure.form: figure for figure in studies.make_comparison().figures}


def figure(form, *measures, **changes):
    return replace(Figure("figure", form, "Title", measures), **changes)


def drawn(document, form, *measures, **changes):
    """The picture of a figure, and its caption; both or neither."""
    document.figures = [figure(form, *measures, **changes)]
    picture = draw(document, document.figures[0])
    return picture, caption(document, document.figures[0], None) if picture else None


def axes(document, form, *measures, **changes):
    return drawn(document, form, *measures, **changes)[0].axes


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def legend(picture):
    return [text.get_text() for text in picture.legends[0].get_texts()]


def band(ax, place, epoch):
    """Low and high of a band at an epoch."""
    found = [c for c in ax.collections if isinstance(c, PolyCollection)]
    corners = found[place].get_paths()[0].vertices
    heights = corners[corners[:, 0] == epoch][:, 1]
    return [heights.min(), heights.max()]


def column(document, arm, key):
    """(seeds, epochs) of a curve."""
    return np.array([[getattr(r, key) for r in row.curve] for row in document.runs(arm)], float)


# Files. ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        studies.make_comparison,
        lambda: studies.make_comparison(attacks=(), seeds=(0, 1)),
        lambda: studies.make_comparison(("dense",), epochs=1),
        studies.make_experiment,
        lambda: studies.make_experiment(studies.KINDS, seeds=(0,), epochs=1),
        lambda: studies.make_sweep(11, seeds=(0,)),
        studies.make_transfer,
    ],
)
def test_every_figure_with_data_is_a_file_of_print_size(tmp_path, make):
    document = make()
    told = studies.make_pictures()
    saved = save_figures(document, told, tmp_path)
    missing = {"layer_density"} if len(document.arms) == 1 else set()
    assert set(saved) == {each.name for each in document.figures} - missing
    for name, path in saved.items():
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        assert 400 <= width <= 1500
        assert 250 <= height <= 1500
        assert path.with_suffix(".svg").exists() == document.is_experiment
        if document.is_experiment:
            assert ElementTree.parse(path.with_suffix(".svg")).getroot().tag.endswith("}svg")
        about = next(each for each in document.figures if each.name == name)
        assert all(caption(document, about, told))


def test_same_data_same_bytes_without_date_or_version():
    document = studies.make_experiment()
    for save in (svg, png):
        first, second = (save(draw(document, document.figures[0])) for _ in range(2))
        assert first == second
        assert b"matplotlib.org" not in first
        assert b"<dc:date>" not in first


def test_figures_without_data_are_skipped_and_their_files_removed(tmp_path):
    document = studies.make_experiment()
    save_figures(document, None, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    for row in document.rows:
        row.curve = []
    assert save_figures(document, None, tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_none_where_there_is_nothing_to_show():
    document = studies.make_comparison(("dense", "random_mask"))
    document.transfer = None
    for row in document.rows:
        row.curve, row.layers, row.tests, row.test_examples = [], [], {}, 0
    forms = {form: draw(document, each) for form, each in COMPARED.items()}
    assert [form for form, found in forms.items() if found] == ["cost"]
    assert draw(document, figure("transfer")) is None
    for about in studies.make_comparison().figures[:-1]:  # of pictures no arm is asked for
        assert draw(studies.make_comparison(), replace(about, arms=())) is None
    assert draw(document, figure("sweep", "run:epochs")) is None  # no arm has an x
    assert draw(studies.make_sweep(), figure("sweep", "test_cw@best")) is None


# Over epochs. ----------------------------------------------------------------------------


def test_lines_are_means_over_the_seeds_with_t_bands():
    document = studies.make_experiment()
    (ax,) = axes(document, "epochs", "validation_natural")
    values = 100 * column(document, "boosting", "validation_natural")
    line = lines(ax)["boosting"]
    np.testing.assert_allclose(line.get_xdata(), range(1, 11))
    np.testing.assert_allclose(line.get_ydata(), values.mean(axis=0))
    mean, half = values[:, 4].mean(), half_width(values[:, 4])
    np.testing.assert_allclose(band(ax, 1, 5), [mean - half, mean + half])


def test_bands_of_two_seeds_go_from_one_to_the_other():
    document = studies.make_experiment(seeds=(0, 1))
    (ax,) = axes(document, "epochs", "distance")
    np.testing.assert_allclose(
        band(ax, 1, 5), sorted(column(document, "boosting", "distance")[:, 4])
    )


def test_bands_of_one_seed_are_over_the_images_and_only_of_accuracies():
    document = studies.make_experiment(seeds=(0,))
    (ax,) = axes(document, "epochs", "validation_natural")
    share = document.rows[0].curve[4].validation_natural
    np.testing.assert_allclose(band(ax, 0, 5), 100 * np.array(wilson(share, studies.VALIDATION)))
    assert not axes(document, "epochs", "distance")[0].collections


def test_many_lines_have_no_bands_and_are_told_apart():
    arms = [studies.make_arm("boosting", f"ticket {i}") for i in range(11)]
    document = studies.make_study([*arms, studies.make_arm("dense")], seeds=(0, 1), epochs=3)
    picture, told = drawn(document, "epochs", "validation_natural")
    assert not picture.axes[0].collections
    named = [line for line in picture.axes[0].get_lines() if line.get_label() in legend(picture)]
    looks = {(str(line.get_color()), str(line._dash_pattern)) for line in named}
    assert len(named) == len(looks) == 12
    values = [column(document, arm.name, "validation_natural") for arm in document.arms]
    widest = max((v.max(axis=0) - v.min(axis=0)).max() for v in values) / 2
    assert f"±{100 * widest:.1f} points" in told.text


def test_the_one_dense_network_looks_the_same_among_any_others():
    many = [("a", "boosting"), ("d", "dense"), *((f"b{i}", "boosting") for i in range(10))]
    few = line_styles([("d", "dense"), ("a", "boosting")])
    styles = line_styles(many)
    assert styles["d"] == few["d"]
    assert len({(style.color, str(style.line)) for style in styles.values()}) == len(many)
    kinds = line_styles([(kind, kind) for kind in studies.KINDS]).values()
    for field in ("line", "marker", "hatch"):  # a grey print can be read
        assert len({str(getattr(style, field)) for style in kinds}) == len(studies.KINDS)


def test_the_authors_curve_is_thin_and_ends_with_ours():
    document = studies.make_experiment()
    picture, told = drawn(document, "epochs", "validation_robust")
    thin = [line for line in picture.axes[0].get_lines() if line.get_linewidth() == 1.0]
    first, _ = (line for line in thin if len(line.get_xdata()))  # dense, boosting
    points = document.reference.runs["dense curve"][:10]
    np.testing.assert_allclose(first.get_xdata(), range(1, 11))
    np.testing.assert_allclose(first.get_ydata(), [100 * point.robust for point in points])
    assert legend(picture)[-1] == panels.PAPER
    assert "curves.csv" in told.text
    document.reference = None
    picture, told = drawn(document, "epochs", "validation_robust")
    assert panels.PAPER not in legend(picture)
    assert "curves.csv" not in told.text


def test_single_values_of_the_paper_are_hollow():
    document = studies.make_experiment()
    document.arms[-1].published |= {"validation_natural@50": 0.9, "validation_robust@1": 0.3}
    (ax,) = axes(document, "epochs", "validation_natural")
    hollow = [line for line in ax.get_lines() if line.get_markerfacecolor() == "none"]
    points = {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in hollow}
    assert points == {(1.0, 54.0), (10.35, 88.0)}  # epoch 50 is beyond ours
    # Where the authors' curve is drawn it shows its own points.
    document.arms[-1].reference = "dense curve"
    (ax,) = axes(document, "epochs", "validation_natural")
    hollow = [line for line in ax.get_lines() if line.get_markerfacecolor() == "none"]
    assert [float(line.get_ydata()[0]) for line in hollow] == [88.0]


def test_a_line_ends_with_the_first_of_its_seeds():
    document = studies.make_experiment()
    row = document.runs("dense")[2]
    row.curve, row.epochs, row.best_epoch = row.curve[:4], 4, 4
    picture, told = drawn(document, "epochs", "validation_natural")
    found = lines(picture.axes[0])
    assert list(found["dense"].get_xdata()) == [1, 2, 3, 4]
    assert list(found["boosting"].get_xdata()) == list(range(1, 11))
    assert "first of its seeds" in told.text


def test_missing_values_leave_gaps_and_panels_without_any_are_left_out():
    document = studies.make_experiment()
    for row in document.runs("dense"):
        for record in row.curve:
            record.distance = None
    document.rows[0].curve[2].validation_robust = None
    first, second = axes(document, "epochs", "validation_robust", "distance")
    assert 3 not in lines(first)["dense"].get_xdata()
    assert "dense" not in lines(second)
    for row in document.rows:
        for record in row.curve:
            record.distance = None
    assert len(axes(document, "epochs", "validation_robust", "distance")) == 1


def test_a_comparison_shows_searches_the_best_epoch_and_the_level_of_the_dense_run():
    document = studies.make_comparison()
    natural, robust = draw(document, document.figures[0]).axes
    search = lines(natural)["search: boosting"]
    curve = document.searches["search: boosting"]
    np.testing.assert_allclose(search.get_ydata(), [100 * r.validation_natural for r in curve])
    rings = [line for line in robust.get_lines() if line.get_markersize() == 11]
    assert [float(ring.get_xdata()[0]) for ring in rings] == [8, 8, 8]
    best = 100 * column(document, "dense", "validation_robust").max()

    def levels(ax):
        return [one.get_ydata()[0] for one in ax.get_lines() if list(one.get_xdata()) == [0, 1]]

    assert levels(robust) == [pytest.approx(best)]
    assert levels(natural) == []  # the other panel decides the best epoch


def test_one_epoch_has_bars_instead_of_bands():
    document = studies.make_experiment(epochs=1, seeds=(0,))
    (ax,) = axes(document, "epochs", "validation_natural")
    assert list(ax.get_xticks()) == [1]
    low, high = ax.containers[0].lines[2][0].get_segments()[0][:, 1]
    share = document.rows[0].curve[0].validation_natural
    np.testing.assert_allclose([low, high], 100 * np.array(wilson(share, studies.VALIDATION)))


def test_labels_of_axes():
    document = studies.make_experiment()
    first, second = axes(document, "epochs", "validation", "distance", y_label="share", x_label="x")
    assert (first.get_xlabel(), second.get_xlabel()) == ("x", "x")
    assert first.get_ylabel() != second.get_ylabel()  # one label does not fit both
    assert "robust" in first.get_title(loc="left").lower()  # what "validation" is here
    document = studies.make_sweep()
    assert axes(document, "sweep", "test@best")[0].get_xlabel() == "weights removed (%)"
    assert axes(document, "sweep", "test@best", x_label="x")[0].get_xlabel() == "x"


# Over time. ------------------------------------------------------------------------------


def test_over_seconds_a_line_begins_where_its_search_ends():
    document = studies.make_comparison(seeds=(0, 1))
    for row in document.rows:
        for record in row.curve:
            record.seconds = 8.0 + row.seed
    (ax,) = draw(document, COMPARED["seconds"]).axes
    found = lines(ax)
    np.testing.assert_allclose(found["dense"].get_xdata(), 8.5 * np.arange(1, 11))
    np.testing.assert_allclose(found["boosting"].get_xdata(), 36 + 8.5 * np.arange(1, 11))
    robust = 100 * column(document, "boosting", "validation_robust").mean(axis=0)
    np.testing.assert_allclose(found["boosting"].get_ydata(), robust)
    uprights = [line for line in ax.get_lines() if list(line.get_ydata()) == [0, 1]]
    assert [line.get_xdata()[0] for line in uprights] == [36]


def test_over_seconds_seeds_without_a_curve_do_not_count():
    document = studies.make_comparison(("dense",), seeds=(0, 1))
    document.rows[1].curve = []
    (ax,) = draw(document, COMPARED["seconds"]).axes
    np.testing.assert_allclose(lines(ax)["dense"].get_xdata(), 8.0 * np.arange(1, 11))


# Bars. -----------------------------------------------------------------------------------


def test_bars_are_the_best_epoch_and_diamonds_the_last():
    document = studies.make_comparison()
    (ax,) = draw(document, COMPARED["accuracy"]).axes
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert names == document.tests == ["natural", "fgsm", "pgd20", "worst"]
    row = document.runs("boosting")[0]
    bars = next(c for c in ax.containers if c.get_label() == "boosting")
    heights = [100 * row.tests[name].best for name in names]
    np.testing.assert_allclose([bar.get_height() for bar in bars], heights)
    diamonds = [line.get_ydata() for line in ax.get_lines() if line.get_marker() == "D"]
    np.testing.assert_allclose(diamonds[1], [100 * row.tests[name].last for name in names])
    segment = ax.collections[1].get_segments()[0][:, 1]
    np.testing.assert_allclose(
        segment, 100 * np.array(wilson(row.tests["natural"].best, studies.TEST))
    )
    assert len(ax.get_legend_handles_labels()[1]) == 4


def test_arms_that_were_not_tested_have_no_bars():
    document = studies.make_comparison()
    document.rows[0].tests, document.rows[0].test_examples = {}, 0
    picture = draw(document, COMPARED["accuracy"])
    assert legend(picture) == ["boosting", "reinit", "last epoch"]


def test_cost_stacks_search_and_training():
    document = studies.make_comparison()
    seconds, flops = draw(document, COMPARED["cost"]).axes
    search, train = seconds.containers
    assert [bar.get_width() for bar in search] == [0, 36, 36]
    assert [bar.get_width() for bar in train] == [80, 80, 80]
    assert [bar.get_x() for bar in train] == [0, 36, 36]
    assert flops.containers[1][1].get_x() == 36e9
    assert any("1.45" in text.get_text() for text in seconds.texts)


def test_layers_with_equal_masks_share_their_bars():
    document = studies.make_comparison(("dense", "boosting", "reinit", "random_mask"))
    masks = distinct_masks(document, COMPARED["layers"])
    assert [names for names, _ in masks] == [["boosting", "reinit"], ["random_mask"]]
    (ax,) = draw(document, COMPARED["layers"]).axes
    for bars, (_, layers) in zip(ax.containers, masks, strict=True):
        shares = [100 * layer.kept / layer.weights for layer in layers]
        np.testing.assert_allclose([bar.get_width() for bar in bars], shares)
    whole = [100 * sum(e.kept for e in m) / sum(e.weights for e in m) for _, m in masks]
    np.testing.assert_allclose([line.get_xdata()[0] for line in ax.get_lines()], whole)


# A sweep. --------------------------------------------------------------------------------


def test_a_sweep_is_a_line_a_series_and_a_level_for_arms_without_x():
    document = studies.make_sweep(5)
    picture, told = drawn(document, "sweep", "test_natural@best")
    (ax,) = picture.axes
    assert set(legend(picture)) == {"dense", "boosting", "reinit"}
    container = next(c for c in ax.containers if c.get_label() == "boosting")
    line, bar = container.lines[0], container.lines[2][0].get_segments()[3]
    arms = [arm for arm in document.arms if arm.series == "boosting"]
    values = [[100 * r.tests["natural"].best for r in document.runs(arm.name)] for arm in arms]
    np.testing.assert_allclose(line.get_xdata(), [arm.x for arm in arms])
    np.testing.assert_allclose(line.get_ydata(), np.mean(values, axis=1))
    assert bar[1][1] - bar[0][1] == pytest.approx(2 * half_width(values[3]))
    dense = np.mean([100 * row.tests["natural"].best for row in document.runs("dense")])
    assert lines(ax)["dense"].get_ydata()[0] == pytest.approx(dense)
    assert f"{np.mean(values, axis=1)[0]:.3g} at 0" in told.alt


def test_the_papers_values_of_a_sweep():
    document = studies.make_sweep(5)
    picture, _ = drawn(document, "sweep", "validation_natural@1")
    white = [
        line for line in picture.axes[0].get_lines()
        if line.get_markerfacecolor() == "white" and len(line.get_xdata())
    ]  # fmt: skip
    published = [100 * arm.published["validation_natural@1"] for arm in document.arms[:5]]
    assert len(white) == 1
    np.testing.assert_allclose(white[0].get_ydata(), published)
    assert legend(picture)[-1] == panels.PAPER


def test_points_that_were_never_reached_are_missing():
    document = studies.make_sweep()
    studies.put(document, "boosting, 10 %", "run:epochs_to_dense", [None] * 3)
    picture, told = drawn(document, "sweep", "run:epochs_to_dense")
    assert legend(picture) == ["boosting"]
    assert list(picture.axes[0].containers[0].lines[0].get_xdata()) == [0, 20]
    assert "missing" in told.text


@pytest.mark.parametrize(
    ("xs", "scale"), [((0.005, 0.01, 0.05), "log"), ((0.0, 0.01, 0.05), "symlog")]
)
def test_a_logarithmic_sweep_has_ticks_at_its_values(xs, scale):
    document = studies.make_sweep()
    for i, arm in enumerate(document.arms[:6]):
        arm.x = xs[i % 3]
    (ax,) = axes(document, "sweep", "run:epochs", log_x=True)
    assert ax.get_xscale() == scale
    assert list(ax.get_xticks()) == list(xs)
    assert [ax.xaxis.get_major_formatter()(x) for x in xs] == [f"{x:g}" for x in xs]


def test_ticks_that_would_run_into_each_other_are_left_out():
    document = studies.make_sweep(11)
    for i, arm in enumerate(document.arms[:11]):
        arm.x = 1000.0 + i
    ticks = axes(document, "sweep", "run:epochs", "run:density")[0].get_xticks()
    assert 2 <= len(ticks) < len({arm.x for arm in document.arms[:-1]})
    assert (ticks[0], ticks[-1]) == (0, 1010)


def test_everything_of_a_sweep_is_inside_the_axes():
    for log_x in (False, True):
        document = studies.make_sweep(5)
        (ax,) = axes(document, "sweep", "validation_natural@1", log_x=log_x)
        low, high = ax.get_ylim()
        for container in ax.containers:
            for segment in container.lines[2][0].get_segments():
                assert low < segment[:, 1].min() < segment[:, 1].max() < high
        left, right = ax.get_xlim()
        assert left <= 0 < 40 <= right


# A matrix, pictures. ---------------------------------------------------------------------


def test_the_heat_map_is_the_mean_over_the_seeds():
    document = studies.make_transfer()
    names, shares = mean_transfer(document, document.figures[0])
    np.testing.assert_allclose(shares, np.mean(document.transfer.matrices, axis=0))
    picture, told = drawn(document, "transfer")
    texts = [text.get_text() for text in picture.axes[0].texts]
    assert texts == [f"{100 * share:.1f}" for share in shares.flat]
    assert f"crafted on dense: dense {100 * shares[0, 0]:.1f} %" in told.alt
    part = figure("transfer", arms=("reinit", "dense"))
    names, found = mean_transfer(document, part)
    assert names == ["reinit", "dense"]
    np.testing.assert_allclose(found, shares[np.ix_([2, 0], [2, 0])])
    assert draw(document, replace(part, arms=("dense",))) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_show_the_change_enlarged_around_grey(channels):
    told = studies.make_pictures(channels=channels, eps=8 / 255)
    picture = pictures.adversarial_examples(told)
    grid = np.array(picture.axes).reshape(3, 3)
    shown = np.array(grid[2][0].get_images()[0].get_array(), float).reshape(8, 8, channels)
    change = told["adversarial"][0].astype(float) - told["clean"][0].astype(float)
    np.testing.assert_allclose(shown, 0.5 + 10 * change / 255, atol=1e-6)
    assert [ax.xaxis.label.get_text() for ax in grid[1]] == ["✗ one", "✓ one", "✗ zero"]
    assert [ax.get_title() for ax in grid[0]] == ["zero", "one", "two"]
    text = caption(studies.make_comparison(), COMPARED["pictures"], told).text
    assert "3 of 3" in text
    assert "1 when attacked" in text
    assert "8/255" in text


def test_pictures_are_cut_at_a_row_and_large_changes_enlarged_less():
    shown = pictures.adversarial_examples(studies.make_pictures(count=12))
    assert len(shown.axes) == 3 * pictures.PICTURES_SHOWN
    assert pictures.amplification(8 / 255) == 10
    assert pictures.amplification(0.25) * 0.25 <= 0.5


def test_pictures_are_read_again_and_damaged_ones_named(tmp_path):
    path = tmp_path / "pictures.npz"
    assert pictures.read_pictures(path) is None
    told = studies.make_pictures(channels=3)
    np.savez(path, **told)
    read = pictures.read_pictures(path)
    assert all(np.array_equal(read[key], told[key]) for key in told)
    for change in (
        {"eps": None}, {"label": np.array([0, 1, 9])}, {"label": np.array([0, 1])},
        {"clean": told["clean"].astype(float)}, {"adversarial": told["clean"][:2]},
        {"class_names": np.array([{}], object)},
    ):  # fmt: skip
        rest = {key: value for key, value in (told | change).items() if value is not None}
        np.savez(path, **rest)
        with pytest.raises(StoreError, match=str(path)) as error:
            pictures.read_pictures(path)
        assert "\n" not in str(error.value)
    path.write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(StoreError, match="cannot be read"):
        pictures.read_pictures(path)


# Names. ----------------------------------------------------------------------------------


def test_long_names_keep_both_ends():
    ends = [f"a boosting ticket of a search that had the learning rate {r}" for r in (0.01, 0.05)]
    document = studies.make_study([studies.make_arm("boosting", name) for name in ends])
    first, second = legend(drawn(document, "epochs", "validation_natural")[0])
    assert first.startswith("a boosting")
    assert (first[-4:], second[-4:]) == ("0.01", "0.05")


@pytest.mark.parametrize(
    "name", [r"$\frac{1$", "_hidden", "a\nb\x1b[31m\x00", "x" * 400, "--<!--&"]
)
def test_any_name_can_be_drawn(name):
    document = studies.make_comparison(("dense", "boosting"), epochs=2)
    document = studies.renamed(document, {"boosting": name})
    document.arms[1].series = name
    document.rows[1].layers[0].layer = name
    document.data.classes = [name]
    told = studies.make_pictures(names=(name.replace("\x00", ""), "one", "two"))
    for about in document.figures:
        picture = draw(document, about, told)
        assert len(io.BytesIO(png(picture)).getvalue()) > 5000
        ElementTree.fromstring(svg(picture))
    assert len(legend(draw(document, COMPARED["accuracy"]))) == 3
