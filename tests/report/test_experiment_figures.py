import struct
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from experiments import build_experiment, build_figure
from tf_lottery.report.experiment import figures, panels
from tf_lottery.report.experiment.captions import captions
from tf_lottery.report.experiment.statistics import half_width

from tf_lottery.statistics import wilson

CASES = [
    ("epochs", (0, 1, 2), 3, 10), ("epochs", (0,), 2, 1), ("epochs", (0, 1), 12, 30),
    ("sweep", (0, 1, 2), 22, 5), ("sweep", (0,), 6, 5), ("transfer", (0, 1), 4, 2),
]  # fmt: skip


def _draw(document, *args, **changes):
    document["figures"] = [build_figure(*args, **changes)]
    return figures.draw(document, document["figures"][0])


def _lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def _texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("case", CASES)
def test_every_figure_is_a_png_and_an_svg_of_print_size(tmp_path, case):
    document = build_experiment(*case)
    saved = figures.save_figures(document, tmp_path)
    assert list(saved) == [figure["name"] for figure in document["figures"]]
    for path in saved.values():
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        assert 1000 <= width <= 1500
        assert 300 <= height <= 1500
        root = ElementTree.fromstring(path.with_suffix(".svg").read_text())
        assert root.tag.endswith("}svg")
    assert set(captions(document)) == set(saved)


def test_same_data_same_bytes_without_date_or_version():
    document = build_experiment()
    first, second = (figures.svg(figures.draw(document, document["figures"][0])) for _ in range(2))
    assert first == second
    assert b"<dc:date>" not in first
    assert b"matplotlib.org" not in first


