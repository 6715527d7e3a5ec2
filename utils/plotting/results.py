"""Pictures of recorded results: recall against processor time, speed against the number of items, recall by day."""

import re

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from utils.files import write_atomically
from utils.plotting.pictures import DARK, LIGHT, dress, saved

WIDTH, HEIGHT = 8.3, 4.4  # inches; 800 pixels wide on a page
SHIFTS = [  # where a label may stand beside its point, in points: the first place that is free
    (8, 0, "left", "center"), (0, 8, "center", "bottom"), (0, -8, "center", "top"), (-8, 0, "right", "center"),
    (6, 7, "left", "bottom"), (6, -7, "left", "top"), (-6, 7, "right", "bottom"), (-6, -7, "right", "top"),
    (8, 9, "left", "center"), (8, -9, "left", "center"), (8, 16, "left", "center"), (8, -16, "left", "center"),
    (-8, 16, "right", "center"), (-8, -16, "right", "center"),
]
FEW_POWERS = 1000  # the share of the ends of an axis up to which 2 and 5 times its powers of ten are written, too
CLIP_NAME = re.compile(rb"\bp[0-9a-f]{10}\b")  # of the one clip path in a picture: it depends on NumPy's version
BETWEEN = 24  # points on each stretch of a line that labels keep clear of
STYLES = {  # the number of the colour in Theme.runs and the marker of a series; other series are text-coloured
    "train_sample_neg.py": (0, "o"), "official settings": (1, "s"), "train.py": (2, "D"), "4 joined": (3, "*"),
    "with the memory": (0, "o"), "the network alone": (2, "D"),
    "retrained": (0, "o"), "updated": (1, "s"), "alone": (5, "^"),
    "S-POP": (5, "v"), "Item-KNN": (5, "P"), "item transitions": (5, "X"), "V-SKNN": (5, "^"),
}
UNITS = {  # what a figure is called on its axis
    "recall@20": "recall@20", "mrr@20": "MRR@20",
    "predictions_per_second": "predictions trained in a second of one processor",
    "answers_per_second": "answers in a second of one processor",
    "p50_ms": "milliseconds until the answer",
}


def write_light_and_dark(draw, path):
    """Write the picture that `draw`, a function of a Theme, makes: PATH.svg and PATH_dark.svg.

    Their text is text, in any font without serifs that the reader has.
    """
    for added, theme in (("", LIGHT), ("_dark", DARK)):
        with write_atomically(f"{path}{added}.svg", "wb") as file:
            file.write(CLIP_NAME.sub(b"axes", saved(draw(theme), "svg", settings={"svg.fonttype": "none"})))


def quality(record, figure_name, lowest, theme):
    """Recall or MRR against processor time, on a logarithmic axis: a Figure.

    Parameters
    ----------
    record : dict
        Of benchmarks/recorded, as record_recall.py writes it.
    figure_name : str
        "recall@20" or "mrr@20".
    lowest : float
        Where the axis of the figure begins; what lies below is named at the bottom.
    theme : pictures.Theme
    """
    figure, axis = _figure(theme, "processor seconds: all of a training; of a baseline with the answers to the test")
    axis.set_title(f"{UNITS[figure_name]} on {record['data']}: {record['predictions']:,} predictions of the test",
                   color=theme.text, fontsize=11, loc="left")
    points = {series["name"]: [(point["processor_seconds"], point[figure_name]) for point in series["points"]]
              for series in record["series"]}
    seconds = [second for series in points.values() for second, _ in series]
    axis.set_xlim(min(seconds) / 1.6, max(seconds) * 4)
    _plain_numbers(axis.xaxis)
    highest = max(value for series in points.values() for _, value in series)
    span = highest - lowest
    axis.set_ylim(lowest, highest + 0.06 * span)
    shown = {name: [(series[-1][0], lowest + 0.02 * span)] if series[-1][1] < lowest else series
             for name, series in points.items()}
    labels = {series["name"]: _quality_label(series, figure_name, lowest) for series in record["series"]}
    _draw_lines(axis, shown, labels, theme)
    return figure


def _quality_label(series, figure_name, lowest):
    """The name of a series, its last figure, and what has to be said of it."""
    value = series["points"][-1][figure_name]
    below = " (below the axis)" if value < lowest else ""
    return f"{series['name']} {value:.4f}{below}".replace(" 0.", " .") + f"\n{series.get('note', '')}".rstrip()


