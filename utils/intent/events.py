"""Clicks and purchases of the same sessions: read from tables, and joined so that nothing leaks."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from utils.data.click_files import click_parts, concatenate, number_names, number_sessions
from utils.data.clicks import Clicks, group_by_session, keep_clicks, keep_sessions
from utils.data.left_out import LeftOut
from utils.memory import require_memory

BYTES_AN_EVENT = 50  # that joining and splitting take beside what was read, to the least


@dataclass
class Events:
    """Clicks and purchases in the order of the sessions.

    Attributes
    ----------
    rows : Clicks
        One "click" for each event, whose item is the event's position in the arrays below.
    items, categories : int32 arrays [events]
        Indices in `item_names` and `category_names`.
    is_purchase : bool array [events]
    item_names, category_names : pyarrow.StringArray
    """

    rows: Clicks
    items: np.ndarray
    categories: np.ndarray
    is_purchase: np.ndarray
    item_names: object
    category_names: object


@dataclass
class Joined:
    """The clicks of sessions before their first purchase, and all that these sessions bought.

    Attributes
    ----------
    clicks : Clicks
    categories : int32 array [clicks]
        Indices in `category_names`.
    category_names : pyarrow.StringArray
        An empty one is a missing category.
    purchases : Clicks
        Of those sessions of `clicks` that buy, with the same item and session names.
    """

    clicks: Clicks
    categories: np.ndarray
    category_names: object
    purchases: Clicks

    def session_ids(self):
        """The sessions' ids as text: pyarrow.StringArray [sessions]."""
        ids = pa.array(self.clicks.sessions)
        return pc.cast(ids, pa.string()) if self.clicks.session_names is None else self.clicks.session_names.take(ids)

    def buys(self):
        """Which sessions buy: bool [sessions]."""
        buys = np.zeros(len(self.clicks.sessions), bool)
        buys[np.searchsorted(self.clicks.sessions, self.purchases.sessions)] = True
        return buys


def read_events(click_paths, purchase_paths, columns, flags=("--input", "--buys"), left_out=None):
    """The Events of tables.

    Parameters
    ----------
    click_paths, purchase_paths : lists of str or Path
        Tables as for `click_files.click_parts`. Without purchase paths, the purchases are those of `columns`.
    columns : click_columns.Columns
    flags : pair of str
        What names the two for messages.
    left_out : LeftOut, optional

    Raises InputError as `click_parts` does.
    """
    left_out = left_out or LeftOut()
    sessions, items, times, categories, is_purchase = [], [], [], [], []

    def add(parts, all_are):
        for part in parts:
            sessions.append(part.sessions)
            items.append(part.items)
            times.append(part.times)
            categories.append(part.categories)
            is_purchase.append(part.is_purchase | all_are)

    add(click_parts(click_paths, columns, flags[0], left_out), False)
    if purchase_paths:
        # Their prices and quantities aren't read.
        plain = replace(columns, category=None, event="", events=(), purchases=())
        parts = click_parts(purchase_paths, plain, flags[1], left_out)
        add((part._replace(categories=_missing(len(part.times))) for part in parts), True)
    found = sum(map(len, times))
    require_memory(BYTES_AN_EVENT * found, f"{flags[0]}: found {found:,} clicks and purchases")
    sessions, session_names = number_sessions(sessions)
    items, item_names = number_names(items)
    categories, category_names = number_names(categories)
    is_purchase = concatenate(is_purchase)
    times = concatenate(times)
    pa.default_memory_pool().release_unused()  # otherwise Arrow keeps gigabytes
    rows = group_by_session(sessions, np.arange(len(times), dtype=np.int32), times, item_names, session_names)
    return Events(rows, items, categories, is_purchase, item_names, category_names)


def _missing(count):
    return pa.chunked_array([pa.repeat("", count).dictionary_encode()])


def join(events):
    """Leave out clicks at or after their session's first purchase, and sessions without a click before it.

    Returns
    -------
    Joined
    dict of str to int
        late_clicks, and sessions_without_clicks, which bought before they clicked or without a click.
    """
    rows = events.rows
    is_purchase = events.is_purchase[rows.items]
    never = np.iinfo(np.int64).max
    first_purchases = np.minimum.reduceat(np.where(is_purchase, rows.times, never), rows.offsets[:-1])
    is_early = rows.times < np.repeat(first_purchases, rows.lengths())
    early = keep_clicks(rows, ~is_purchase & is_early)
    purchases = keep_clicks(rows, is_purchase)
    left_out = {"late_clicks": int(np.count_nonzero(~is_purchase & ~is_early)),
                "sessions_without_clicks": len(rows.sessions) - len(early.sessions)}
    purchases = keep_sessions(purchases, np.isin(purchases.sessions, early.sessions, assume_unique=True))
    clicks, purchases = (replace(table, items=events.items[table.items]) for table in (early, purchases))
    return Joined(clicks, events.categories[early.items], events.category_names, purchases), left_out


def keep(joined, wanted):
    """The Joined of those sessions where `wanted` (bool [sessions]) is true."""
    clicks, purchases = joined.clicks, joined.purchases
    bought = wanted[np.searchsorted(clicks.sessions, purchases.sessions)]
    return Joined(keep_sessions(clicks, wanted), joined.categories[np.repeat(wanted, clicks.lengths())],
                  joined.category_names, keep_sessions(purchases, bought))
