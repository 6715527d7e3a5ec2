"""Pictures of runs, in light and dark colours, and the HTML page that holds them."""

import base64
import html
import io
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from utils.plotting.runs import FULL_LOSS, settings

MARKERS = "osD^vP*X"
PAGE_STYLE = """
:root { color-scheme: light dark; --text: #1f2328; --paper: #ffffff; --line: #d1d9e0; --band: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --paper: #15191f; --line: #3d444d; --band: #1f252d; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--paper); max-width: 1200px;
  margin: 2rem auto; padding: 0 1rem; }
img { width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid var(--line); padding: .3rem .7rem; text-align: left; max-width: 24rem;
  overflow-wrap: break-word; }
th { background: var(--band); }
details { margin: .5rem 0; }
"""


class Theme(NamedTuple):
    """Colours of a picture: paper, text, grid, and one for each run."""

    paper: str
    text: str
    grid: str
    runs: tuple


# Colour-blind readers can tell these colours apart (after Okabe and Ito, 2008), and they contrast with their paper.
LIGHT = Theme("#ffffff", "#1f2328", "#d1d9e0", ("#0072b2", "#d55e00", "#009e73", "#a5518a", "#8a6d00", "#4a4a4a"))
DARK = Theme("#15191f", "#e6edf3", "#3d444d", ("#56b4e9", "#ff8c42", "#2fd6a3", "#e6a0cc", "#f0e442", "#c9c9c9"))


def curves(runs, topk, theme):
    """Losses, recall and MRR of a list of runs.Run: a Figure, with epochs in the upper row, seconds in the lower.

    Losses that are not of the same kind have axes of their own: a loss over samples isn't one over all items.
    """
    titles = [*loss_kinds(runs), f"recall@{topk}", f"MRR@{topk}"]
    figure = Figure(figsize=(4 * len(titles), 6.6), facecolor=theme.paper, layout="constrained")
    axes = figure.subplots(2, len(titles), sharey="col")
    for row, (across, label) in enumerate((("epoch", "epoch"), ("seconds", "seconds of training"))):
        for axis, title in zip(axes[row], titles):
            dress(axis, theme, label, title if row == 0 else "")
            if across == "epoch":
                axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        for number, run in enumerate(runs):
            _draw_run(dict(zip(titles, axes[row])), run, across, topk, theme, number)
    for axis in axes.flat:
        if not axis.lines:
            axis.xaxis.set_visible(False), axis.yaxis.set_visible(False)
            axis.text(0.5, 0.5, f"none recorded with k = {topk}:\ntrain with --valid_fraction,\nor run infer.py",
                      ha="center", va="center", color=theme.text, transform=axis.transAxes)
    _legend(figure, [run.name for run in runs], theme, [("training, or test by infer.py", "-"), ("validation", "--")],
            "A star marks the best epoch by validation." if any(run.best for run in runs) else "")
    return figure


def loss_kinds(runs):
    """The kinds of loss that the runs have figures of, each once: a list of str."""
    has_validation = any("valid_loss" in record for run in runs for record in run.epochs)
    return list(dict.fromkeys([run.loss_name for run in runs] + [FULL_LOSS] * has_validation))


def _draw_run(axes, run, across, topk, theme, number):
    """The lines of a run in the axes of its losses, of recall and of MRR, a dict by title."""
    where = {record["epoch"]: record[across] for record in run.epochs}
    tests = [run.tests[epoch] for epoch in sorted(run.tests)]
    lines = [(run.loss_name, "loss", "-", run.epochs), (FULL_LOSS, "valid_loss", "--", run.epochs)]
    for title, name in ((f"recall@{topk}", f"recall@{topk}"), (f"MRR@{topk}", f"mrr@{topk}")):
        lines += [(title, name, "--", run.epochs), (title, name, "-", tests)]
    for title, name, style, records in lines:
        points = [(where[record["epoch"]], record[name]) for record in records
                  if record.get(name) is not None and record["epoch"] in where]
        if points:
            axes[title].plot(*zip(*points), style, markersize=4, linewidth=1.6, **_line_style(theme, number),
                             markerfacecolor=theme.paper if style == "--" else None)
        best = [point for point in points if style == "--" and run.best and point[0] == where.get(run.best)]
        if best:
            axes[title].plot(*best[0], "*", color=_colour(theme, number), markersize=13, markeredgecolor=theme.text,
                             markeredgewidth=0.6, zorder=3)


def breakdown(groups, names, topk, theme):
    """Recall by groups of predictions, with 95 % intervals: a Figure.

    Parameters
    ----------
    groups : dict of str to lists of lists of breakdown.Group
        For each name in breakdown.GROUPINGS and each run, its groups.
    names : list of str
        The names of the runs.
    """
    figure = Figure(figsize=(12, 4.2), facecolor=theme.paper, layout="constrained")
    axes = figure.subplots(1, len(groups), sharey=True)
    for axis, (title, of_runs) in zip(axes, groups.items()):
        dress(axis, theme, title, "")
        for number, of_run in enumerate(of_runs):
            shift = (number - (len(of_runs) - 1) / 2) * 0.12  # so that intervals don't hide each other
            axis.errorbar([place + shift for place in range(len(of_run))], [group.recall for group in of_run],
                          yerr=[1.96 * group.error for group in of_run], linewidth=1.4, capsize=2, markersize=4,
                          **_line_style(theme, number))
        predictions = sum(group.predictions for group in of_runs[0])
        labels = [f"{group.name}\n{100 * (group.predictions / predictions):.2g} %" for group in of_runs[0]]
        axis.set_xticks(range(len(labels)), labels, fontsize=8)
    axes[0].set_ylabel(f"recall@{topk}", color=theme.text)
    _legend(figure, names, theme, [],
            "Second line of each label: its share of the predictions. Bars: 95 % intervals.")
    return figure


