"""Write a synthetic yoochoose-clicks.dat, or the same clicks as Parquet: real form and size, made-up clicks.

The YOOCHOOSE clicks may not be passed on. This file has their proportions (clicks a session, sessions of one click,
items, half a year), so that the speed of preparing data can be measured anywhere. Popularity follows Zipf's law. The
clicks of a session stand together. Sessions are in the order neither of their times nor of their ids, and in one of 64
a click stands before an earlier one.

    python benchmarks/make_clicks.py --click_count 33000000 --output yoochoose-clicks.dat
    python benchmarks/make_clicks.py --click_count 33000000 --output clicks.dat --buys_output buys.dat
    python benchmarks/make_clicks.py --click_count 330000000 --output clicks.parquet
"""

import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.files import InputError, require_different, write_atomically  # noqa: E402
from utils.options import COUNT, Parser, add_seed_flag, number  # noqa: E402
from utils.process import run  # noqa: E402

FIRST_DAY, DAYS = "2014-04-01", 183
DAY = 86_400_000  # milliseconds
SESSIONS_A_BLOCK = 250_000  # written at a time, which limits the memory
CATEGORIES = ["0"] * 12 + [str(category) for category in range(1, 13)] + ["S"] * 8
PRICES = ["0,0", "523,1", "1046,1", "1046,2"]  # with quantities
BUYING = 0.055  # share of the sessions


def main():
    parser = Parser("Write a synthetic yoochoose-clicks.dat (no header; SessionId,Timestamp,ItemId,Category).")
    parser.add_argument("--output", default="yoochoose-clicks.dat",
                        help="the file to write; Parquet with the columns SessionId, Time, ItemId, Category if its "
                        "name ends with .parquet")
    parser.add_argument("--click_count", type=number(int, 1, COUNT), default=33_000_000, help="how many clicks")
    parser.add_argument("--item_count", type=number(int, 1, 400_000_000), default=52_000, help="size of the catalogue")
    parser.add_argument("--buys_output", default="",
                        help="a yoochoose-buys.dat to write as well, beside clicks as text; empty: none")
    add_seed_flag(parser)
    flags = parser.parse_args()
    if flags.buys_output and flags.output.endswith(".parquet"):
        raise InputError("--buys_output: found it with Parquet, expected clicks as text")
    buys = [("--buys_output", flags.buys_output)] * bool(flags.buys_output)
    require_different([], [("--output", flags.output), *buys])
    import numpy as np

    random = np.random.default_rng(flags.seed)
    lengths = session_lengths(random, flags.click_count)
    blocks = np.arange(0, len(lengths), SESSIONS_A_BLOCK)
    random.shuffle(blocks)
    draw_item = item_sampler(random, flags.item_count)
    write = write_parquet if flags.output.endswith(".parquet") else write_text
    drawn = (draw_clicks(random, first + 1, lengths[first:first + SESSIONS_A_BLOCK].astype(int), draw_item)
             for first in blocks)
    with ExitStack() as outputs:
        file = outputs.enter_context(write_atomically(flags.output, "wb"))
        if flags.buys_output:
            buys = outputs.enter_context(write_atomically(flags.buys_output, "wb"))
            drawn = with_purchases(drawn, buys, np.random.default_rng((flags.seed, 1)))
        write(file, drawn)
    print(f"{flags.output}: {flags.click_count:,} clicks, {len(lengths):,} sessions, seed {flags.seed}")


