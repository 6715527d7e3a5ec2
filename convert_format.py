"""Split files -> session text: one session a line, its item ids in time order, separated by blanks.

    python convert_format.py    # rsc15_train_tr.txt -> rsc15_train_tr_paddle.txt
                                # rsc15_test.txt -> rsc15_test_paddle.txt

The lines are in the order in which the sessions start; sessions that start at the same time are in the order of their
ids. The input need not be grouped by session or sorted; clicks of a session at the same time stay in the order of the
file.
"""

from pathlib import Path

from utils.files import InputError, require_file, write_atomically
from utils.options import Parser, add_table_flags, table_columns
from utils.process import run


def main():
    flags = parse_flags()
    jobs = [("--train_input", flags.train_input, flags.train_output),
            ("--test_input", flags.test_input, flags.test_output)]
    jobs = [job for job in jobs if job[1] or job[0] == "--train_input"]
    for flag, source, target in jobs:  # before any work
        require_file(source, flag)
        if Path(source).resolve() == Path(target).resolve():
            raise InputError(f"{flag}: found {source}, which would be overwritten; expected another output")
    for flag, source, target in jobs:
        convert(flag, source, target, flags)


def parse_flags():
    parser = Parser("Turn split files into session text: one session a line, item ids in time order, separated by "
                    "blanks.")
    parser.add_argument("--train_input", default="rsc15_train_tr.txt",
                        help="TSV or CSV of the training clicks, gzipped or not")
    parser.add_argument("--train_output", default="rsc15_train_tr_paddle.txt", help="the training sessions to write")
    parser.add_argument("--test_input", default="rsc15_test.txt",
                        help="TSV or CSV of the test clicks, gzipped or not; '': none")
    parser.add_argument("--test_output", default="rsc15_test_paddle.txt", help="the test sessions to write")
    add_table_flags(parser)
    return parser.parse_args()


def convert(flag, source, target, flags):
    """Write the sessions of the table `source`, named by `flag`, to `target`."""
    from utils.data.click_files import read_clicks, write_sessions  # slow to import, so only once the flags are checked

    with write_atomically(target, "wb") as file:
        clicks = read_clicks(source, table_columns(flags), flag)
        write_sessions(clicks, file)
    print("{}: {:,} sessions, {:,} events, {:,} items".format(target, *clicks.sizes()), flush=True)


if __name__ == "__main__":
    run(main)
