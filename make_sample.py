"""Make the sample: clicks in an invented shop, for the demo and for trying things out.

    python make_sample.py --output sample_clicks.tsv

The popularity of the items follows Zipf's law, and each item belongs to a category. From click to click, a session
mostly moves to one of the item's usual successors. Which one depends on the taste that the session's first click
showed, so a model with memory can predict more than one that only knows the last click.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

import numpy as np

from utils.files import write_atomically
from utils.options import COUNT, SEED, Parser, number
from utils.process import run

CATEGORIES, TASTES, SUCCESSORS = 12, 3, 3
DAY, FIRST_SECOND = 86400, 1767225600  # 2026-01-01


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--output", default="sample_clicks.tsv", help="click file to write: SessionId, ItemId, Time")
    parser.add_argument("--sessions", type=number(int, 1, COUNT), default=12000, help="sessions")
    parser.add_argument("--items", type=number(int, CATEGORIES, 10**8), default=600, help="items")
    parser.add_argument("--days", type=number(float, 0.1, 36500), default=8.0, help="days that the sessions cover")
    parser.add_argument("--seed", type=number(int, 0, SEED), default=1, help="seed of all random draws")
    return parser.parse_args()


def main():
    options = parse_arguments()
    random = np.random.default_rng(options.seed)
    popularity = 1 / np.arange(2, options.items + 2) ** 0.9
    popularity /= popularity.sum()
    category = random.integers(CATEGORIES, size=options.items)
    members = [np.flatnonzero(category == name) for name in range(CATEGORIES)]
    members = [items if len(items) else np.arange(options.items) for items in members]
    successors = np.stack([random.choice(near, (TASTES, SUCCESSORS), p=share(popularity, near))
                           for near in (members[number] for number in category)])
    starts = np.sort(random.uniform(0, options.days * DAY, options.sessions))
    with write_atomically(options.output) as file:
        file.write("SessionId\tItemId\tTime\n")
        for session, start in enumerate(starts, start=1):
            second = FIRST_SECOND + start
            for item in draw_session(random, popularity, category, members, successors):
                file.write(f"{session}\tp{item:04d}\t{second:.0f}\n")
                second += 1 + random.exponential(40)
    print(f"{options.output}: sessions:{options.sessions}")


def draw_session(random, popularity, category, members, successors):
    """The clicks of one session, a list of item numbers."""
    items = [random.choice(len(popularity), p=popularity)]
    taste = items[0] % TASTES
    for _ in range(1 + random.geometric(0.27)):
        kind = random.random()
        if kind < 0.70:
            items.append(random.choice(successors[items[-1], taste], p=[0.7, 0.2, 0.1]))
        elif kind < 0.85:
            near = members[category[items[-1]]]
            items.append(random.choice(near, p=share(popularity, near)))
        elif kind < 0.93:
            items.append(items[random.integers(len(items))])
        else:
            items.append(random.choice(len(popularity), p=popularity))
    return items


def share(popularity, items):
    """The popularity of `items`, scaled to a sum of 1."""
    return popularity[items] / popularity[items].sum()


if __name__ == "__main__":
    run(main)
