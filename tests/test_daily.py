"""benchmarks/daily.py: a week of a small shop, its scripts run within this process."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, run_script

DAY = 86_400
QUICK = "--hid_size 8 --pass_num 1 --neg_size 8"


@pytest.fixture
def clicks(tmp_path):
    """Clicks of six days, item 900 + n only on day n and the next; the last sessions of a day end after midnight."""
    random, lines, session = np.random.default_rng(2), ["SessionId\tItemId\tTime"], 0
    for day in range(6):
        for _ in range(25):
            session += 1
            second = (16_000 + day) * DAY + int(random.integers(DAY - 60))
            items = [*random.integers(20, size=random.integers(2, 5)), 900 + day - random.integers(2)]
            for place, item in enumerate(items):
                lines.append(f"{session}\t{item}\t{second + 60 * place}")
    path = tmp_path / "clicks.tsv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


@pytest.fixture
def daily(monkeypatch, run_here):
    """A function of flags that runs benchmarks/daily.py in this process; `calls` has the scripts that it started."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import daily

    def here(command, **_):
        run.calls.append([Path(command[1]).name, *command[2:]])
        if "--extend" in command:
            run.updates.append(Path(command[2], "sessions.txt").read_text().splitlines())
        return run_here(Path(command[1]).name, *command[2:])

    def run(*flags):
        run.calls, run.updates = [], []
        monkeypatch.setattr(sys, "argv", ["daily.py", *map(str, flags)])
        daily.main()

    monkeypatch.setattr(subprocess, "run", here)
    return run


def test_three_models_are_asked_every_day_and_nothing_is_measured_twice(daily, clicks, tmp_path, capsys):
    out_dir = tmp_path / "out"
    flags = ["--input", clicks, "--name", "a shop", "--report_days", 2, "--window", 2, "--copies", 3, "--older", 4,
             "--train_flags", QUICK, "--update_flags", "--neg_size 8", "--out_dir", out_dir]
    daily(*flags)
    lines = capsys.readouterr().out.splitlines()
    days = ["2013-10-26", "2013-10-27"]
    titles = ["recall@20", "targets", "new that day", "new since the first", "retrained", "updated", "alone"]
    assert lines[0] == f"| {' | '.join(titles)} |"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:6]]
    assert [row[0] for row in rows] == [*days, f"{days[0]} to {days[1]}", "all but the first"]
    texts = {day: (out_dir / "days" / f"{day}.txt").read_text().splitlines() for day in days}
    sizes = [sum(len(line.split()) - 1 for line in texts[day]) for day in days]
    assert [int(row[1]) for row in rows] == [*sizes, sum(sizes), sum(sizes[1:])]
    assert float(rows[0][2].split()[0]) > 0 and rows[0][2] == rows[0][3], "the same before the first day"
    assert float(rows[1][2].split()[0]) < float(rows[1][3].split()[0])
    assert rows[0][4] == rows[0][5] == rows[0][6], "one model on the first day"
    assert all(0 <= float(cell) < 1 for row in rows for cell in row[4:])
    assert [line.split(":")[0] for line in lines[6:]] == ["retrained", "updated", "alone"]
    updates = [call for call in daily.calls if "--init_from" in call]
    assert len(updates) == 1 and [call for call in daily.calls if call[0] == "train_sample_neg.py"] != updates
    [update], earlier = daily.updates, [path.read_text().splitlines() for path in sorted((out_dir / "days").iterdir())]
    recent, older = sum(earlier[-3:-1], []), sum(earlier[:-3], [])
    counts = Counter(update)
    assert all(counts[line] >= 3 for line in recent) and set(counts) <= {*recent, *older}
    assert len(update) == 3 * len(recent) + len(older[5 % 4::4]) and update != sorted(update)
    drawn = json.loads((out_dir / "daily.json").read_text())
    for column, name in enumerate(["retrained", "updated", "alone"], 4):
        assert drawn["recall@20"][name] == pytest.approx([float(row[column]) for row in rows[:2]], abs=6e-5)
    assert (drawn["data"], drawn["unit"], drawn["flags"]["copies"]) == ("a shop", "day", 3)
    light, dark = ((out_dir / f"daily{name}.svg").read_text() for name in ("", "_dark"))
    assert "updated" in light and "recall@20 on a shop" in dark and light != dark
    records = (out_dir / "figures.jsonl").read_text()
    assert len(records.splitlines()) == 6 and all(json.loads(line)["hits"] >= 0 for line in records.splitlines())

    daily(*flags)
    assert not daily.calls and capsys.readouterr().out.splitlines() == lines
    (out_dir / "figures.jsonl").write_text("".join(records.splitlines(keepends=True)[:-1]))
    daily(*flags)
    assert [call[0] for call in daily.calls] == ["text2paddle.py", "infer_sample_neg.py"]
    assert capsys.readouterr().out.splitlines()[:6] == lines[:6], "a run that was stopped ends the same"


def test_parts_in_the_place_of_days(daily, clicks, tmp_path, capsys):
    daily("--input", clicks, "--parts", 5, "--report_days", 2, "--models", "alone", "--train_flags", QUICK, "--out_dir",
          tmp_path / "out")
    assert "| part_5 | " in capsys.readouterr().out
    texts = [path.read_text().splitlines() for path in sorted((tmp_path / "out/days").iterdir())]
    assert [len(text) for text in texts] == [30] * 5 and len({line for text in texts for line in text}) > 100


@pytest.mark.parametrize("flags, fragments", [
    (["--models", "updated,guessed"], ["--models: found guessed"]),
    (["--report_days", 6], ["--report_days: found 6", "expected fewer than there are, "]),
    (["--input", "nowhere.tsv"], ["--input: ", "nowhere.tsv"]),
])
def test_what_can_not_be_measured_ends_in_one_line(clicks, tmp_path, flags, fragments):
    usual = {"--input": clicks, "--report_days": 2, "--out_dir": tmp_path / "out"} | dict([flags])
    given = [word for pair in usual.items() for word in pair]
    assert_one_line_error(run_script("benchmarks/daily.py", *given), *fragments)
