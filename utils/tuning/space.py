"""The space of a search: a JSON file in the form that NNI made common, and how its values are drawn.

    {"base_lr": {"_type": "loguniform", "_value": [0.05, 0.5]},
     "loss":    {"_type": "choice", "_value": ["ce", {"_name": "bpr-max", "bpreg": {"_type": "uniform", ...}}]}}

Each name is a flag of the trainer. A choice's value may be an object: its `_name` is the flag's value, and the flags in
it are drawn only with that value. What the types draw is as in NNI's "Search Space" reference:

    choice          one of the values
    randint         an integer, low <= x < high
    uniform         low <= x <= high; loguniform: evenly in log(x)
    normal          of mean mu and standard deviation sigma; lognormal: exp(x) of it. Both are cut at 3.1 sigma, as
                    flags have limits
    quniform, qloguniform, qnormal, qlognormal
                    the same as multiples of q: round(x / q) * q, within low and high
"""

import json
import math
from dataclasses import dataclass, field
from statistics import NormalDist

from utils.files import InputError
from utils.memory import read_bytes

LARGEST = 1 << 20  # bytes of a space's file
TAIL = 0.001  # of a normal distribution, on each side, that isn't drawn from
DIGITS = 6  # of a drawn number; more make no difference to a training
NUMBERS = {"randint": "low, high", "uniform": "low, high", "loguniform": "low, high", "normal": "mu, sigma",
           "lognormal": "mu, sigma", "quniform": "low, high, q", "qloguniform": "low, high, q",
           "qnormal": "mu, sigma, q", "qlognormal": "mu, sigma, q"}  # what `_value` holds


@dataclass
class Parameter:
    """A flag that is searched.

    name : str, the flag's, without dashes
    key : str, the parameter's name for Optuna: the flag's, after the choice that it depends on, such as "bpr-max/bpreg"
    kind : str, NNI's type
    values : list, of a choice: the flag's values; else the numbers of `_value`
    children : dict of str to list of Parameter, those that are drawn only with a value, by its `text_of`
    """

    name: str
    key: str
    kind: str
    values: list
    children: dict = field(default_factory=dict)

    def suggest(self, trial):
        """What Optuna's `trial` draws: the text of a choice's value, or a number for `value_of`."""
        if self.kind == "choice":
            return trial.suggest_categorical(self.key, [text_of(value) for value in self.values])
        low, high = self.ends()
        if self.kind == "randint":
            return trial.suggest_int(self.key, low, high)
        return trial.suggest_float(self.key, low, high, log="loguniform" in self.kind)

    def ends(self):
        """All that can be drawn of a choice; else the smallest and the largest number.

        Of a normal distribution the share of it that lies below is drawn, so that Optuna can draw it evenly.
        """
        if self.kind == "choice":
            return [text_of(value) for value in self.values]
        if "normal" in self.kind:
            return [TAIL, 1 - TAIL]
        low, high = self.values[:2]
        return [low, high - 1] if self.kind == "randint" else [float(low), float(high)]

    def value_of(self, drawn):
        """The flag's value for what was drawn."""
        if self.kind == "choice":
            return next(value for value in self.values if text_of(value) == drawn)
        if self.kind == "randint":
            return int(drawn)
        value = drawn
        if "normal" in self.kind:
            value = NormalDist(*self.values[:2]).inv_cdf(drawn)
            value = math.exp(value) if "log" in self.kind else value
        if self.kind.startswith("q"):
            value = round(value / self.values[2]) * self.values[2]
        value = float(f"{value:.{DIGITS}g}")
        if "uniform" in self.kind:
            value = min(max(value, self.values[0]), self.values[1])
        is_whole = self.kind.startswith("q") and all(type(number) is int for number in self.values)
        return int(value) if is_whole else float(value)

    def drawn_for(self, value):
        """What has to be drawn for the flag to have this `value`; None if it never has."""
        if self.kind == "choice":
            return next((text for text in self.ends() if text == text_of(value)), None)
        if type(value) not in (int, float):
            return None
        drawn = value
        if "normal" in self.kind:
            if "log" in self.kind and value <= 0:
                return None
            drawn = NormalDist(*self.values[:2]).cdf(math.log(value) if "log" in self.kind else value)
        low, high = self.ends()
        drawn = min(max(drawn, low), high)  # one that was rounded may lie a little outside
        return drawn if math.isclose(self.value_of(drawn), value, rel_tol=1e-5, abs_tol=1e-12) else None


def text_of(value):
    """A choice's value as text: that of 100, 100.0 and [100] is the same."""
    if isinstance(value, list):
        return ",".join(map(text_of, value))
    return f"{value:.12g}" if type(value) in (int, float) else str(value)


def flags_of(parameters, draw):
    """The flags that are drawn together, a dict; `draw` is a function of a Parameter, such as Parameter.suggest."""
    flags = {}
    for parameter in parameters:
        drawn = draw(parameter)
        flags[parameter.name] = parameter.value_of(drawn)
        flags |= flags_of(parameter.children.get(drawn, []), draw)
    return flags


def drawn_for(parameters, flags):
    """What has to be drawn for these values of flags, a dict by Parameter.key, without what can't be drawn."""
    found = {}
    for parameter in parameters:
        drawn = parameter.drawn_for(_single(flags.get(parameter.name)))
        if drawn is not None:
            found[parameter.key] = drawn
            found |= drawn_for(parameter.children.get(drawn, []), flags)
    return found


