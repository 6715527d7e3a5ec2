"""The flags of preprocess.py, and what of them goes together."""

from utils.data.archives import CLICKS_FILE
from utils.files import InputError
from utils.intent.preparation_flags import add_intent_flags, check_intent_flags
from utils.options import (
    COUNT,
    DAYS,
    NEWEST_DAYS,
    ONE_ITEM,
    OUT_DIR,
    Parser,
    add_table_flags,
    encoding,
    names,
    number,
)

SECONDS = 1e10  # more than there are from 1970 to the last time that can be read
ARCHIVE = "yoochoose-data.7z"
URL = f"https://s3-eu-west-1.amazonaws.com/yc-rdata/{ARCHIVE}"


def parse_flags(description):
    """The checked flags of the command line."""
    parser = Parser(description)
    _add_data_flags(parser.group("input and output"))
    add_table_flags(parser)
    _add_column_flags(parser.group("columns of the tables"))
    _add_filter_flags(parser.group("filters"))
    _add_split_flags(parser.group("splits"))
    add_intent_flags(parser.group("purchases"))
    _add_download_flags(parser.group("download"))
    parser.group("machine").add_argument(
        "--memory", type=number(float, 0, 1e6), default=0.0,
        help="GB; clicks that take more are prepared through temporary files beside the output, as many as there is "
        "room for on the disk; 0: three quarters of what the system has left")
    flags = parser.parse_args()
    flags.input = flags.input or [ARCHIVE]
    if "" in flags.input:
        raise InputError("--input: found an empty name, expected a table of clicks")
    if flags.fetch and len(flags.input) > 1:
        raise InputError(f"--fetch 1: found {len(flags.input)} files in --input, expected one to download to")
    check_intent_flags(flags, parser.given)
    if bool(flags.event_column) != bool(flags.events):
        raise InputError("--event_column, --events: found one without the other, expected both")
    if "to_text" in parser.given and not flags.to_text:
        raise InputError("--to_text: found an empty name, expected a directory to write to")
    if flags.newest_days and flags.newest_fraction < 1:
        raise InputError(f"--newest_days: found {flags.newest_days:g} with --newest_fraction, expected one of them")
    unused = parser.given & {"out_dir", "prefix"}
    if flags.to_text and unused:
        raise InputError(f"--to_text: found it with --{min(unused)}, expected one of them")
    return flags


def _add_data_flags(data):
    data.add_argument("--input", nargs="+", action="extend", metavar="FILE",
                      help=f"{ARCHIVE}, its {CLICKS_FILE}, or any tables of clicks: Parquet, or TSV or CSV with a "
                      "header, plain or in gz, bz2, xz, zst or zip; of a directory all files; default: "
                      f"{ARCHIVE}")
    data.add_argument("--to_text", metavar="DIR", default="",
                      help="write what the trainers read, in place of the splits: DIR/train_data, DIR/test_data and "
                      "DIR/vocab.txt; --out_dir and --prefix name none of these")
    data.add_argument("--out_dir", default=".", help=OUT_DIR)
    data.add_argument("--prefix", default="rsc15_", help="what the names of the written files start with")
    data.add_argument("--skip_bad", type=number(int, 0, COUNT), default=0,
                      help="leave out up to so many rows in which something is wrong or missing, and list them in "
                      "bad_rows.csv beside what is written")


def _add_column_flags(columns):
    columns.add_argument("--encoding", type=encoding, default="utf-8",
                         help="encoding of tables that are text, as Python names it, such as latin-1, cp1252 or utf-16")
    columns.add_argument("--event_column", default="",
                         help="name of a column that says what happened; empty: every row is a click")
    columns.add_argument("--events", type=names, default="",
                         help="what in --event_column is a click, separated by commas, such as view,addtocart")


def _add_filter_flags(filters):
    """Add the flags that say what is a session, and what is dropped."""
    switch = number(int, 0, 1)
    filters.add_argument("--session_gap", type=number(float, 0, SECONDS), default=0,
                         help="seconds; above 0, --session_column names users, and their clicks are cut into "
                         "sessions at longer gaps, numbered from 1; 0: sessions as given")
    filters.add_argument("--session_span", type=number(float, 0, SECONDS), default=0,
                         help="seconds; above 0, a session is cut before a click that comes longer than that after "
                         "its first one, so that nothing is predicted from older clicks; the pieces are numbered from "
                         "1; 0: no such cut")
    filters.add_argument("--drop_repeats", type=switch, default=0,
                         help="1: of several clicks in a row on the same item, keep only the first")
    filters.add_argument("--drop_one_item", type=switch, default=0,
                         help=ONE_ITEM)
    filters.add_argument("--min_session_length", type=number(int, 1, COUNT), default=2,
                         help="clicks; shorter sessions are dropped")
    filters.add_argument("--min_support", type=number(int, 1, COUNT), default=5,
                         help="clicks; items with fewer are dropped")
    filters.add_argument("--until_stable", type=switch, default=0,
                         help="1: drop short sessions and rare items again and again until there are none; 0: drop "
                         "short sessions, rare items, and short sessions again, once each")


def _add_split_flags(splits):
    """Add the flags that say what is the test set, and how much of the rest is kept."""
    splits.add_argument("--test_days", type=number(float, 0, DAYS), default=1.0,
                        help="days before the last click, may be a fraction; the sessions of that time are the "
                        "test set")
    splits.add_argument("--split_by", choices=("end", "start", "hash"), default="end",
                        help="end: a session's last click decides whether it is in the test set, and items unknown in "
                        "training are dropped from it; start: its first click decides, the clicks of training sessions "
                        "within the test time are cut off, and unknown items stay; hash: with --to_intent, a hash of "
                        "its id decides")
    splits.add_argument("--newest_fraction", type=number(float, 1e-9, 1), default=1.0,
                        help="share of the training sessions to keep, the newest ones, such as 0.015625 for 1/64; "
                        "train_tr and train_valid are split from these")
    splits.add_argument("--newest_days", type=number(float, 0, DAYS), default=0,
                        help=f"{NEWEST_DAYS}, by their end or start as --split_by says; train_tr and train_valid are "
                        "split from what is left; 0: none")


def _add_download_flags(download):
    download.add_argument("--fetch", type=number(int, 0, 1), default=0,
                          help="1: download --url to --input if there is no such file")
    download.add_argument("--url", default=URL, help="what --fetch 1 downloads")
    download.add_argument("--sha256", default="",
                          help="SHA-256 that the file of --fetch 1 must have, 64 hexadecimal digits; empty: any")
