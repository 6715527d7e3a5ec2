"""Split files -> session text: one session a line, its item ids in time order, separated by blanks.

    python convert_format.py    # rsc15_train_tr.txt -> rsc15_train_tr_paddle.txt
                                # rsc15_test.txt -> rsc15_test_paddle.txt

The lines are in the order in which the sessions start; sessions that start at the same time are in the order of their
ids. The input need not be grouped by session or sorted; clicks of a session at the same time stay in the order of the
file. The outputs get their names once all inputs have been read: where one is wrong, nothing is written.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

from contextlib import ExitStack
from pathlib import Path

from utils.data.session_files import refuse_conversion
from utils.data.wording import counted, dates_of, sizes_of
from utils.files import finish, naming, require_different, require_file, write_atomically
from utils.options import DAYS, NEWEST_DAYS, Parser, add_table_flags, number, table_columns
from utils.process import run


def main():
    flags = parse_flags()
    jobs = [("--train_input", flags.train_input, flags.train_output),
            ("--test_input", flags.test_input, flags.test_output)]
    jobs = [job for job in jobs if job[1] or job[0] == "--train_input"]
    for flag, source, _ in jobs:
        require_file(source, flag)
    outputs = [(flag.replace("input", "output"), target) for flag, _, target in jobs]
    require_different([(flag, source) for flag, source, _ in jobs], outputs)
    for flag, target in outputs:
        refuse_conversion(Path(target).parent, flag)
    with ExitStack() as opened:  # all first, so that a folder that can't be written to is noticed at once
        files = [opened.enter_context(write_atomically(target, "wb")) for _, target in outputs]
        written = [convert(*job, file, flags) for job, file in zip(jobs, files)]
    for (_, target), what in zip(outputs, written):
        print(f"{target}: {what}", flush=True)


def parse_flags():
    parser = Parser(__doc__)
    data = parser.group("input and output")
    data.add_argument("--train_input", default="rsc15_train_tr.txt",
                      help="table of the training clicks, in any form that preprocess.py reads")
    data.add_argument("--train_output", default="rsc15_train_tr_paddle.txt",
                      help="session text to write, the training sessions")
    data.add_argument("--test_input", default="rsc15_test.txt", help="the same of the test clicks; empty: none")
    data.add_argument("--test_output", default="rsc15_test_paddle.txt",
                      help="session text to write, the test sessions")
    add_table_flags(parser)
    parser.group("splits").add_argument(
        "--newest_days", type=number(float, 0, DAYS), default=0, help=f"{NEWEST_DAYS}, by their end; 0: none")
    return parser.parse_args()


def convert(flag, source, target, file, flags):
    """Write the sessions of the table `source`, named by `flag`, to `file`, which will become `target`.

    Returns what the log says of them.
    """
    # slow to import, so only once the flags are checked
    from utils.data.click_files import read_clicks
    from utils.data.click_writing import write_item_ids
    from utils.data.clicks import DAY, Clicks, sessions_since

    clicks = read_clicks([source], table_columns(flags), flag)
    if flags.newest_days and flag == "--train_input":
        older = clicks.sizes()
        clicks = sessions_since(clicks, round(flags.newest_days * DAY), Clicks.ends)
        sessions, events, items = (old - new for old, new in zip(older, clicks.sizes()))
        print(f"--newest_days {flags.newest_days:g}: left out "
              f"{counted(sessions=sessions, events=events, items=items)}", flush=True)
    with naming(target):  # two files are open
        write_item_ids(clicks, file)
        finish(file)
    return f"{sizes_of(clicks, 'sessions', 'events', 'items')}; {dates_of(clicks)}"


if __name__ == "__main__":
    run(main)