def corners(parameters, above=None):
    """For each value of a choice, and for both ends of each range, a dict by Parameter.key of what leads there."""
    for parameter in parameters:
        for drawn in parameter.ends():
            here = {**(above or {}), parameter.key: drawn}
            yield here
            yield from corners(parameter.children.get(drawn, []), here)


def all_parameters(parameters):
    """The parameters, and those below them, in order."""
    for parameter in parameters:
        yield parameter
        for children in parameter.children.values():
            yield from all_parameters(children)


def read_space(path):
    """The list of Parameter in a file, and what the file holds, a dict; InputError where it isn't in NNI's form."""
    try:
        found = json.loads(read_bytes(path, "--space", most=LARGEST).decode(), object_pairs_hook=_once,
                           parse_constant=_no_constant)
    except _Twice as error:
        raise InputError(f"--space {path}: found {error} twice, expected every name once") from None
    except (ValueError, RecursionError):
        raise InputError(f"--space: found no JSON object in {path}, expected one as in settings/search.json") from None
    try:
        return _read_parameters(found, "", ()), found
    except _Wrong as error:
        raise InputError(f"--space {path}: {error}") from None


class _Wrong(Exception):
    """What is wrong with a space."""


class _Twice(Exception):
    """A name that came twice."""


def _read_parameters(found, before, taken):
    """The Parameters of an object of a space; `before` is the beginning of their keys, `taken` the flags above them."""
    if type(found) is not dict or not found and not before:
        raise _Wrong(f"found {_shown(found)}, expected an object of flags, each with its _type and _value")
    parameters = []
    for name, described in found.items():
        if name in taken:
            raise _Wrong(f"found {name!r} inside a choice and above it, expected it once")
        if type(described) is not dict or set(described) != {"_type", "_value"}:
            raise _Wrong(f"found {_shown(described)} for {name!r}, expected an object with _type and _value")
        kind, values = described["_type"], described["_value"]
        if type(kind) is not str or kind not in ("choice", *NUMBERS):
            raise _Wrong(f"found the _type {_shown(kind)} for {name!r}, expected one of choice, {', '.join(NUMBERS)}")
        parameter = Parameter(name, before + name, kind, values)
        if kind == "choice":
            _read_choice(parameter, (*taken, *found))
        else:
            _require_numbers(parameter)
        parameters.append(parameter)
    return parameters


def _read_choice(parameter, taken):
    """Check a choice's values, and take apart those that have flags of their own."""
    if type(parameter.values) is not list or not parameter.values:
        raise _Wrong(f"found {_shown(parameter.values)} for {parameter.name!r}, expected a list of its values")
    values = []
    for value in parameter.values:
        children = {}
        if type(value) is dict:
            if type(value.get("_name")) not in (str, int, float):
                raise _Wrong(f"found {_shown(value)} for {parameter.name!r}, expected its value as _name, and flags")
            children = {name: described for name, described in value.items() if name != "_name"}
            value = value["_name"]
        parts = value if type(value) is list and value else [value]
        if not all(type(part) in (str, int, float) for part in parts):
            raise _Wrong(f"found {_shown(value)} for {parameter.name!r}, expected a text, a number, or a list of them")
        text = text_of(value)
        if text in map(text_of, values):
            raise _Wrong(f"found {text!r} twice for {parameter.name!r}, expected every value once")
        values.append(value)
        parameter.children[text] = _read_parameters(children, f"{text}/", taken)
    parameter.values = values


def _require_numbers(parameter):
    """Check the numbers of `_value`."""
    kind, names = parameter.kind, NUMBERS[parameter.kind].split(", ")
    values = parameter.values
    kinds = (int,) if kind == "randint" else (int, float)
    if type(values) is not list or len(values) != len(names) or not all(type(value) in kinds for value in values):
        wanted = "integers" if kind == "randint" else "numbers"
        raise _Wrong(f"found {_shown(values)} for {parameter.name!r}, expected the {wanted} [{', '.join(names)}] of "
                     f"{kind}")
    if max(map(abs, values)) > 1e15:
        raise _Wrong(f"found {_shown(values)} for {parameter.name!r}, expected numbers up to 1e15")
    first, second, *step = values
    if names[0] == "low" and not first < second:
        raise _Wrong(f"found {_shown(values)} for {parameter.name!r}, expected low < high")
    if "loguniform" in kind and first <= 0:
        raise _Wrong(f"found {_shown(values)} for {parameter.name!r}, expected low > 0 of {kind}")
    if names[0] == "mu" and second <= 0:
        raise _Wrong(f"found {_shown(values)} for {parameter.name!r}, expected sigma > 0")
    if "lognormal" in kind and abs(first) + 4 * second > 30:
        raise _Wrong(f"found {_shown(values)} for {parameter.name!r}, expected mu and sigma of log(x), at most about "
                     "20 and 2")
    if step and step[0] <= 0:
        raise _Wrong(f"found {_shown(values)} for {parameter.name!r}, expected q > 0")


def _single(value):
    """The element of a list of one, as the trainers' flags hold sizes; else the value itself."""
    return value[0] if type(value) is list and len(value) == 1 else value


def _once(pairs):
    """An object of the file as a dict, unless a name comes twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(repr(max(names, key=names.count)))
    return found


def _no_constant(name):
    raise ValueError(name)


def _shown(value):
    return json.dumps(value)[:60]
