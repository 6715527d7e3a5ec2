"""Pictures of a search: what each trial found, which parameters mattered, and which values go with which figures."""

import math

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from utils.plotting.pictures import dress

LABEL_LENGTH = 24  # characters of a name at an axis


def history(watched, trials, running_best, theme):
    """The figure of each trial, and the best one so far: a Figure.

    Parameters
    ----------
    watched : str
        The figure of the validation.
    trials : dict of str to list of (int, float)
        By how they ended ("finished", "stopped early"), the number and the figure of each trial.
    running_best : list of (int, float)
        The best figure of the finished trials up to each.
    theme : pictures.Theme
    """
    figure = Figure(figsize=(8, 4.5), facecolor=theme.paper, layout="constrained")
    axis = figure.subplots()
    dress(axis, theme, "trial", watched)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for (name, points), marker, colour in zip(trials.items(), "ox", theme.runs):
        if points:
            axis.plot(*zip(*points), marker, color=colour, markersize=5, label=name)
    if running_best:
        axis.step(*zip(*running_best), where="post", color=theme.runs[2], linewidth=1.6, label="best so far")
    axis.legend(frameon=False, labelcolor=theme.text, fontsize=9)
    return figure


def importance(shares, theme):
    """How much each parameter mattered, as bars: a Figure; `shares` is a dict of names to parts of 1."""
    figure = Figure(figsize=(8, 1.2 + 0.35 * max(1, len(shares))), facecolor=theme.paper, layout="constrained")
    axis = figure.subplots()
    dress(axis, theme, "share of the importance (PED-ANOVA)", "which parameters the best tenth depends on")
    names = sorted(shares, key=shares.get)
    axis.barh([_short(name) for name in names], [shares[name] for name in names], color=theme.runs[0])
    if not names:
        axis.text(0.5, 0.5, "none: too few finished trials", ha="center", va="center", color=theme.text,
                  transform=axis.transAxes)
    return figure


def parallel_coordinates(watched, rows, larger_is_better, theme):
    """One line for each trial over one axis for each parameter, the better the darker: a Figure.

    Parameters
    ----------
    watched : str
    rows : list of dict
        Of each finished trial, its figure as `watched`, and the values of its parameters by name: numbers or texts. A
        line leaves out what the trial doesn't have.
    larger_is_better : bool
    theme : pictures.Theme
    """
    names = list(dict.fromkeys(name for row in rows for name in row if name != watched)) + [watched]
    figure = Figure(figsize=(max(6, 1.6 * len(names)), 5), facecolor=theme.paper, layout="constrained")
    axis = figure.subplots()
    dress(axis, theme, "", "")
    axis.yaxis.set_visible(False)
    axis.set_xticks(range(len(names)), [_short(name) for name in names], rotation=20, ha="right")
    axis.set_xlim(-0.5, len(names) - 0.2)
    places = {name: _places([row[name] for row in rows if name in row]) for name in names}
    order = sorted(rows, key=lambda row: row[watched], reverse=not larger_is_better)  # the best is drawn last
    for rank, row in enumerate(order):
        share = (rank + 1) / len(order)
        points = [(place, places[name][row[name]]) for place, name in enumerate(names) if name in row]
        axis.plot(*zip(*points), color=theme.runs[1 if share == 1 else 0], alpha=0.1 + 0.9 * share**3,
                  linewidth=2.4 if share == 1 else 1.1)
    for place, name in enumerate(names):
        for value, height in _labels(places[name]):
            axis.annotate(_text(value), (place, height), xytext=(4, 0), textcoords="offset points", fontsize=8,
                          color=theme.text, va="center")
    return figure


def _places(values):
    """Where each of the values lies on an axis from 0 to 1; numbers far apart by their logarithm. A dict."""
    distinct = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    if any(isinstance(value, str) for value in distinct) or len(distinct) < 2:
        return {value: (place + 0.5) / len(distinct) for place, value in enumerate(distinct)}
    is_wide = distinct[0] > 0 and distinct[-1] / distinct[0] > 8
    scaled = [math.log(value) if is_wide else value for value in distinct]
    return {value: (here - scaled[0]) / (scaled[-1] - scaled[0]) for value, here in zip(distinct, scaled)}


def _labels(places):
    """The values that are written at an axis: all where there are few, else the ends and the one in the middle."""
    items = list(places.items())
    return items if len(items) <= 6 else [items[0], min(items, key=lambda item: abs(item[1] - 0.5)), items[-1]]


def _text(value):
    return value if isinstance(value, str) else f"{value:.3g}" if abs(value) < 1000 else f"{value:g}"


def _short(name):
    return name if len(name) <= LABEL_LENGTH else f"{name[:LABEL_LENGTH - 3]}..."