def test_figures_without_data_are_skipped_and_their_files_removed(tmp_path):
    document = build_experiment()
    figures.save_figures(document, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    for arm in document["arms"]:
        for run in arm["runs"]:
            run["curve"] = []
    assert figures.save_figures(document, tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
    assert captions(document) == {}


def test_lines_are_means_over_the_seeds_with_t_bands():
    document = build_experiment()
    ax = _draw(document, "epochs", ["validation_natural"]).axes[0]
    runs = document["arms"][1]["runs"]
    values = np.array([[r["validation_natural"] for r in run["curve"]] for run in runs])
    line = _lines(ax)["boosting"]
    np.testing.assert_allclose(line.get_xdata(), range(1, 11))
    np.testing.assert_allclose(line.get_ydata(), 100 * values.mean(axis=0))
    corners = ax.collections[1].get_paths()[0].vertices
    at_five = corners[corners[:, 0] == 5][:, 1]
    half = 100 * half_width(list(values[:, 4]))
    mean = 100 * values[:, 4].mean()
    np.testing.assert_allclose([min(at_five), max(at_five)], [mean - half, mean + half])


def test_bands_of_two_seeds_go_from_one_to_the_other():
    document = build_experiment(seeds=(0, 1))
    ax = _draw(document, "epochs", ["distance"]).axes[0]
    values = [run["curve"][4]["distance"] for run in document["arms"][1]["runs"]]
    corners = ax.collections[1].get_paths()[0].vertices
    at_five = corners[corners[:, 0] == 5][:, 1]
    np.testing.assert_allclose([min(at_five), max(at_five)], sorted(values))
    assert "from the one seed to the other" in captions(document)["figure"].text


def test_bands_of_one_seed_are_over_the_images_and_only_of_accuracies():
    document = build_experiment(seeds=(0,))
    ax = _draw(document, "epochs", ["validation_natural"]).axes[0]
    share = document["arms"][0]["runs"][0]["curve"][4]["validation_natural"]
    corners = ax.collections[0].get_paths()[0].vertices
    at_five = corners[corners[:, 0] == 5][:, 1]
    np.testing.assert_allclose([min(at_five), max(at_five)], 100 * np.array(wilson(share, 500)))
    assert "over the images only" in captions(document)["figure"].text
    assert not _draw(document, "epochs", ["distance"]).axes[0].collections
    assert "no interval, 1 seed" in captions(document)["figure"].text


def test_more_lines_have_no_bands_and_are_told_apart():
    document = build_experiment(seeds=(0, 1), arms=12)
    figure = _draw(document, "epochs", ["validation_natural"])
    ax = figure.axes[0]
    assert not ax.collections
    drawn = [line for line in ax.get_lines() if line.get_label() in _texts(figure)]
    looks = {(str(line.get_color()), str(line._dash_pattern)) for line in drawn}
    assert len({line.get_marker() for line in drawn}) == 12
    assert len(looks) == 12 + 1  # and the paper's
    assert "not drawn" in captions(document)["figure"].text


def test_the_one_dense_network_looks_the_same_among_any_others():
    many = [("a", "boosting"), ("d", "dense"), *((f"b{i}", "boosting") for i in range(10))]
    few = panels.line_styles([("d", "dense"), ("a", "boosting")])
    styles = panels.line_styles(many)
    assert styles["d"] == few["d"]
    assert len({(s.color, str(s.line)) for s in styles.values()}) == len(many)
    assert set(panels.line_styles([("x", "dense"), ("y", "dense")])) == {"x", "y"}


def test_the_authors_curve_is_thin_and_ends_with_ours():
    document = build_experiment(epochs=10)
    figure = _draw(document, "epochs", ["validation_robust"])
    thin = [line for line in figure.axes[0].get_lines() if line.get_linewidth() == 1.0]
    thin = [line for line in thin if len(line.get_xdata())]
    assert len(thin) == 2  # dense and boosting have a reference
    runs = document["reference"]["runs"]
    np.testing.assert_allclose(thin[0].get_xdata(), range(1, 11))
    shares = [100 * record["robust"] for record in runs["dense curve"][:10]]
    np.testing.assert_allclose(thin[0].get_ydata(), shares)
    assert _texts(figure)[-1] == panels.PAPER
    assert "curves.csv" in captions(document)["figure"].text
    document["reference"]["runs"] = {}
    assert panels.PAPER not in _texts(_draw(document, "epochs", ["validation_robust"]))


def test_single_values_of_the_paper_are_hollow():
    document = build_experiment(epochs=10)
    document["reference"] = None
    document["arms"][1]["published"] |= {"validation_natural@50": 0.9, "validation_robust@1": 0.3}
    figure = _draw(document, "epochs", ["validation_natural"])
    hollow = [line for line in figure.axes[0].get_lines() if line.get_markerfacecolor() == "none"]
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in hollow]
    assert points == [(1.0, 54.0), (pytest.approx(10.35), 88.0)]  # epoch 50 is beyond ours
    text = captions(document)["figure"].text
    assert "Hollow markers" in text
    assert "at the right edge" in text
    assert panels.PAPER in _texts(figure)
    # Where the authors' curve is drawn it shows its own points.
    curves = build_experiment(epochs=10)["reference"]
    figure = _draw(document | {"reference": curves}, "epochs", ["validation_natural"])
    hollow = [line for line in figure.axes[0].get_lines() if line.get_markerfacecolor() == "none"]
    assert [line.get_ydata()[0] for line in hollow] == [88.0]


def test_a_line_ends_with_the_first_of_its_seeds():
    document = build_experiment()
    run = document["arms"][0]["runs"][2]
    run["curve"], run["epochs"], run["best_epoch"] = run["curve"][:4], 4, 4
    ax = _draw(document, "epochs", ["validation_natural"]).axes[0]
    assert list(_lines(ax)["dense"].get_xdata()) == [1, 2, 3, 4]
    assert list(_lines(ax)["boosting"].get_xdata()) == list(range(1, 11))
    assert "ends with the first of its seeds" in captions(document)["figure"].text


def test_null_values_leave_gaps_and_panels_without_any_are_left_out():
    document = build_experiment()
    for run in document["arms"][0]["runs"]:
        for record in run["curve"]:
            record["distance"] = None
        run["curve"][2]["validation_natural"] = None
    figure = _draw(document, "epochs", ["validation_natural", "distance"])
    assert 3 not in _lines(figure.axes[0])["dense"].get_xdata()
    assert "dense" not in _lines(figure.axes[1])
    for arm in document["arms"]:
        for run in arm["runs"]:
            for record in run["curve"]:
                record["distance"] = None
    assert len(_draw(document, "epochs", ["validation_natural", "distance"]).axes) == 1


def test_one_epoch_has_its_axis_and_bars():
    document = build_experiment(epochs=1, seeds=(0,))
    ax = _draw(document, "epochs", ["validation_natural"]).axes[0]
    assert ax.get_xlim() == (0.5, 1.5)
    assert list(ax.get_xticks()) == [1]
    assert captions(document)["figure"].text.count("Bars: 95 % Wilson") == 1


def test_labels_of_axes_and_panels():
    document = build_experiment()
    figure = _draw(document, "epochs", ["validation", "distance"], y_label="share", x_label="pass")
    assert [ax.get_ylabel() for ax in figure.axes] == ["accuracy (%)", "relative distance"]
    assert figure.axes[0].get_title(loc="left") == "Robust validation accuracy"
    figure = _draw(document, "epochs", ["validation_natural", "validation_robust"], y_label="acc.")
    assert [ax.get_ylabel() for ax in figure.axes] == ["acc.", "acc."]
    assert figure.axes[0].get_xlabel() == "epoch"
    document = build_experiment("sweep", arms=6)
    assert _draw(document, "sweep", ["test@best"]).axes[0].get_xlabel() == "weights removed (%)"
    assert _draw(document, "sweep", ["test@best"], x_label="x").axes[0].get_xlabel() == "x"


def test_a_sweep_is_a_line_a_series_and_a_level_for_arms_without_x():
    document = build_experiment("sweep", arms=22)
    figure = _draw(document, "sweep", ["test_natural@best"])
    ax = figure.axes[0]
    assert _texts(figure) == ["dense", "boosting", "re-initialised"]
    (container,) = [c for c in ax.containers if c.get_label() == "boosting"]
    line = container.lines[0]
    arms = [arm for arm in document["arms"] if arm["series"] == "boosting"]
    np.testing.assert_allclose(line.get_xdata(), [arm["x"] for arm in arms])
    values = [[run["test"]["natural"]["best"] for run in arm["runs"]] for arm in arms]
    np.testing.assert_allclose(line.get_ydata(), 100 * np.mean(values, axis=1))
    bar = container.lines[2][0].get_segments()[3]
    half = 100 * half_width(values[3])
    assert bar[1][1] - bar[0][1] == pytest.approx(2 * half)
    dense = np.mean([run["test"]["natural"]["best"] for run in document["arms"][-1]["runs"]])
    assert _lines(ax)["dense"].get_ydata()[0] == pytest.approx(100 * dense)
    assert "The level across: dense." in captions(document)["figure"].text


def test_the_papers_values_of_a_sweep():
    document = build_experiment("sweep", arms=22)
    figure = _draw(document, "sweep", ["validation_natural@1"])
    (thin,) = [
        line
        for line in figure.axes[0].get_lines()
        if line.get_markerfacecolor() == "white" and len(line.get_xdata())
    ]
    published = [100 * arm["published"]["validation_natural@1"] for arm in document["arms"][:11]]
    np.testing.assert_allclose(thin.get_ydata(), published)
    assert _texts(figure)[-1] == panels.PAPER


def test_points_that_were_never_reached_are_missing():
    document = build_experiment("sweep", arms=6)
    figure = _draw(document, "sweep", ["run:epochs_to_dense"])
    assert _texts(figure) == ["boosting"]
    assert "Where a point is missing" in captions(document)["figure"].text


@pytest.mark.parametrize(
    ("xs", "scale"), [((0.005, 0.01, 0.05), "log"), ((0.0, 0.01, 0.05), "symlog")]
)
def test_a_logarithmic_sweep_has_ticks_at_its_values(xs, scale):
    document = build_experiment("sweep", arms=6)
    document["arms"] = document["arms"][:3]
    for arm, x in zip(document["arms"], xs, strict=True):
        arm["x"] = x
    ax = _draw(document, "sweep", ["run:epochs"], log_x=True).axes[0]
    assert ax.get_xscale() == scale
    assert list(ax.get_xticks()) == list(xs)
    labels = [ax.xaxis.get_major_formatter()(x) for x in xs]
    assert labels == [f"{x:g}" for x in xs]


def test_ticks_that_would_run_into_each_other_are_left_out():
    document = build_experiment("sweep", arms=22)
    for i, arm in enumerate(document["arms"][:11]):
        arm["x"] = 1000 + i
    figure = _draw(document, "sweep", ["run:epochs", "run:density"])
    ticks = figure.axes[0].get_xticks()
    assert len(ticks) < len({arm["x"] for arm in document["arms"][:-1]})
    assert (ticks[0], ticks[-1]) == (0, 1010)


def test_a_sweep_of_one_value():
    document = build_experiment("sweep", arms=6)
    document["arms"] = document["arms"][:1]
    for x, limits in ((80.0, (40.0, 160.0)), (0.0, (-1.0, 1.0))):
        document["arms"][0]["x"] = x
        assert _draw(document, "sweep", ["run:epochs"]).axes[0].get_xlim() == limits


def test_a_sweep_without_x_is_no_figure():
    document = build_experiment()
    assert _draw(document, "sweep", ["run:epochs"]) is None


def test_the_heat_map_is_the_mean_over_the_seeds():
    document = build_experiment("transfer", seeds=(0, 1), arms=4)
    names, shares = figures.mean_transfer(document)
    first, second = (np.array(matrix) for matrix in document["transfer"]["matrices"])
    np.testing.assert_allclose(shares, (first + second) / 2)
    figure = figures.draw(document, document["figures"][0])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[1] == f"{100 * shares[0, 1]:.1f}"
    caption = captions(document)["transfer"]
    assert "means over 2 seeds" in caption.text
    assert f"crafted on dense: dense {100 * shares[0, 0]:.1f} %" in caption.alt
    told = document["figures"][0] | {"arms": ["winning", "dense"]}
    names, part = figures.mean_transfer(document, told)
    assert names == ["winning", "dense"]
    np.testing.assert_allclose(part, shares[np.ix_([3, 0], [3, 0])])
    assert figures.draw(document, told | {"arms": ["dense"]}) is None
    document["transfer"] = None
    assert figures.draw(document, told) is None


def test_long_names_keep_both_ends():
    document = build_experiment(arms=2)
    for arm, end in zip(document["arms"], ("0.01", "0.05"), strict=True):
        arm["name"] = f"a boosting ticket of a search that had the learning rate {end}"
    texts = _texts(_draw(document, "epochs", ["validation_natural"]))[:2]
    assert texts == [
        "a boosting ticket…learning rate 0.01", "a boosting ticket…learning rate 0.05",
    ]  # fmt: skip


def test_series_stand_beside_each_other():
    document = build_experiment("sweep", arms=6)
    figure = _draw(document, "sweep", ["test_natural@best"])
    figure.canvas.draw()
    first, second = (container.lines[0] for container in figure.axes[0].containers)
    assert list(first.get_xdata()) == list(second.get_xdata())
    places = [line.get_transform().transform((50, 70))[0] for line in (first, second)]
    assert places[1] - places[0] == pytest.approx(3 / 72 * figure.dpi)


@pytest.mark.parametrize("log_x", [False, True])
def test_everything_of_a_sweep_is_inside_the_axes(log_x):
    document = build_experiment("sweep", arms=6)
    for arm in document["arms"][:3]:
        arm["published"] = {"test_natural@best": 0.95}
    figure = _draw(document, "sweep", ["test_natural@best"], log_x=log_x)
    ax = figure.axes[0]
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    for container in ax.containers:
        x, mean = container.lines[0].get_data()
        bars = np.array(container.lines[2][0].get_segments())[:, :, 1]
        assert left < min(x) < max(x) < right
        assert bottom < bars.min() < mean.min() < mean.max() < bars.max() < top
    assert bottom < 95 < top


def test_names_are_no_markup():
    document = build_experiment(arms=2)
    for arm, name in zip(document["arms"], ("_hidden $x_1", "<b>|$\\frac{1"), strict=True):
        arm["name"] = arm["series"] = name
    document["claims"], document["ledger"] = [], []
    figure = _draw(document, "epochs", ["validation_natural"])
    figures.svg(figure)
    assert [text.removeprefix("\u200b") for text in _texts(figure)[:2]] == [
        "_hidden $x_1", "<b>|$\\frac{1",
    ]  # fmt: skip