def as_png(draw):
    """The picture that `draw`, a function of a Theme, makes, as bytes; on white, which is readable anywhere."""
    return saved(draw(LIGHT), "png", dpi=150)


def page(runs, differences, pictures, topk):
    """One HTML page that needs no other file.

    Parameters
    ----------
    runs : list of runs.Run
    differences : dict of str to list of str
        As `runs.setting_differences` returns it.
    pictures : list of pairs of a title and a function of a Theme
    topk : int
    """
    names = [run.name for run in runs]
    title_of_page = _text(", ".join(names))
    parts = [f"<h1>{title_of_page}</h1>", "<h2>Figures</h2>",
             _table(_summary_head(topk), [_summary(run, topk) for run in runs])]
    for title, draw in pictures:
        light, dark = (base64.b64encode(saved(draw(theme), "svg")).decode() for theme in (LIGHT, DARK))
        parts.append(f'<h2>{_text(title)}</h2>\n<picture><source media="(prefers-color-scheme: dark)" '
                     f'srcset="data:image/svg+xml;base64,{dark}"><img alt="{_text(title)}" '
                     f'src="data:image/svg+xml;base64,{light}"></picture>')
    if len(runs) > 1:
        parts += ["<h2>Settings that differ</h2>",
                  _table(["", *names], [[name, *values] for name, values in differences.items()])]
    parts.append("<h2>All settings</h2>")
    for run in runs:
        table = _table(["", ""], list(settings(run).items()))
        parts.append(f"<details><summary>{_text(run.name)}</summary>{table}</details>")
    body = "\n".join(parts)
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width"><title>{title_of_page}</title>'
            f"<style>{PAGE_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n")


def _summary_head(topk):
    figures = f"recall@{topk}", f"MRR@{topk}"
    return ["run", "epochs", "seconds of training", "training loss", "which is", "best or last epoch",
            *(f"validation {name}" for name in figures), *(f"test {name}" for name in figures)]


def _summary(run, topk):
    """The run's line in the table of figures: those of its best epoch, or of the last one without validation."""
    last, names = run.epochs[-1], (f"recall@{topk}", f"mrr@{topk}")
    shown = run.best or last["epoch"]
    validated = next((record for record in run.epochs if record["epoch"] == shown), {})
    figures = [f"{record[name]:.4f}" if record.get(name) is not None else "-"
               for record in (validated, run.tests.get(shown, {})) for name in names]
    return [run.name, str(last["epoch"]), f"{last['seconds']:.1f}", f"{last['loss']:.4f}", run.loss_name, str(shown),
            *figures]


def _table(head, rows):
    line = lambda tag, cells: "<tr>" + "".join(f"<{tag}>{_text(cell)}</{tag}>" for cell in cells) + "</tr>"
    return '<div class="wide"><table>' + line("th", head) + "".join(line("td", row) for row in rows) + "</table></div>"


def _text(value):
    return html.escape(str(value))


def dress(axis, theme, label, title):
    """Give an axis the colours of a Theme, a grid, a label below and a title."""
    axis.set_facecolor(theme.paper)
    axis.set_xlabel(label, color=theme.text)
    axis.set_title(title, color=theme.text, fontsize=11)
    axis.tick_params(colors=theme.text, labelsize=9)
    axis.grid(color=theme.grid, linewidth=0.7)
    axis.set_axisbelow(True)
    for side, spine in axis.spines.items():
        spine.set_color(theme.grid)
        spine.set_visible(side in ("left", "bottom"))


def _legend(figure, names, theme, styles, note=""):
    lines = [Line2D([], [], markersize=5, label=name, **_line_style(theme, number))
             for number, name in enumerate(names)]
    lines += [Line2D([], [], color=theme.text, linestyle=style, label=what) for what, style in styles]
    legend = figure.legend(handles=lines, loc="outside lower center", ncols=min(len(lines), 6), frameon=False,
                           labelcolor=theme.text, fontsize=9, title=note or None, title_fontproperties={"size": 9})
    legend.get_title().set_color(theme.text)


def _line_style(theme, number):
    """The colour and the marker of a run's lines."""
    return {"color": _colour(theme, number), "marker": MARKERS[number % len(MARKERS)]}


def _colour(theme, number):
    return theme.runs[number % len(theme.runs)]


def saved(figure, kind, **options):
    """A Figure as the bytes of a file; the same picture gives the same bytes."""
    data = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "gru4rec"} | options.pop("settings", {})):
        figure.savefig(data, format=kind, metadata={"Date": None} if kind == "svg" else None, **options)
    return data.getvalue()
