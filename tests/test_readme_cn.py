"""README_cn.md says what README.md says: the same commands, figures, links, code, sections and tables."""

import re

import pytest
from conftest import ROOT

ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README_cn.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
LANGUAGES = "README.md", "README_cn.md"  # the links from one to the other
UNITS = {"次预测/秒": "predictions/s", "次预测": "predictions", "个会话": "sessions", "个物品": "items",
         "首歌曲": "songs", "个隐藏单元": "units"}
ALL_UNITS = [*UNITS, *UNITS.values(), "s", "ms", "GB"]
FIGURE = re.compile(r"(?<![A-Za-z0-9_.])(\.?\d[\d,.]*?)(?![\d,.]*\d)(\s(?:million|万))?\s?"
                    rf"((?:{'|'.join(sorted(ALL_UNITS, key=len, reverse=True))})(?![A-Za-z]))?")
TIMES = {"": 1, "million": 1_000_000, "万": 10_000}


def commands(block):
    """A block's lines without comments; of a file tree the names with their indentation."""
    language, body = block
    comment = r"(?<=\S) {3,}" if language == "text" else r"\s+# "
    return [re.split(comment, line)[0] for line in body.splitlines()]


def figures(text):
    """Numbers, each with its unit, in their order."""
    found = []
    for number, times, unit in FIGURE.findall(LINK.sub("]", CODE.sub("", BLOCK.sub("", text)))):
        if number.count(".") < 2:  # else a version, such as 2.6.2
            number = float(number.replace(",", "")) * TIMES[times.strip()]
        found.append((number, UNITS.get(unit, unit)))
    return found


def contents(text):
    """What has to be the same in both, section by section."""
    return [{"heading": re.match("#*", section)[0],
             "commands": [commands(block) for block in BLOCK.findall(section)],
             "figures": figures(section),
             "code": sorted(" ".join(code.split()) for code in CODE.findall(BLOCK.sub("", section))),
             "links": sorted(target for target in LINK.findall(section) if target not in LANGUAGES),
             "cells of the rows": [line.count("|") for line in section.splitlines() if line.startswith("|")]}
            for section in re.split(r"^(?=#+ )", text, flags=re.MULTILINE)[1:]]


def test_both_have_the_same_contents():
    english, chinese = contents(ENGLISH), contents(CHINESE)
    assert len(english) == len(chinese) > 6
    for ours, theirs in zip(english, chinese):
        assert theirs == ours


def test_each_leads_to_the_other():
    assert "(README_cn.md)" in ENGLISH.split("\n\n")[1] and "(README.md)" in CHINESE.split("\n\n")[1]


@pytest.mark.parametrize("part, old, new", [
    ("figures", "740 s", "741 s"), ("figures", ".7256 至", ".7255 至"), ("figures", "2.3 GB", "2.3 ms"),
    ("figures", "650 万", "65 万"), ("figures", "55,379 次预测", "55,379 个会话"), ("figures", "116,167", "116167.5"),
    ("commands", "--topk 5 p7", "--topk 6 p7"), ("commands", "tune.py  ", "tuning.py  "),
    ("code", "`requirements-gpu.txt`", "`requirements.txt`"), ("links", "docs/speed.md#machines", "docs/speed.md"),
    ("cells of the rows", "| S-POP |", "| S-POP "), ("heading", "## 局限", "### 局限"),
])
def test_a_difference_is_found(part, old, new):
    assert CHINESE.count(old) >= 1
    changed = contents(CHINESE.replace(old, new, 1))
    assert [section[part] for section in changed] != [section[part] for section in contents(ENGLISH)]
