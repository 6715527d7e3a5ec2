"""Make the sample: clicks in an invented shop, for the demo and for trying things out.

    python make_sample.py --output sample_clicks.tsv
    python make_sample.py --intent sample_intent --session_count 30000    # what sessions buy, too

The popularity of the items follows Zipf's law, and each item belongs to a category. From click to click, a session
mostly moves to one of the item's usual successors. Which one depends on the taste that the session's first click
showed, so a model with memory can predict more than one that only knows the last click.

With --intent DIR, DIR/clicks.tsv has the clicks with the items' categories, DIR/buys.tsv what is bought, and
DIR/probabilities.tsv with which probability each session buys by its clicks, all that can be known. A session buys
more often where it came back to an item after others, stayed long on the one before the last, began in the evening,
and clicked on some of the categories. It mostly buys items that it clicked again. Some sessions go on after that.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from utils.files import InputError, write_atomically
from utils.options import COUNT, Parser, add_seed_flag, number
from utils.process import run

CATEGORIES, TASTES, SUCCESSORS = 12, 3, 3
DAY, FIRST_SECOND = 86400, 1767225600  # 2026-01-01
HOUR = 3600
EVENING = 18, 22  # hours
LONG = 45  # seconds on an item


def parse_arguments():
    parser = Parser(__doc__)
    written = parser.group("input and output").add_mutually_exclusive_group()
    shop = parser.group("the shop")
    written.add_argument("--output", default="sample_clicks.tsv", help="click file to write: SessionId, ItemId, Time")
    written.add_argument("--intent", default="", metavar="DIR",
                         help="directory to write clicks and purchases to, in place of --output")
    shop.add_argument("--session_count", type=number(int, 1, COUNT), default=12000, help="how many sessions")
    shop.add_argument("--item_count", type=number(int, CATEGORIES, 10**8), default=600, help="how many items")
    shop.add_argument("--days", type=number(float, 0.1, 36500), default=8.0, help="days that the sessions cover")
    add_seed_flag(shop)
    options = parser.parse_args()
    if "intent" in parser.given and not options.intent:
        raise InputError("--intent: found an empty name, expected a directory to write to")
    return options


def main():
    options = parse_arguments()
    random = np.random.default_rng(options.seed)
    popularity = 1 / np.arange(2, options.item_count + 2) ** 0.9
    popularity /= popularity.sum()
    category = random.integers(CATEGORIES, size=options.item_count)
    members = [np.flatnonzero(category == name) for name in range(CATEGORIES)]
    members = [items if len(items) else np.arange(options.item_count) for items in members]
    successors = np.stack([random.choice(near, (TASTES, SUCCESSORS), p=share(popularity, near))
                           for near in (members[number] for number in category)])
    starts = np.sort(random.uniform(0, options.days * DAY, options.session_count))
    sessions = draw_sessions(random, popularity, category, members, successors, starts)
    if options.intent:
        write_intent(sessions, category, options)
        return
    with write_atomically(options.output) as file:
        file.write("SessionId\tItemId\tTime\n")
        for session, (items, seconds) in enumerate(sessions, start=1):
            for item, second in zip(items, seconds):
                file.write(f"{session}\tp{item:04d}\t{second:.0f}\n")
    print(f"{options.output}: sessions:{options.session_count}")


def draw_sessions(random, popularity, category, members, successors, starts):
    """Yield the item numbers and the unix seconds of each session, two lists."""
    for start in starts:
        second, seconds, items = FIRST_SECOND + start, [], []
        for item in draw_session(random, popularity, category, members, successors):
            items.append(item)
            seconds.append(second)
            second += 1 + random.exponential(40)
        yield items, seconds


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


def write_intent(sessions, category, options):
    """Write clicks, purchases and the probabilities of these to `options.intent`, and print the best possible AUC."""
    random = np.random.default_rng((options.seed, 1))
    probabilities = []
    with ExitStack() as outputs:
        clicks, buys, truth = [outputs.enter_context(write_atomically(Path(options.intent, name)))
                               for name in ("clicks.tsv", "buys.tsv", "probabilities.tsv")]
        clicks.write("SessionId\tItemId\tCategory\tTime\n")
        buys.write("SessionId\tItemId\tTime\n")
        truth.write("SessionId\tProbability\n")
        for session, (items, seconds) in enumerate(sessions, start=1):
            seconds = [round(second) for second in seconds]
            probability = purchase_probability(items, seconds, category)
            probabilities.append(probability)
            truth.write(f"{session}\t{probability:.6f}\n")
            if random.random() < probability:
                bought_at = seconds[-1] + 1 + int(random.exponential(60))
                for item in choose_purchases(random, items):
                    buys.write(f"{session}\tp{item:04d}\t{bought_at}\n")
                if random.random() < 0.3:
                    items, seconds = items + [items[0]], seconds + [bought_at + 20]
            for item, second in zip(items, seconds):
                clicks.write(f"{session}\tp{item:04d}\tc{category[item]:02d}\t{second}\n")
    print(f"{options.intent}: sessions:{options.session_count} buying:{np.mean(probabilities):.4f} "
          f"best_auc:{best_auc(np.array(probabilities)):.4f}")


def purchase_probability(items, seconds, category):
    """The probability that a session buys by its clicks."""
    came_back = any(items[place] in items[:place - 1] and items[place] != items[place - 1]
                    for place in range(2, len(items)))
    stayed = len(items) > 1 and seconds[-1] - seconds[-2] > LONG
    is_evening = EVENING[0] <= seconds[0] % DAY // HOUR < EVENING[1]
    wanted = np.mean([category[item] % 4 == 0 for item in items])
    return 1 / (1 + np.exp(5 - 2 * came_back - 1.5 * stayed - is_evening - 2 * wanted))


def choose_purchases(random, items):
    """What a session buys of its items: most of those that it clicked again, few others, one at least."""
    again = {item for item in items if items.count(item) > 1}
    bought = [item for item in dict.fromkeys(items) if random.random() < (0.8 if item in again else 0.1)]
    return bought or [max(items, key=items.count)]


def best_auc(probabilities):
    """The AUC to expect of a model that knows the probabilities with which sessions buy, float array [sessions].

    It is the chance that of a session that buys and one that doesn't, the first has the higher probability.
    """
    probabilities = np.sort(probabilities)
    others = 1 - probabilities
    starts = np.unique(probabilities, return_index=True)[1]
    buying, not_buying = np.add.reduceat(probabilities, starts), np.add.reduceat(others, starts)
    return buying @ (np.cumsum(not_buying) - not_buying / 2) / (buying.sum() * not_buying.sum())


if __name__ == "__main__":
    run(main)