def session_lengths(random, clicks):
    """Clicks of each session, uint8 [sessions], whose sum is `clicks`.

    As in YOOCHOOSE, the mean is 3.6, and one session in seven has a single click.
    """
    import numpy as np

    sizes = [min(SESSIONS_A_BLOCK, clicks // 3 + 10 - first) for first in range(0, clicks // 3 + 10, SESSIONS_A_BLOCK)]
    lengths = np.concatenate([1 + random.negative_binomial(4, 0.609, size=size).astype(np.uint8) for size in sizes])
    ends = np.cumsum(lengths, dtype=np.uint32)
    sessions = 1 + int(np.searchsorted(ends, clicks))
    lengths = lengths[:sessions]
    lengths[-1] -= ends[sessions - 1] - clicks
    return lengths


def item_sampler(random, items):
    """A function of a number that draws as many item ids of 9 digits, int64, by Zipf's law with a thin end.

    In 33 million clicks on 52,000 items, about 15,000 items have fewer than 5 clicks, as in YOOCHOOSE.
    """
    import numpy as np

    ids = 214_000_000 + np.cumsum(random.integers(1, 1_000_000 // items + 2, size=items))
    random.shuffle(ids)
    rank = np.arange(items)
    cumulative = np.cumsum(np.exp(-5.1 * rank / items) / (rank + 100))
    return lambda count: ids[np.searchsorted(cumulative, random.random(count) * cumulative[-1])]


def draw_clicks(random, first_id, lengths, draw_item):
    """The clicks of sessions of these `lengths`, with the ids `first_id`, `first_id` + 1 ...

    Returns
    -------
    sessions, times, items, categories : int64 arrays [clicks]
        Times are milliseconds since FIRST_DAY, categories positions in CATEGORIES.
    """
    import numpy as np

    clicks, ends = lengths.sum(), np.cumsum(lengths)
    pauses = random.exponential(180_000, clicks).astype(np.int64)  # milliseconds between clicks
    elapsed = np.cumsum(pauses)
    elapsed -= np.repeat(elapsed[ends - lengths], lengths)
    times = np.repeat(random.integers(0, (DAYS - 1) * DAY, len(lengths)), lengths) + elapsed
    times = np.minimum(times, DAYS * DAY - 1)
    swapped = ends[(lengths > 1) & (random.random(len(lengths)) < 1 / 64)] - 1
    times[swapped], times[swapped - 1] = times[swapped - 1], times[swapped]
    sessions = np.repeat(np.arange(first_id, first_id + len(lengths)), lengths)
    return sessions, times, draw_item(clicks), random.integers(0, len(CATEGORIES), clicks)


def with_purchases(blocks, file, random):
    """Yield the blocks of clicks, and write what their sessions buy to the binary `file`.

    The sessions that buy are drawn, and buy the item of one or two of their clicks some minutes after the last one.
    """
    import numpy as np

    for sessions, times, items, categories in blocks:
        lasts = np.flatnonzero(np.append(sessions[1:] != sessions[:-1], True))
        lengths = np.diff(lasts, prepend=-1)
        chosen = np.repeat(np.flatnonzero(random.random(len(lasts)) < BUYING), 2)
        chosen = chosen[(np.arange(len(chosen)) % 2 == 0) | (random.random(len(chosen)) < 0.5)]
        rows = lasts[chosen] - (random.random(len(chosen)) * lengths[chosen]).astype(int)
        bought_at = np.maximum(times[lasts[chosen]], times[lasts[chosen] - 1]) + 120_000
        write_text(file, [(sessions[rows], np.minimum(bought_at, DAYS * DAY - 1), items[rows],
                           random.integers(0, len(PRICES), len(rows)))], PRICES)
        yield sessions, times, items, categories


def write_text(file, blocks, last_columns=CATEGORIES):
    """Write blocks as lines of a yoochoose-clicks.dat to the binary `file`; their last array has places in
    `last_columns`, the texts after the item.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    dates = pa.array(np.arange(np.datetime64(FIRST_DAY), np.datetime64(FIRST_DAY) + DAYS).astype(str))
    clock = pa.array([f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}" for second in range(86_400)])
    fractions = pa.array([f".{thousandth:03}Z," for thousandth in range(1_000)])
    line_ends = pa.array([f",{text}\n" for text in last_columns])
    for sessions, times, items, categories in blocks:
        days, times_of_day = np.divmod(times, DAY)
        text = pc.binary_join_element_wise(
            pc.cast(pa.array(sessions), pa.string()), ",",
            dates.take(pa.array(days)), "T", clock.take(pa.array(times_of_day // 1000)),
            fractions.take(pa.array(times_of_day % 1000)), pc.cast(pa.array(items), pa.string()),
            line_ends.take(pa.array(categories)), "")
        file.write(text.buffers()[2])


def write_parquet(file, blocks):
    """Write blocks of clicks as row groups of a Parquet file to the binary `file`."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    first = np.datetime64(FIRST_DAY, "ms").astype(int)
    schema = pa.schema({"SessionId": pa.int64(), "Time": pa.timestamp("ms", "UTC"), "ItemId": pa.int64(),
                        "Category": pa.string()})
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for sessions, times, items, categories in blocks:
            writer.write_table(pa.table([sessions, pa.array(times + first).cast(schema.types[1]), items,
                                         pa.array(CATEGORIES).take(pa.array(categories))], schema))


if __name__ == "__main__":
    run(main)
