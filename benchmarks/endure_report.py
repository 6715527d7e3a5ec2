"""What benchmarks/endure.py finds: what is wrong, latencies by minute, the growth of memory, and a picture of both."""

from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from utils.plotting.pictures import dress

BLOCKS, T_95 = 12, 2.228  # means that the line is put through; Student's t for 10 degrees of freedom
SETTLING = 0.25  # of the time, at first, when caches fill
RECOVERY = 4.0  # seconds after its end in which a disturbance still explains something
MOST_GROWTH = 16.0  # MiB in the whole time, beyond doubt


class Findings:
    """What happened: requests with their times in seconds since the beginning, disturbances, and what is wrong."""

    def __init__(self):
        self.requests = []  # (due, latency, status), status 0 without an answer
        self.disturbances = []  # [what, from, to]
        self.memory = {}  # for each part, (time, MiB)
        self.verdicts, self.garbage, self.wrong, self.stop_seconds = Counter(), Counter(), [], 0.0

    def note(self, what):
        if what not in self.wrong:
            self.wrong.append(what)

    def is_explained(self, kinds, start, end):
        """Whether a disturbance of one of these kinds was under way between two times."""
        return any(what in kinds and first <= end and start <= last + RECOVERY
                   for what, first, last in self.disturbances)


def by_interval(requests, seconds, interval):
    """For each interval: its start, how many were asked, p50, p99 and the maximum in milliseconds, and the errors."""
    rows = []
    for start in np.arange(0, seconds, interval):
        these = [request for request in requests if start <= request[0] < start + interval]
        latencies = np.array([latency for _, latency, status in these if status == 200]) * 1000
        errors = Counter(status or "no answer" for _, _, status in these if status != 200)
        found = np.percentile(latencies, [50, 99, 100]) if len(latencies) else [np.nan] * 3
        rows.append((start, len(these), *found, errors))
    return rows


def slope(points):
    """The growth in MiB a minute of points (seconds, MiB), and the half width of its 95 % interval.

    Neighbouring points aren't independent, so the line goes through the means of BLOCKS parts of the time. NaN where
    there are too few points.
    """
    times, sizes = np.array(points).T
    settled = times >= times[0] + SETTLING * (times[-1] - times[0])
    if settled.sum() < 2 * BLOCKS:
        return np.nan, np.nan
    x = np.array([part.mean() for part in np.array_split(times[settled], BLOCKS)]) / 60
    y = np.array([part.mean() for part in np.array_split(sizes[settled], BLOCKS)])
    around = x - x.mean()
    growth = around @ y / (around @ around)
    rest = y - y.mean() - growth * around
    return growth, T_95 * np.sqrt(rest @ rest / (BLOCKS - 2) / (around @ around))


def look_at_memory(findings, seconds):
    """A line for each part, and a note where one grows."""
    lines = []
    for part, points in findings.memory.items():
        growth, doubt = slope(points)
        lines.append(f"{part:14}{points[0][1]:8.1f}{max(size for _, size in points):8.1f}{points[-1][1]:8.1f}"
                     f"{growth:12.2f} +- {doubt:.2f}")
        if (growth - doubt) * seconds / 60 > MOST_GROWTH:
            findings.note(f"memory: found {part} growing by {growth:.2f} +- {doubt:.2f} MiB a minute, expected none")
    return lines


def print_report(findings, seconds, interval):
    print(f"{'from s':>8}{'asked':>8}{'p50 ms':>8}{'p99 ms':>8}{'max ms':>9}  errors")
    for start, asked, p50, p99, most, errors in by_interval(findings.requests, seconds, interval):
        told = ", ".join(f"{status}: {count}" for status, count in sorted(errors.items(), key=str))
        print(f"{start:8.0f}{asked:8}{p50:8.1f}{p99:8.1f}{most:9.1f}  {told}")
    print(f"{'memory, MiB':14}{'first':>8}{'most':>8}{'last':>8}  growth a minute, 95 %")
    print(*look_at_memory(findings, seconds), sep="\n")
    for title, counts in (("disturbances", Counter(what for what, _, _ in findings.disturbances)),
                          ("answers", findings.verdicts), ("garbage, replies by status", findings.garbage)):
        print(f"{title}: " + ", ".join(f"{what}: {count}" for what, count in sorted(counts.items(), key=str)))
    print(f"stopped by SIGTERM in {findings.stop_seconds:.1f} s")
    print(*(findings.wrong or ["found nothing wrong"]), sep="\n")


def picture(findings, seconds, interval, theme):
    """Latencies by interval, with what disturbed them, above the memory of each part: a Figure."""
    figure = Figure(figsize=(10, 7), facecolor=theme.paper, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    rows = by_interval(findings.requests, seconds, interval)
    dress(above, theme, "", f"latency through nginx, milliseconds, by {interval:g} s")
    places = [row[0] + interval / 2 for row in rows]
    for column, name, colour in ((2, "p50", theme.runs[0]), (3, "p99", theme.runs[1])):
        above.plot(places, [row[column] for row in rows], "o-", color=colour, markersize=4, label=name)
    above.set_yscale("log")
    labelled = set()
    for what, first, last in findings.disturbances:
        colour = theme.runs[2 + sorted({what for what, _, _ in findings.disturbances}).index(what) % 4]
        above.axvspan(first, max(last, first + seconds / 400), color=colour, alpha=0.25, linewidth=0,
                      label=None if what in labelled else what)
        labelled.add(what)
    dress(below, theme, "seconds", "memory, MiB (Pss)")
    for (part, points), colour in zip(findings.memory.items(), theme.runs):
        below.plot(*zip(*points), color=colour, linewidth=1.2, label=part)
    below.set_ylim(bottom=0)
    for axis in above, below:
        axis.legend(frameon=False, labelcolor=theme.text, fontsize=9, ncols=3)
    return figure


def shared_memory(process):
    """The memory of a process in MiB, where what several share is divided among them (Pss); None where it is gone."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), None)
