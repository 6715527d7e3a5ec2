"""utils/data/batches.py: every click is in exactly one step, as slow plain versions put it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.data.batches import Batching, evaluation_batches, pack, side_by_side_steps, training_batches
from utils.data.sessions import Sessions
from utils.processes import Processes

SESSION_LISTS = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=12), min_size=1, max_size=25)


def as_sessions(lists):
    return Sessions(np.array([item for items in lists for item in items], np.int32),
                    np.cumsum([0, *map(len, lists)], dtype=np.int64))


def as_lists(sessions):
    return [sessions.items[start:end].tolist() for start, end in zip(sessions.offsets, sessions.offsets[1:])]


def sessions_of(batch):
    """The sessions that a batch holds, as (inputs, targets, positions) of each row, padding left out."""
    rows = [[] for _ in range(batch.rows_per_step[0])]
    click = 0
    for count in batch.rows_per_step:
        for row in range(count):
            rows[row].append((batch.inputs[click], batch.targets[click], batch.positions[click]))
            click += 1
    assert click == len(batch.inputs) == len(batch.targets) == len(batch.positions)
    rows = [[step for step in row if step[2] >= 0] for row in rows]
    return [tuple(np.array(row).T.tolist()) for row in rows if row]


def expected_rows(sessions, numbers):
    """What `sessions_of` must give for the sessions `numbers`, in any order: the slow plain way."""
    lists = as_lists(sessions)
    return sorted(([*lists[number][:-1]], [*lists[number][1:]],
                   list(range(sessions.offsets[number] + 1, sessions.offsets[number + 1])))
                  for number in numbers if len(lists[number]) > 1)


# Packing

def test_packs_first_clicks_first_longest_session_on_top():
    batch = pack(as_sessions([[10, 11], [20, 21, 22, 23], [30], [40, 41, 42]]), np.array([0, 1, 2, 3]))
    assert batch.rows_per_step == [3, 2, 1]
    assert batch.inputs.tolist() == [20, 40, 10, 21, 41, 22]
    assert batch.targets.tolist() == [21, 41, 11, 22, 42, 23]
    assert batch.positions.tolist() == [3, 8, 1, 4, 9, 5]
    assert batch.inputs.dtype == batch.targets.dtype == batch.positions.dtype == np.int64


def test_every_step_is_padded_to_the_minimum_of_rows():
    batch = pack(as_sessions([[10, 11], [20, 21, 22]]), np.array([0, 1]), minimum_rows=3)
    assert batch.rows_per_step == [3, 3]
    assert batch.positions.tolist() == [3, 1, -1, 4, -1, -1]
    assert batch.inputs.tolist() == [20, 10, 0, 21, 0, 0]
    assert batch.targets.tolist() == [21, 11, 0, 22, 0, 0]


@given(lists=SESSION_LISTS, minimum_rows=st.integers(1, 30), data=st.data())
def test_packs_as_a_slow_plain_version_does(lists, minimum_rows, data):
    lists.append([1, 2])  # at least one session with a prediction
    sessions = as_sessions(lists)
    numbers = data.draw(st.lists(st.integers(0, len(lists) - 1), unique=True)) or [len(lists) - 1]
    if max(len(lists[number]) for number in numbers) < 2:
        numbers.append(len(lists) - 1)
    batch = pack(sessions, np.array(numbers), minimum_rows)
    assert sorted(sessions_of(batch)) == expected_rows(sessions, numbers)
    lengths = sorted((len(lists[number]) - 1 for number in numbers), reverse=True)
    assert batch.rows_per_step == [max(minimum_rows, sum(length > step for length in lengths))
                                   for step in range(lengths[0])]


# Batches

def flat(batches):
    return [array.tolist() for batch in batches for array in batch[:3]]


@given(lists=SESSION_LISTS, batch_size=st.integers(1, 9), group=st.integers(1, 4), shuffle=st.booleans())
def test_training_takes_every_session_exactly_once(lists, batch_size, group, shuffle):
    sessions = as_sessions(lists)
    batches = list(training_batches(sessions, batch_size, np.random.default_rng(1), shuffle, group))
    found = [row for batch in batches for row in sessions_of(batch)]
    assert sorted(found) == expected_rows(sessions, range(len(lists)))
    used = sum(len(items) > 1 for items in lists)
    assert len(batches) == -(-used // batch_size)
    assert all(batch.rows_per_step[0] <= batch_size for batch in batches)
    assert all((batch.positions >= 0).all() for batch in batches)


def test_the_last_incomplete_batch_is_trained_on():
    batches = list(training_batches(as_sessions([[1, 2]] * 7), 50, np.random.default_rng(1)))
    assert [batch.rows_per_step for batch in batches] == [[7]]


def test_a_group_of_batches_is_sorted_by_length():
    lengths = np.random.default_rng(3).integers(2, 30, 200)
    sessions = as_sessions([[1] * length for length in lengths])
    wasted = lambda group: sum(batch.rows_per_step[0] * len(batch.rows_per_step)
                               for batch in training_batches(sessions, 10, np.random.default_rng(1),
                                                             group=group)) / (lengths - 1).sum()
    assert wasted(20) < 1.15 < 1.5 < wasted(1)


def test_without_groups_the_order_of_the_file_is_kept():
    sessions = as_sessions([[number, number] for number in range(100)])
    seen = [item for batch in training_batches(sessions, 7, np.random.default_rng(1)) for item in batch.inputs]
    assert seen == list(range(100))


def test_the_order_of_the_file_is_kept_but_for_a_group():
    sessions = as_sessions([[number, number] for number in range(100)])
    seen = [item for batch in training_batches(sessions, 5, np.random.default_rng(1), group=4) for item in batch.inputs]
    groups = [sorted(seen[start:start + 20]) for start in range(0, 100, 20)]
    assert groups == [list(range(start, start + 20)) for start in range(0, 100, 20)]
    assert seen != sorted(seen)  # within a group the batches come in random order


def test_the_same_seed_gives_the_same_batches_and_another_seed_others():
    sessions = as_sessions([[number, number] for number in range(100)])
    order = lambda seed, shuffle: flat(training_batches(sessions, 5, np.random.default_rng(seed), shuffle, group=4))
    for shuffle in False, True:
        assert order(1, shuffle) == order(1, shuffle) != order(2, shuffle)


def test_shuffling_mixes_sessions_from_the_whole_file():
    sessions = as_sessions([[number, number] for number in range(1000)])
    first = next(training_batches(sessions, 10, np.random.default_rng(1), shuffle=True, group=1))
    assert first.inputs.max() - first.inputs.min() > 200
    assert as_lists(sessions)[:3] == [[0, 0], [1, 1], [2, 2]]  # the sessions themselves stay as they are


@given(lists=SESSION_LISTS, batch_size=st.integers(1, 9), minimum_rows=st.integers(1, 10))
def test_evaluation_takes_every_session_exactly_once_longest_first(lists, batch_size, minimum_rows):
    sessions = as_sessions(lists)
    batches = list(evaluation_batches(sessions, batch_size, minimum_rows))
    assert sorted(row for batch in batches for row in sessions_of(batch)) == expected_rows(sessions, range(len(lists)))
    steps = [len(batch.rows_per_step) for batch in batches]
    assert steps == sorted(steps, reverse=True)
    assert all(minimum_rows <= rows <= max(minimum_rows, batch_size) for batch in batches
               for rows in batch.rows_per_step)


@given(lists=SESSION_LISTS, count=st.integers(2, 4))
def test_of_several_processes_each_evaluates_other_sessions(lists, count):
    sessions = as_sessions(lists)
    found = [row for rank in range(count) for batch in evaluation_batches(sessions, 3, 1, Processes(rank, count))
             for row in sessions_of(batch)]
    assert sorted(found) == expected_rows(sessions, range(len(lists)))


def slow_parallel_steps(lists, slots, fewest):
    """Session-parallel training spelled out on lists: (session, click) pairs of each step's slots."""
    waiting = [session for session in range(len(lists)) if len(lists[session]) > 1]
    running = [[session, 0] for session in waiting[:slots]]
    waiting = waiting[slots:]
    steps = []
    while len(running) >= fewest and running:
        for _ in range(min(len(lists[session]) - click for session, click in running) - 1):
            steps.append([(session, click) for session, click in running])
            running = [[session, click + 1] for session, click in running]
        for slot in range(len(running)):
            session, click = running[slot]
            if len(lists[session]) - click <= 1:
                running[slot] = [waiting.pop(0), 0] if waiting else None
        running = [slot for slot in running if slot]
    return steps


