"""utils/intent: clicks and purchases are joined without a leak, and come back from files as they were."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.click_columns import Columns
from utils.files import InputError
from utils.intent import features
from utils.intent.events import join, keep, read_events
from utils.intent.features import count, features_of, pairs_of
from utils.intent.sessions import (
    choose_sessions,
    first_clicks,
    read_intent_sessions,
    read_intent_vocabularies,
    sessions_of,
)

VOCABULARIES = ["a", "b", "c"], ["shoes", "hats"]


def write_tables(directory, clicks, purchases):
    """clicks.tsv of (session, item, category, second) and buys.tsv of (session, item, second)."""
    for name, header, rows in (("clicks.tsv", "SessionId\tItemId\tCategory\tTime", clicks),
                               ("buys.tsv", "SessionId\tItemId\tTime", purchases)):
        (directory / name).write_text("".join("\t".join(map(str, row)) + "\n" for row in [header.split("\t"), *rows]))
    return directory


def joined_of(directory):
    return join(read_events([directory / "clicks.tsv"], [directory / "buys.tsv"], Columns(category="Category")))


def read(directory):
    return sessions_of(joined_of(directory)[0], VOCABULARIES)


EVENTS = st.lists(st.tuples(st.integers(1, 4), st.sampled_from("abcd"), st.integers(0, 30)), min_size=1, max_size=25)


@settings(max_examples=60)
@given(clicks=EVENTS, purchases=EVENTS, later=EVENTS)
def test_nothing_of_the_time_from_the_first_purchase_on_is_an_input(tmp_path_factory, clicks, purchases, later):
    directory = tmp_path_factory.mktemp("leak")
    first = {}
    for session, _, second in purchases:
        first[session] = min(first.get(session, second), second)
    with_categories = [(session, item, "shoes", second) for session, item, second in clicks]
    # other clicks and other purchases at or after the first purchase
    more = [(session, item, "hats", second + first[session]) for session, item, second in later if session in first]
    same_session = [(session, item, first[session] + second) for session, item, second in later if session in first]
    left = write_tables(directory, with_categories, purchases)
    joined, dropped = joined_of(left)
    expected = sorted((session, second) for session, _, second in clicks if second < first.get(session, 99))
    found = np.repeat(joined.clicks.sessions, joined.clicks.lengths()).tolist(), joined.clicks.times // 10**6
    assert list(zip(found[0], found[1].tolist())) == expected
    assert dropped["late_clicks"] == len(clicks) - len(expected)
    everyone = {session for session, *_ in [*clicks, *purchases]}
    assert dropped["sessions_without_clicks"] == len(everyone) - len({session for session, _ in expected})
    if not expected:
        return
    one = sessions_of(joined, VOCABULARIES)
    other = read(write_tables(directory, with_categories + more, purchases + same_session))
    for name in ("items", "categories", "times", "offsets", "buys"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert one.session_ids.equals(other.session_ids)
    assert not one.buys.any() or np.isin(np.array(one.session_ids.to_pylist(), int)[one.buys], list(first)).all()


@pytest.fixture
def two_sessions(tmp_path):
    """Session 7 clicks a, d, a and buys a and c; session x-9 clicks b and buys nothing."""
    return write_tables(tmp_path, [("x-9", "b", "", 50), ("7", "d", "hats", 20), ("7", "a", "shoes", 10),
                                   ("7", "a", "new", 30.5)],
                        [("7", "a", 40), ("7", "c", 41), ("7", "a", 41)])


def test_what_is_in_memory(two_sessions):
    sessions = read_intent_sessions(two_sessions, VOCABULARIES, "--train_dir")
    assert sessions.session_ids.to_pylist() == ["7", "x-9"]
    assert sessions.items.tolist() == [0, 3, 0, 1] and sessions.categories.tolist() == [1, 2, 0, 0]
    assert sessions.times.tolist() == [10, 20, 30.5, 50] and sessions.offsets.tolist() == [0, 3, 4]
    assert sessions.bought.tolist() == [True, False, True, False]
    assert sessions.buys.tolist() == [True, False] and sessions.bought_count.tolist() == [2, 0]
    assert [sessions.item_ids[number].as_py() for number in sessions.ids.tolist()] == ["a", "d", "a", "b"]


def test_sessions_chosen_by_number_and_cut(two_sessions):
    sessions = read(two_sessions)
    chosen = choose_sessions(sessions, np.array([1, 0]))
    assert chosen.session_ids.to_pylist() == ["x-9", "7"] and chosen.offsets.tolist() == [0, 1, 4]
    assert chosen.items.tolist() == [1, 0, 3, 0] and chosen.buys.tolist() == [False, True]
    cut = first_clicks(sessions, 2)
    assert cut.times.tolist() == [10, 20, 50] and cut.bought_count.tolist() == [2, 0]
    assert len(choose_sessions(sessions, np.array([], int)).items) == 0


def test_pairs_are_in_the_order_of_first_clicks(two_sessions):
    sessions = read(two_sessions)
    pairs = pairs_of(sessions)
    assert pairs.owners.tolist() == [0, 0, 1] and pairs.of_clicks.tolist() == [0, 1, 0, 2]
    assert pairs.firsts.tolist() == [0, 1, 3] and pairs.lasts.tolist() == [2, 1, 3]


def test_a_part_keeps_the_purchases_of_its_sessions(two_sessions):
    joined, _ = joined_of(two_sessions)
    buyers, others = keep(joined, np.array([True, False])), keep(joined, np.array([False, True]))
    assert len(buyers.purchases) == 3 and len(buyers.clicks) == 3 and buyers.buys().tolist() == [True]
    assert len(others.purchases) == 0 and len(others.clicks) == 1 and others.buys().tolist() == [False]


@pytest.mark.parametrize("clicks, purchases, fragments", [
    ([("2", "a", "", 10)], [("1", "a", 10)], ["1 sessions with purchases alone", "--to_intent"]),
    ([("1", "a", "", 5), ("1", "a", "", 10)], [("1", "a", 10)], ["1 clicks at or after"]),
    ([("1", "a", "", "soon")], [("1", "a", 10)], ["clicks.tsv line 2", "'soon'"]),
    ([("1", "a", "", 5), ("2", "a", "")], [("1", "a", 10)], ["clicks.tsv line 3", "3 columns"]),
    ([("1", "a", "", 5)], [("1", "", 10)], ["buys.tsv line 2", "an id"]),
    ([("1", "a", "", 5)], [], ["buys.tsv", "no row"]),
])
def test_wrong_files_are_refused_with_their_line(tmp_path, clicks, purchases, fragments):
    with pytest.raises(InputError) as error:
        read_intent_sessions(write_tables(tmp_path, clicks, purchases), VOCABULARIES, "--train_dir")
    for fragment in fragments:
        assert fragment in str(error.value)


def test_missing_files_are_named(two_sessions, tmp_path):
    (two_sessions / "buys.tsv").unlink()
    with pytest.raises(InputError, match="--valid_dir: found no file .*buys.tsv"):
        read_intent_sessions(two_sessions, VOCABULARIES, "--valid_dir")
    with pytest.raises(InputError, match="--valid_dir: found no directory"):
        read_intent_sessions(tmp_path / "nowhere", VOCABULARIES, "--valid_dir")
    with pytest.raises(InputError, match="vocab.txt"):
        read_intent_vocabularies(tmp_path, "--train_dir")
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="categories.txt"):
        read_intent_vocabularies(tmp_path, "--train_dir")
    for text, categories in (("", []), ("5\n", ["5"]), ("S\n5\n", ["S", "5"])):
        (tmp_path / "categories.txt").write_text(text)
        assert read_intent_vocabularies(tmp_path, "--train_dir") == (["a", "b"], categories)


@pytest.fixture(scope="module")
def many_sessions(tmp_path_factory):
    """300 sessions of 1 to 6 clicks, of which every third buys its first item."""
    random, clicks, purchases = np.random.default_rng(3), [], []
    for session in range(300):
        start = int(random.integers(10**6))
        for place in range(random.integers(1, 7)):
            clicks.append((session, "abcd"[random.integers(4)], ["", "shoes", "hats"][random.integers(3)],
                           start + 7 * place))
            if place == 0 and session % 3 == 0:
                purchases.append((session, clicks[-1][1], start + 100))
    return read(write_tables(tmp_path_factory.mktemp("many"), clicks, purchases))


def test_features_of_a_session_depend_on_its_own_clicks_alone(many_sessions, monkeypatch):
    counts = count(many_sessions, 3, 2, seed=1)
    of_sessions, of_pairs, session_names, pair_names = features_of(many_sessions, counts)
    assert of_sessions.shape == (300, len(session_names)) and of_sessions.dtype == np.float32
    assert of_pairs.shape == (len(pairs_of(many_sessions).owners), len(pair_names))
    assert np.isfinite(of_sessions).all() and np.isfinite(of_pairs).all()
    monkeypatch.setattr(features, "BLOCK", 70)
    assert np.array_equal(features.session_features(many_sessions, counts), of_sessions)
    assert np.array_equal(features.session_features(many_sessions, counts, counts.folds),
                          features_of(many_sessions, counts, counts.folds)[0])
    numbers = np.array([250, 3, 17])
    chosen = features_of(choose_sessions(many_sessions, numbers), counts)
    assert np.array_equal(chosen[0], of_sessions[numbers])
    owners = pairs_of(many_sessions).owners
    assert np.array_equal(chosen[1], np.concatenate([of_pairs[owners == number] for number in numbers]))


def test_features_of_training_sessions_tell_nothing_of_what_they_bought(many_sessions):
    from dataclasses import replace
    counts = count(many_sessions, 3, 2, seed=1)
    part = counts.folds == 4
    owners = np.repeat(part, many_sessions.lengths())
    changed = replace(many_sessions, buys=many_sessions.buys ^ part, bought=many_sessions.bought ^ owners)
    before = features_of(many_sessions, counts, counts.folds)[0][part]
    after = features_of(changed, count(changed, 3, 2, seed=1), counts.folds)[0][part]
    assert np.array_equal(before, after)
    assert not np.array_equal(before, features_of(many_sessions, counts)[0][part])


def test_a_rate_is_that_of_the_sessions_with_the_item(many_sessions):
    counts = count(many_sessions, 3, 2, seed=1)
    totals = counts.items.sum(axis=0)
    for item in range(4):  # the last one isn't in the vocabulary
        has = [item in many_sessions.items[start:end]
               for start, end in zip(many_sessions.offsets, many_sessions.offsets[1:])]
        buys = np.array(has) & many_sessions.buys
        assert totals[:2, item].tolist() == [np.count_nonzero(has), np.count_nonzero(buys)]
