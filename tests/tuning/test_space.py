"""utils/tuning/space.py: what NNI's types draw, and spaces that are refused."""

import json
import math
import random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from utils.files import InputError
from utils.tuning.space import Parameter, all_parameters, corners, drawn_for, flags_of, read_space, text_of

NUMBER = st.floats(-1e6, 1e6)
POSITIVE = st.floats(1e-6, 1e6)


class Draws:
    """Stands in for an optuna.Trial that draws at random."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def suggest_categorical(self, key, values):
        return self.random.choice(values)

    def suggest_int(self, key, low, high):
        return self.random.randint(low, high)

    def suggest_float(self, key, low, high, log):
        assert low < high and (not log or low > 0)
        return math.exp(self.random.uniform(math.log(low), math.log(high))) if log else self.random.uniform(low, high)


def parameter(kind, *values):
    return Parameter("flag", "flag", kind, list(values))


def draw(of, seed):
    """A value, which can be found back."""
    trial = Draws(seed)
    value = of.value_of(of.suggest(trial))
    assert of.value_of(of.drawn_for(value)) == pytest.approx(value, rel=1e-5, abs=1e-12)
    return value


@given(st.integers(-1000, 1000), st.integers(1, 1000), st.integers())
def test_randint_leaves_out_the_upper_end(low, size, seed):
    value = draw(parameter("randint", low, low + size), seed)
    assert type(value) is int and low <= value < low + size


@given(st.sampled_from(["uniform", "loguniform"]), POSITIVE, POSITIVE, st.integers())
def test_uniform(kind, low, size, seed):
    assume(low + size > low)
    assert low <= draw(parameter(kind, low, low + size), seed) <= low + size


@given(st.sampled_from(["quniform", "qloguniform"]), POSITIVE, POSITIVE, st.floats(1e-3, 1e3), st.integers())
def test_quantised_uniform(kind, low, size, step, seed):
    assume(low + size > low)
    of = parameter(kind, low, low + size, step)
    value = of.value_of(of.suggest(Draws(seed)))
    assert low <= value <= low + size
    assert value in of.values[:2] or value == pytest.approx(round(value / step) * step, rel=1e-5, abs=1e-9)


@given(NUMBER, POSITIVE, st.integers())
def test_normal_is_cut_at_its_tails(mu, sigma, seed):
    assert abs(draw(parameter("normal", mu, sigma), seed) - mu) <= 3.1 * sigma + 1e-5 * abs(mu)


def test_normals_have_their_mean_and_deviation():
    values = {kind: [parameter(kind, 2, 0.5).value_of((place + 0.5) / 2000) for place in range(2000)]
              for kind in ("normal", "lognormal")}
    for found in (values["normal"], np.log(values["lognormal"])):
        assert np.mean(found) == pytest.approx(2, abs=0.01) and np.std(found) == pytest.approx(0.5, abs=0.01)
    assert set(np.round(np.diff(sorted({parameter("qnormal", 2, 0.5, 0.5).value_of(share / 100) for share in
                                        range(1, 100)})), 6)) == {0.5}
    assert parameter("qlognormal", 2, 0.5, 1).value_of(0.5) == round(math.exp(2))


@pytest.mark.parametrize("kind, values, drawn, expected", [
    ("quniform", (32, 512, 32), 47.9, 32), ("quniform", (32, 512, 32), 48.1, 64), ("quniform", (0, 1, 0.25), 0.4, 0.5),
    ("quniform", (10, 25, 20), 11.0, 20), ("quniform", (10, 25, 20), 25.0, 20), ("quniform", (5, 25, 20), 5.0, 5),
    ("qloguniform", (256, 4096, 256), 256.0, 256), ("uniform", (0, 1), 0.123456789, 0.123457),
    ("normal", (0.3, 0.1), 0.5, 0.3)])
def test_values(kind, values, drawn, expected):
    value = parameter(kind, *values).value_of(drawn)
    assert value == expected and type(value) is type(expected)


def test_what_is_not_in_the_space_is_not_drawn():
    for of, outside in [(parameter("uniform", 0, 1), [1.01, "ce", None, [1, 2]]),
                        (parameter("randint", 1, 5), [5, 1.5]), (parameter("quniform", 0, 1, 0.25), [0.3]),
                        (parameter("normal", 0, 1), [4]), (parameter("lognormal", 0, 1), [0, -1]),
                        (parameter("choice", "a", 100), ["b", [100, 100]])]:
        assert [of.drawn_for(value) for value in outside] == [None] * len(outside)
    assert parameter("choice", 64, 100).drawn_for([100]) == "100" and text_of([100.0, 50]) == "100,50"


NESTED = {"loss": {"_type": "choice", "_value": [
    {"_name": "ce", "logq": {"_type": "uniform", "_value": [0, 1]}},
    {"_name": "bpr-max", "bpreg": {"_type": "uniform", "_value": [0, 2]},
     "optimizer": {"_type": "choice", "_value": ["adam", {"_name": "official", "momentum": {
         "_type": "choice", "_value": [0, 0.1]}}]}}, "top1"]},
    "hid_size": {"_type": "choice", "_value": [64, [64, 64]]}}


@pytest.fixture
def read(tmp_path):
    def read_text(text):
        (tmp_path / "space.json").write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
        return read_space(tmp_path / "space.json")[0]
    return read_text


def test_flags_in_a_choice_are_drawn_only_with_it(read):
    space = read(NESTED)
    assert [of.key for of in all_parameters(space)] == [
        "loss", "ce/logq", "bpr-max/bpreg", "bpr-max/optimizer", "official/momentum", "hid_size"]
    seen = set()
    for seed in range(200):
        trial = Draws(seed)
        flags = flags_of(space, lambda of: of.suggest(trial))
        known = drawn_for(space, flags)
        seen.add((flags["loss"], flags.get("optimizer"), frozenset(flags)))
        assert flags_of(space, lambda of: known[of.key]) == flags
    expected = {("ce", None, ("logq",)), ("bpr-max", "adam", ("bpreg", "optimizer")), ("top1", None, ()),
                ("bpr-max", "official", ("bpreg", "optimizer", "momentum"))}
    assert seen == {(loss, optimizer, frozenset({"loss", "hid_size", *more})) for loss, optimizer, more in expected}


def test_corners_reach_every_value(read):
    space = read(NESTED)
    reached = {(key, drawn) for corner in corners(space) for key, drawn in corner.items()}
    assert reached == {(of.key, drawn) for of in all_parameters(space) for drawn in of.ends()}


@pytest.mark.parametrize("text, fragment", [
    ("", "no JSON object"), ("[1]", "expected an object of flags"), ("{}", "expected an object of flags"),
    ('{"a": 1}', "expected an object with _type and _value"), ("NaN", "no JSON object"),
    ({"a": {"_type": "choice"}}, "expected an object with _type and _value"),
    ({"a": {"_type": "gauss", "_value": [0, 1]}}, "expected one of choice, randint"),
    ({"a": {"_type": ["choice"], "_value": [0, 1]}}, "expected one of choice"),
    ({"a": {"_type": "choice", "_value": []}}, "expected a list of its values"),
    ({"a": {"_type": "choice", "_value": "ce"}}, "expected a list of its values"),
    ({"a": {"_type": "choice", "_value": [1, 1.0]}}, "'1' twice"),
    ({"a": {"_type": "choice", "_value": [None]}}, "expected a text, a number, or a list"),
    ({"a": {"_type": "choice", "_value": [True]}}, "expected a text, a number, or a list"),
    ({"a": {"_type": "choice", "_value": [{"b": 1}]}}, "as _name"),
    ({"a": {"_type": "choice", "_value": [{"_name": "x", "b": 1}]}}, "_type and _value"),
    ({"a": {"_type": "choice", "_value": [{"_name": "x", "a": {"_type": "uniform", "_value": [0, 1]}}]}}, "above it"),
    ({"a": {"_type": "uniform", "_value": [0, 1, 2]}}, "[low, high] of uniform"),
    ({"a": {"_type": "uniform", "_value": [0, "1"]}}, "[low, high] of uniform"),
    ({"a": {"_type": "uniform", "_value": [0, True]}}, "[low, high] of uniform"),
    ({"a": {"_type": "uniform", "_value": [1, 1]}}, "low < high"),
    ('{"a": {"_type": "uniform", "_value": [0, 1e999]}}', "up to 1e15"),
    ('{"a": {"_type": "uniform", "_value": [0, Infinity]}}', "no JSON object"),
    ({"a": {"_type": "loguniform", "_value": [0, 1]}}, "low > 0"),
    ({"a": {"_type": "randint", "_value": [0, 1.5]}}, "integers [low, high]"),
    ({"a": {"_type": "normal", "_value": [0, 0]}}, "sigma > 0"),
    ({"a": {"_type": "lognormal", "_value": [100, 1]}}, "of log(x)"),
    ({"a": {"_type": "quniform", "_value": [0, 1, 0]}}, "q > 0"),
    ('{"a": {"_type": "uniform", "_value": [0, 1]}, "a": {"_type": "uniform", "_value": [0, 1]}}', "'a' twice"),
    ('{"a":' * 100_000, "no JSON object")])
def test_what_is_no_space_is_one_line(read, text, fragment):
    with pytest.raises(InputError) as found:
        read(text)
    message = str(found.value)
    assert fragment in message and "space.json" in message and len(message) < 400
