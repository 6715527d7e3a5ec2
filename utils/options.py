"""Command lines: the parser of every script, and the flags that several scripts share, written once."""

import argparse
import codecs
import json
import math
import re
import textwrap

from utils.files import InputError, require_file

# Upper limits of flags that would make sense without any.
COUNT = 2**31 - 1  # what a 32-bit integer holds
SEED = 2**63 - 1
FLOAT32 = 1e38  # nearly the largest
SECONDS = 1e9  # 32 years
DAYS = 1e5  # more than there are from 1970 to the last time that can be read
# What the help says of flags that several scripts add, each with its own default.
MODEL = "model directory, as a trainer writes it"
TEST_SESSIONS = "directory of test session files (or one file)"
ITEM_FIELDS = "CSV or TSV file of the items' fields, for filters: a column id, or the ids first"
SESSION_LINES = "text file of item ids, one session a line; - for standard input"
OUT_DIR = "directory to write to, created if missing"
NEWEST_DAYS = "days before the last training click; older training sessions are left out"
ONE_ITEM = "1: leave out sessions whose clicks are all on the same item"
VOCABULARY = "vocab.txt: item ids, one a line, in the order of their indices"
UNLIMITED = 1e9  # an upper limit from here on is so large that the help leaves it out
PLACES = {"dir": "DIR", "path": "FILE", "input": "FILE", "output": "FILE"}  # what -h shows for the value of --some_dir


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows every flag's default and limits, and the script's docstring as it is written."""

    def __init__(self, prog):
        super().__init__(prog, max_help_position=28)

    def add_usage(self, usage, actions, groups, prefix=None):
        """Show what must be given; `actions` are dozens of flags, which are listed below."""
        required = [action for action in actions if action.option_strings and action.required]
        positional = [action for action in actions if not action.option_strings]
        others = argparse.Action(["--flag"], "flag", metavar="VALUE ...")
        super().add_usage(usage, [*required, others, *positional], [], prefix)

    def _split_lines(self, text, width):
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _get_default_metavar_for_optional(self, action):
        ending = action.dest.rpartition("_")[2]
        return getattr(action.type, "metavar", PLACES.get(ending, ending.upper()))

    def _get_help_string(self, action):
        default = ",".join(map(_shown, action.default)) if type(action.default) is list else _shown(action.default)
        has_none = action.default in (None, "") or action.nargs == 0
        notes = [] if has_none else [f"default: {default}".replace("%", "%%")]
        notes += [action.type.limits] if getattr(action.type, "limits", "") else []
        return f"{action.help} ({', '.join(notes)})" if notes else action.help


def _shown(value):
    """A default or a limit as people write it."""
    return f"{value:.12g}" if isinstance(value, float) else str(value)


class _OnlyOnce:
    """Part of an action: the flag is refused where it comes a second time, since the first would be lost."""

    def __call__(self, parser, namespace, values, option_string=None):
        if option_string and self.dest in parser.given:
            raise argparse.ArgumentError(self, "found twice, expected once")
        parser.given.add(self.dest)
        super().__call__(parser, namespace, values, option_string)


class _Store(_OnlyOnce, argparse._StoreAction):
    pass


class _StoreTrue(_OnlyOnce, argparse._StoreTrueAction):
    pass


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors take one line, and whose help shows defaults and flags in groups."""

    def __init__(self, description):
        super().__init__(description=description, formatter_class=_HelpFormatter, allow_abbrev=False, add_help=False)
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
        for name, action in ((None, _Store), ("store", _Store), ("store_true", _StoreTrue)):
            self.register("action", name, action)
        self.given = set()

    def group(self, title):
        """The group of flags with this title; the help shows groups in the order in which they were asked for."""
        groups = {group.title: group for group in self._action_groups}
        return groups.get(title) or self.add_argument_group(title)

    def parse_known_args(self, args=None, namespace=None):
        self.given = set()
        return super().parse_known_args(args, namespace)

    def parse_with_config(self, arguments=None):
        """Parse the command line and the file that --config names; flags of the command line win over the file's."""
        options = self.parse_args(arguments)
        if options.config:
            configured = self._read_config(options.config)
            in_file = self.given
            options = self.parse_args(arguments, configured)
            self.given |= in_file
        return options

    def _read_config(self, path):
        """The flags of a JSON file, as a namespace for the command line to change."""
        try:
            text = require_file(path, "--config").read_text(encoding="utf-8")
            values = [(f"--{name}", value) for name, value in json.loads(text, object_pairs_hook=_JsonObject).pairs]
        except (ValueError, AttributeError, RecursionError):
            raise InputError(f"--config: found no JSON object in {path}, expected one as in settings/") from None
        flags = []
        for flag, value in values:
            action = self._option_string_actions.get(flag)
            if action is None or flag in ("--config", "--help"):
                raise InputError(f"--config: found {flag.removeprefix('--')!r} in {path}, expected names of flags as "
                                 f"{self.prog} -h lists them{self._suggestion(flag)}")
            kinds, expected = _kinds_in_config(action)
            if type(value) not in kinds:
                raise InputError(f"--config: found {json.dumps(value)[:40]} for {flag.removeprefix('--')} in {path}, "
                                 f"expected {expected}")
            if type(value) is not bool:
                flags.append(f"{flag}={','.join(map(str, value)) if type(value) is list else value}")
            elif value:
                flags.append(flag)
        try:
            return self.parse_args(flags)
        except InputError as error:
            raise InputError(f"--config {path}: {error}") from None

    def error(self, message):
        unknown = re.match(r"unrecognized arguments:.*? (--[^\s=]+)", message)
        suggestion = self._suggestion(unknown[1]) if unknown else ""
        raise InputError(message.replace("\n", " ") + f"{suggestion} ({self.prog} -h lists the flags)")

    def _suggestion(self, flag):
        """A question that names the flag most like an unknown one, or nothing where none is."""
        from difflib import get_close_matches  # only needed here
        name = flag.removeprefix("--").replace("-", "_")
        similar = get_close_matches(f"--{name}", self._option_string_actions, 1)
        return f"; did you mean {similar[0]}?" if similar else ""