@given(lengths=st.lists(st.integers(1, 7), max_size=15), slots=st.integers(1, 5), fewest=st.integers(1, 2))
def test_session_parallel_steps_equal_the_spelled_out_ones(lengths, slots, fewest):
    lists = [[100 * session + click for click in range(length)] for session, length in enumerate(lengths)]
    sessions = Sessions(np.array(sum(lists, []), np.int32), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    before, found = None, []
    for step in side_by_side_steps(sessions, slots, fewest):
        pairs = [(item // 100, item % 100) for item in step.inputs.tolist()]
        assert (step.targets == step.inputs + 1).all()
        if before is not None:  # what the state is carried by
            kept = before if step.kept is None else [before[slot] for slot in step.kept]
            restarted = [False] * len(pairs) if step.restarted is None else step.restarted.tolist()
            for (session, click), (old_session, old_click), fresh in zip(pairs, kept, restarted):
                assert (click == 0) == fresh and (fresh or (session, click) == (old_session, old_click + 1))
        before = pairs
        found.append(pairs)
    assert found == slow_parallel_steps(lists, slots, fewest)


def test_batching_chooses_between_the_two_ways():
    sessions = as_sessions([[number, number + 1, number + 2] for number in range(40)])
    random = lambda: np.random.default_rng(5)
    whole = flat(Batching(side_by_side=False, size=6, shuffle=True, group=3).batches(sessions, random()))
    assert whole == flat(training_batches(sessions, 6, random(), True, 3))
    assert whole != flat(training_batches(sessions, 6, random()))
    side_by_side = Batching(side_by_side=True, size=6).batches(sessions, random(), fewest_slots=3)
    steps = [step.inputs.tolist() for step in side_by_side]
    assert steps == [step.inputs.tolist() for step in side_by_side_steps(sessions, 6, 3)]
    assert {len(inputs) for inputs in steps} == {4, 6}


def seen_before_targets(steps, parallel):
    """The clicks that the network has seen of its session as it predicts: (clicks, target) of each prediction."""
    found, rows = [], []
    for step in steps:
        clicks, targets = 0, iter(step.targets.tolist())
        predicted = set(range(len(step.inputs)) if step.predicted is None else step.predicted.tolist())
        if not parallel:
            rows = [[] for _ in range(step.rows_per_step[0])]
        elif rows:
            rows = rows if step.kept is None else [rows[slot] for slot in step.kept]
            rows = [[] if step.restarted is not None and step.restarted[slot] else row for slot, row in enumerate(rows)]
        else:
            rows = [[] for _ in step.inputs]
        for count in step.rows_per_step:
            for row in range(count):
                rows[row] = [*rows[row], int(step.inputs[clicks])]
                if clicks in predicted:
                    found.append((rows[row], next(targets)))
                clicks += 1
        assert next(targets, None) is None
    return sorted(found)


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=9), look_back=st.integers(1, 8),
       parallel=st.booleans(), size=st.integers(1, 5))
def test_looking_back_a_prediction_sees_just_so_many_clicks_before_it(lengths, look_back, parallel, size):
    lists = [[100 * session + click for click in range(length)] for session, length in enumerate(lengths)]
    batching = Batching(parallel, size, longest=look_back, overlap=look_back - 1)
    found = seen_before_targets(batching.batches(as_sessions(lists), np.random.default_rng(1)), parallel)
    assert found == sorted((items[max(0, place - look_back):place], items[place])
                           for items in lists for place in range(1, len(items)))


@pytest.mark.parametrize("parallel", [False, True])
def test_sliding_windows_carry_clicks_over(parallel):
    batching = Batching(parallel, 2, longest=4, overlap=2)
    found = seen_before_targets(batching.batches(as_sessions([list(range(9)), [20, 21]]), np.random.default_rng(1)),
                                parallel)
    seen = {target: clicks for clicks, target in found}
    assert len(found) == 9 and seen[4] == [0, 1, 2, 3] and seen[5] == [2, 3, 4] and seen[6] == [2, 3, 4, 5]
    assert seen[7] == [4, 5, 6] and seen[21] == [20]