def growth(record, figure_names, theme):
    """Figures against the number of items, both axes logarithmic: a Figure.

    Parameters
    ----------
    record : dict
        Of benchmarks/recorded, as record_catalogue.py writes it.
    figure_names : dict of str to str
        What is drawn, and what is added to the label of its line.
    theme : pictures.Theme
    """
    figure, axis = _figure(theme, "items of the catalogue", right=0.72)
    axis.set_title(UNITS[next(iter(figure_names))], color=theme.text, fontsize=11, loc="left")
    lines, styles = {}, {}
    for place, (name, added) in enumerate(figure_names.items()):
        for series in record["series"]:
            points = [(point["items"], point[name]) for point in series["points"] if name in point]
            if points:
                label = f"{series['name']}{added}"
                lines[label], styles[label] = points, (STYLES[series["name"]], "--" if place else "-")
    axis.set_yscale("log")
    values = [value for line in lines.values() for _, value in line]
    items = [count for line in lines.values() for count, _ in line]
    axis.set_xlim(min(items) / 1.4, max(items) * 1.4)
    axis.set_ylim(min(values) / 1.6, max(values) * 1.6)
    _plain_numbers(axis.xaxis)
    _plain_numbers(axis.yaxis)
    _draw_lines(axis, lines, {label: f"{label}: {_significant(line[-1][1])}" for label, line in lines.items()}, theme,
                styles)
    return figure


def days(record, theme):
    """Recall by day of models that are trained in different ways, as daily.py records it: a Figure."""
    figure, axis = _figure(theme, record["unit"], is_logarithmic=False, right=0.88)
    axis.set_title(f"recall@20 on {record['data']}", color=theme.text, fontsize=11, loc="left")
    lines = {name: list(enumerate(values, 1)) for name, values in record["recall@20"].items()}
    count = max(map(len, lines.values()))
    axis.set_xlim(0.5, count + 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _draw_lines(axis, lines, {name: name for name in lines}, theme)
    return figure


def _figure(theme, label, is_logarithmic=True, right=0.98):
    figure = Figure(figsize=(WIDTH, HEIGHT), facecolor=theme.paper)
    FigureCanvasAgg(figure)  # it knows how wide a label is
    axis = figure.add_axes((0.085, 0.12, right - 0.085, 0.79))
    dress(axis, theme, label, "")
    if is_logarithmic:
        axis.set_xscale("log")
    return figure, axis


def _plain_numbers(axis_of_one):
    """Give a logarithmic xaxis or yaxis plain numbers: powers of ten, and where there are few, 2 and 5 times these."""
    low, high = axis_of_one.get_view_interval()
    powers, plain = range(-3, 10), FuncFormatter(lambda value, _: f"{value:,.10g}")
    axis_of_one.set_major_locator(FixedLocator([10.0**power for power in powers]))
    axis_of_one.set_minor_locator(FixedLocator([times * 10.0**power for power in powers for times in (2, 5)]))
    axis_of_one.set_major_formatter(plain)
    axis_of_one.set_minor_formatter(plain if high / low < FEW_POWERS else NullFormatter())
    axis_of_one.set_tick_params(which="minor", colors=axis_of_one.get_ticklabels()[0].get_color(), labelsize=9)


def _draw_lines(axis, lines, labels, theme, styles=None):
    """Lines of points in the data's coordinates, dicts by name, each with its label beside its last point."""
    styles = styles or {name: (STYLES.get(name, (5, "h")), "-") for name in lines}
    for name, line in lines.items():
        (number, marker), dashes = styles[name]
        axis.plot(*zip(*line), dashes, color=theme.runs[number], marker=marker, linewidth=1.6, zorder=3,
                  markersize=11 if marker == "*" else 6)
    axis.get_ylim()  # which are settled only now that all lines are there
    pixels, boxes = {name: axis.transData.transform(line) for name, line in lines.items()}, []
    occupied = [of_line + (then - of_line) * share for line in pixels.values()
                for of_line, then in zip(line, [*line[1:], line[-1]]) for share in np.linspace(0, 1, BETWEEN)]
    for name, line in lines.items():
        boxes.append(_place_label(axis, labels[name], line[-1], theme.runs[styles[name][0][0]], occupied, boxes))


def _place_label(axis, text, point, colour, occupied, boxes):
    """Write a label where it hides the fewest points and no other label: its Bbox in pixels."""
    renderer, page = axis.figure.canvas.get_renderer(), axis.figure.bbox
    best = None
    for right, up, horizontal, vertical in SHIFTS:
        label = axis.annotate(text, point, (right, up), textcoords="offset points", ha=horizontal, va=vertical,
                              color=colour, fontsize=9.5, annotation_clip=False)
        box = label.get_window_extent(renderer)
        hidden = box.padded(2).count_contains(occupied) + 1000 * box.count_overlaps(boxes)
        hidden += 1000 * (box.x0 < axis.bbox.x0 or box.x1 > page.x1 or box.y1 > page.y1)
        if best is None or hidden < best[0]:
            if best:
                best[1].remove()
            best = hidden, label, box
        else:
            label.remove()
        if not hidden:
            break
    return best[2]


def _significant(value):
    """A number with two significant digits and thousands apart: 94,000, 0.92."""
    digits = max(1 - int(np.floor(np.log10(value))), 0)
    return f"{round(value, 1 - int(np.floor(np.log10(value)))):,.{digits}f}"