class _JsonObject(dict):
    """A dict that also knows names that came twice."""

    def __init__(self, pairs):
        super().__init__(pairs)
        self.pairs = pairs


def _kinds_in_config(action):
    """The types that a flag's value may have in a JSON file, and how a message names them."""
    if action.nargs == 0:
        return [bool], "true or false"
    if action.type in (sizes, cutoffs):
        return [int, list, str], "an integer, or a list of them"
    if action.type in (None, separator):
        return [str], "a text"
    return [int, float, str], "a number"


def number(kind, low=-math.inf, high=math.inf, below=math.inf):
    """A type for argparse: a finite `kind` (int or float, 64 bits) with low <= value <= high and value < below."""
    limits = [f">= {low}"] * (low > -math.inf) + [f"<= {high}"] * (high < math.inf)
    limits += [f"< {below}"] * (below < math.inf)
    wanted = " ".join(["an integer" if kind is int else "a number"] + [" and ".join(limits)] * bool(limits))

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if kind is int and abs(value) >= 2**63:
            raise argparse.ArgumentTypeError(f"found {text[:40]!r}, expected {wanted} of at most 64 bits")
        if not (math.isfinite(value) and low <= value <= high and value < below):
            raise argparse.ArgumentTypeError(f"found {text!r}, expected {wanted}")
        return value

    if (kind, low, high) == (int, 0, 1):
        parse.metavar = "{0,1}"
        return parse
    parse.metavar = "N" if kind is int else "X"
    if low > -math.inf:
        top = f"to {_shown(high)}" if high < UNLIMITED else f"to below {below}" if below < math.inf else ""
        parse.limits = f"from {_shown(low)} {top}" if top else f"at least {_shown(low)}"
    return parse


