"""The reliability curve of probabilities as a picture."""

from matplotlib.figure import Figure

from utils.plotting.pictures import dress


def reliability(predicted, found, counts, theme):
    """How often sessions buy against the probability that was said, as metrics.reliability_curve has it: a Figure."""
    figure = Figure(figsize=(5, 5), facecolor=theme.paper, layout="constrained")
    axis = figure.subplots()
    dress(axis, theme, "probability said", f"{counts.sum():,} sessions in {len(counts)} groups")
    most = 1.05 * max(predicted.max(), found.max())
    axis.plot([0, most], [0, most], "--", linewidth=1, color=theme.text)
    axis.plot(predicted, found, "o-", linewidth=1.6, markersize=5, color=theme.runs[0])
    axis.set_ylabel("share that buys", color=theme.text)
    return figure
