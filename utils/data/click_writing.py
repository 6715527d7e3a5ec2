"""Write clicks: as a TSV table, as session text of item ids, or as session text of indices with vocab.txt."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from utils.data.click_columns import as_integers
from utils.data.clicks import SECOND, drop_short_sessions, joined_ranges, keep_items_of
from utils.data.conversion import COUNTS, open_targets, text_paths, vocabulary_order, write_conversion
from utils.data.item_ids import escape
from utils.files import InputError

CLICKS_WRITTEN = 1 << 20  # clicks written at a time


def write_table(clicks, file, categories=None):
    """Write `clicks` as TSV with the header SessionId, ItemId, Time (unix seconds) to the binary `file`.

    The rows are sorted by session, then time. All times have `clicks.decimals` decimals. Ids with a quote, a tab or a
    line end are quoted as in CSV.

    Parameters
    ----------
    categories : int32 array [clicks] and pyarrow.StringArray, optional
        Indices and names for a column Category before the times, of Clicks in memory.
    """
    file.write(b"SessionId\tItemId\tCategory\tTime\n" if categories else b"SessionId\tItemId\tTime\n")
    items = _quoted(clicks.item_names)
    categories = categories and (categories[0], _quoted(categories[1]))
    for block in clicks.blocks():
        for text in _rows_of_text(block, items, categories):
            file.write(text)


def _rows_of_text(clicks, items, categories=None):
    """Yield the rows of `write_table` in memoryviews of many rows; `items` are the items' names as they are written."""
    sessions, names = pa.array(clicks.sessions), clicks.session_names
    sessions = pc.cast(sessions, pa.string()) if names is None else _quoted(names).take(sessions)
    fraction = SECOND // 10**clicks.decimals  # microseconds
    line_ends = ["\n"]
    if clicks.decimals:
        line_ends = [f".{number:0{clicks.decimals}}\n" for number in range(10**clicks.decimals)]
    line_ends = pa.array(line_ends)
    for first in range(0, len(clicks), CLICKS_WRITTEN):
        rows = slice(first, first + CLICKS_WRITTEN)
        numbers = np.arange(first, min(first + CLICKS_WRITTEN, len(clicks)))
        owners = np.searchsorted(clicks.offsets, numbers, side="right") - 1
        seconds, rest = np.divmod(clicks.times[rows], SECOND)
        columns = [sessions.take(pa.array(owners)), items.take(pa.array(clicks.items[rows])),
                   *([categories[1].take(pa.array(categories[0][rows]))] if categories else []),
                   pc.cast(pa.array(seconds), pa.string())]
        text = pc.binary_join_element_wise(pc.binary_join_element_wise(*columns, "\t"),
                                           line_ends.take(pa.array(rest // fraction)), "")
        yield _characters(text)


def _quoted(names):
    """Names as fields of a TSV file: a pyarrow.StringArray."""
    special = pc.match_substring_regex(names, '["\t\r\n]')
    if not pc.any(special).as_py():
        return names
    in_quotes = pc.binary_join_element_wise('"', pc.replace_substring(names, '"', '""'), '"', "")
    return pc.if_else(special, in_quotes, names)


def as_words(names):
    """Item ids as words of session text and vocab.txt: a pyarrow.StringArray."""
    special = np.flatnonzero(pc.match_substring_regex(names, r"[^\x21-\x5b\x5d-\x7e]"))
    if not len(special):
        return names
    words = names.to_pylist()
    for place in special.tolist():
        words[place] = escape(words[place])
    return pa.array(words, pa.string())


def write_item_ids(clicks, file):
    """Write the item ids of each session as one line to the binary `file`, in the order in which sessions start."""
    for text in _session_text(clicks, as_words(clicks.item_names), _id_reader(clicks)):
        file.write(text)


def _session_text(clicks, words, numbers_of):
    """Yield sessions as lines of text in the order in which they start, in memoryviews of many lines.

    Parameters
    ----------
    clicks : Clicks or StoredClicks
    words : pyarrow.StringArray [len(clicks.item_names)]
        What is written for each item.
    numbers_of : function
        As of `_id_reader`.
    """
    words = pa.concat_arrays([pc.binary_join_element_wise(words, end, "") for end in (" ", "\n")])
    for block, order in clicks.in_order_of_starts(numbers_of):
        lengths = block.lengths()[order]
        ends = np.cumsum(lengths)
        first = 0
        while first < len(order):
            last = max(first + 1, int(np.searchsorted(ends, ends[first] + CLICKS_WRITTEN)))
            sessions = slice(first, last)
            items = block.items[joined_ranges(block.offsets[order[sessions]], lengths[sessions])]
            items[np.cumsum(lengths[sessions]) - 1] += len(clicks.item_names)  # a session's last: with a newline
            yield _characters(words.take(pa.array(items)))
            first = last


def _id_reader(clicks):
    """A function of a block that returns numbers in the order of the sessions' ids: int64 [sessions].

    Ids that are all integers are in the order of these, even where the whole table has other ids as well, so that the
    text is the same whether the clicks are a part of a table or a table of their own.
    """
    if all(_integer_ids(block) is not None for block in clicks.blocks()):
        return _integer_ids
    before = 0

    def count(block):
        nonlocal before
        before += len(block.sessions)
        return np.arange(before - len(block.sessions), before)

    return count


def _integer_ids(block):
    """The ids of the sessions as int64, or None if not all are integers."""
    if block.session_names is None:
        return block.sessions
    return as_integers(block.session_names.take(pa.array(block.sessions)))


def _characters(text):
    """The strings of the pyarrow.StringArray `text` one right after another, a memoryview."""
    offsets = np.frombuffer(text.buffers()[1], np.int32)[text.offset:text.offset + len(text) + 1]
    return memoryview(text.buffers()[2])[offsets[0]:offsets[-1]]


def write_session_text(training, test, directory):
    """Write what the trainers and evaluations read, as `preprocess.py --to_text` does, to `directory`.

    training, test : Clicks, with the same item names
    """
    no_tests = "test: found no session of two clicks on items of the training sessions, expected at least one"
    with open_targets(directory, "directory", no_tests) as targets:
        write_indexed(training, test, targets, directory)


def write_indexed(training, test, targets, directory):
    """Write what `write_item_ids` and then text2paddle.py write: session text of indices, and vocab.txt.

    Parameters
    ----------
    training, test : Clicks, with the same item names
    targets : list of two conversion.Target
        Where the training and the test sessions are written to.
    directory : str or Path
        Where vocab.txt is written to.

    Returns
    -------
    list of two dict, the numbers conversion.COUNTS of training and test, and the number of items
    """
    support = training.support()
    item_words = as_words(training.item_names).to_pylist()
    vocabulary = vocabulary_order({word: clicks for word, clicks in zip(item_words, support.tolist()) if clicks})
    if len(vocabulary) < 2:
        raise InputError(f"found {len(vocabulary)} item in the training sessions, expected at least 2 to choose from")
    index = {word: str(number) for number, word in enumerate(vocabulary)}
    words = pa.array([index.get(word, "") for word in item_words])  # other items are left out
    known = keep_items_of(test.each(_with_starts_as_times), training)
    kept = drop_short_sessions(known, 2)
    (sessions, clicks, _), (test_sessions, test_clicks, _), (kept_sessions, kept_clicks, _) = (
        table.sizes() for table in (training, test, kept))
    counts = [dict(zip(COUNTS, (sessions, clicks, 0, 0))),
              dict(zip(COUNTS, (kept_sessions, kept_clicks, test_sessions - kept_sessions, test_clicks - len(known))))]
    texts = _session_text(training, words, _id_reader(training)), _session_text(kept, words, _id_reader(test))
    *paths, vocab_path = text_paths(directory)
    parts = [(target, {path.name: text}, count) for target, path, text, count in zip(targets, paths, texts, counts)]
    write_conversion(parts, vocab_path, vocabulary)
    return *counts, len(vocabulary)


def _with_starts_as_times(block):
    """The block with each click at the time at which its session starts, even where its first click is left out."""
    return replace(block, times=np.repeat(block.starts(), block.lengths()))