def sizes(text):
    """A type for argparse: `100` or `100,50` as a list of positive integers."""
    try:
        return [number(int, 1, 100_000)(part) for part in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected integers from 1 to 100000 separated by commas, "
                                         "such as 5,20") from None


def cutoffs(text):
    """A type for argparse: `20` or `1,5,20` as an ascending list of distinct positive integers."""
    return sorted(set(sizes(text)))


def separator(text):
    """A type for argparse: one character, or `tab`, or nothing."""
    text = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(text) > 1 or text and text in '"\r\n' or not text.isascii():
        raise argparse.ArgumentTypeError(f"found {text!r}, expected one ASCII character or tab")
    return text


def names(text):
    """A type for argparse: what stands between commas, as a tuple."""
    return tuple(filter(None, text.split(",")))


names.metavar = "NAME,..."
sizes.metavar = cutoffs.metavar = "N,..."


def encoding(name):
    """A type for argparse: the name of a text encoding that Python has."""
    try:
        "".encode(name)
    except (LookupError, UnicodeError, ValueError):
        raise argparse.ArgumentTypeError(f"found {name!r}, expected an encoding such as utf-8, latin-1 or utf-16"
                                         ) from None
    return "utf-8" if codecs.lookup(name).name == "utf-8" else name


def add_table_flags(parser):
    """Add the flags of every script that reads a table of clicks."""
    columns = parser.group("columns of the tables")
    columns.add_argument("--session_column", default="SessionId", help="name of the column of session ids, any text")
    columns.add_argument("--item_column", default="ItemId", help="name of the column of item ids, any text")
    columns.add_argument("--time_column", default="Time",
                         help="name of the column of times: ISO 8601 dates (in UTC if no time zone is given) or "
                         "numbers")
    columns.add_argument("--time_unit", choices=("s", "ms"), default="s",
                         help="unit of times that are numbers: seconds or milliseconds since 1970")
    columns.add_argument("--separator", type=separator, default="",
                         help="what separates the columns, one character or tab; empty: detected from the header line")


def table_columns(options):
    """The click_columns.Columns that these flags ask for."""
    from utils.data.click_columns import Columns  # slow to import: only for arguments that are right
    return Columns(options.session_column, options.item_column, options.time_column, options.time_unit,
                   options.separator)


def add_model_flags(group):
    """Add the flags of every script that answers from one model."""
    group.add_argument("--model_dir", default="model_recall20", help=MODEL)
    add_epoch_flag(group)


def add_epoch_flag(group):
    """Add the flag that chooses among the epochs of each model that a script reads."""
    group.add_argument("--epoch", type=number(int, 0, COUNT), default=0,
                       help="which epoch to use; 0: the best one by validation, or the last without validation")


def add_overwrite_flag(group):
    """Add the flag of every script that writes a model directory."""
    group.add_argument("--overwrite", type=number(int, 0, 1), default=0, help="1: delete the run in --model_dir first")


def add_seed_flag(group):
    """Add the flag of every script that draws."""
    group.add_argument("--seed", type=number(int, 0, SEED), default=1, help="seed of all random draws")


def add_device_flags(parser):
    """Add the flags of every script that computes with Paddle."""
    machine = parser.group("machine")
    machine.add_argument("--use_cuda", type=number(int, 0, 1), default=0,
                         help="1: compute on the GPU, 0: on the processor")
    machine.add_argument("--threads", type=number(int, 0, 1024), default=0,
                         help="processor threads; 0: all, but a training in C++ takes as many as pay (docs/devices.md)")
    machine.add_argument("--tune_cpu", type=number(int, 0, 1), default=1,
                         help="1: set up MKL and malloc for speed and use the C++ in utils/native/ (a log line says "
                         "what was done), 0: do none of that")


def add_process_flags(parser):
    """Add the flags of every script that divides its work among several processes."""
    machine = parser.group("machine")
    machine.add_argument("--parallel", type=number(int, 0, 1), default=0, help="1: work by --num_devices processes")
    machine.add_argument("--num_devices", type=number(int, 1, 1024), default=1, help="processes, with --parallel 1")
