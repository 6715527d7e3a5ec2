"""utils/training/parallel.py: several processes divide each step, and what comes out is what one process computes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from parallel_driver import AVERAGED_AFTER, CASES, alone_for_a_while, steps_of, train
from small_runs import draw_sessions

from utils.data.batches import Batching
from utils.processes import ALONE, Processes
from utils.training.parallel import Division, rows_by_process


@pytest.fixture(scope="module")
def by_two_processes(tmp_path_factory):
    """The weights of all CASES after their steps by two processes, by case and name."""
    path = tmp_path_factory.mktemp("parallel") / "weights.npz"
    command = [sys.executable, str(Path(__file__).with_name("parallel_driver.py")), str(path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    return dict(np.load(path))


@pytest.mark.parametrize("split", ["", ", split"])
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_trains_with_twice_the_batch(by_two_processes, kernels, case, split):
    """With all rows of the item matrices in each process, and with the rows split over both."""
    for name, expected in train(case, kernels, ALONE, steps_of(case, bool(split))).items():
        found = by_two_processes[f"{case}{split}: {name}"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4, err_msg=name)


def test_processes_that_train_by_themselves_take_the_means_of_their_weights(by_two_processes, kernels):
    """Here both trainers are in this process, and are averaged by hand."""
    runs = [alone_for_a_while(kernels, Processes(rank, 2), 10**6) for rank in range(2)]
    for step in range(2 * AVERAGED_AFTER):
        for trainer, batches in runs:
            trainer.step(next(batches))
        if (step + 1) % AVERAGED_AFTER == 0:
            first, second = ([*trainer.parameters.values(), *trainer.optimizer.state_of_all(trainer.parameters)]
                             for trainer, _ in runs)
            for one, other in zip(first, second):
                assert step == 0 or not np.array_equal(one.numpy(), other.numpy())
                mean = (one + other) / 2
                for tensor in (one, other):
                    paddle.assign(mean, tensor)
    for name, expected in runs[1][0].weights().items():
        np.testing.assert_allclose(by_two_processes[f"averaged: {name}"], expected, rtol=0, atol=1e-6, err_msg=name)


def test_processes_that_train_by_themselves_draw_their_own_negatives_and_masks(kernels):
    first, second = (alone_for_a_while(kernels, Processes(rank, 2), 10)[0] for rank in range(2))
    assert first.objective.sampler.draw().tolist() != second.objective.sampler.draw().tolist()
    apart = (second.engine.key - first.engine.key) % 2**64
    assert 2**32 < apart < 2**64 - 2**32, "no step of the one has a key of the other"


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=50), count=st.integers(1, 7))
def test_rows_are_divided_evenly_by_clicks(lengths, count):
    lengths = np.array(sorted(lengths, reverse=True))
    rows_per_step = [int((lengths > step).sum()) for step in range(lengths[0])]
    rows = rows_by_process(rows_per_step, count)
    assert sorted(np.concatenate(rows)) == list(range(len(lengths)))
    clicks = [lengths[own].sum() for own in rows]
    assert max(clicks) - min(clicks) <= lengths[0]
    assert max(clicks) <= 4 / 3 * max(lengths.sum() / count, lengths[0], lengths[[count - 1, count]].sum()
                                      if len(lengths) > count else 0)  # Graham's bound


@pytest.mark.parametrize("count", [2, 3, 5, 9])
@pytest.mark.parametrize("seed", range(3))
def test_every_position_of_a_step_is_computed_by_one_process(count, seed):
    sessions = draw_sessions(31, seed)
    divisions = [Division(Processes(rank, count)) for rank in range(count)]
    for batch in Batching(False, 7).batches(sessions, np.random.default_rng(seed)):
        parts = [division.part(batch) for division in divisions]
        assert sum(part.share for part in parts) == pytest.approx(1)
        real = [part for part in parts if part.share]
        assert sorted(np.concatenate([part.own for part in real])) == list(range(len(batch.targets)))
        assert all(part.share == pytest.approx(len(part.own) / len(batch.targets)) for part in real)
        for part in parts:
            assert (batch.positions[part.own] == part.batch.positions).all()
            assert_whole_sessions(part.batch, sessions)


def assert_whole_sessions(batch, sessions):
    """Each row of a packed batch goes through a session from its first click to its last."""
    starts = np.cumsum([0, *batch.rows_per_step])
    assert starts[-1] == len(batch.targets)
    for row in range(batch.rows_per_step[0]):
        positions = [batch.positions[start + row] for start, rows in zip(starts, batch.rows_per_step) if row < rows]
        session = np.searchsorted(sessions.offsets, positions[0], side="right") - 1
        assert positions == list(range(sessions.offsets[session] + 1, sessions.offsets[session + 1]))


@pytest.mark.parametrize("count", [2, 3, 5, 9])
@pytest.mark.parametrize("seed", range(3))
def test_a_session_stays_with_its_process_and_its_state(count, seed):
    """Side by side; the state here is the sum of the items clicked so far."""
    sessions = draw_sessions(31, seed)
    divisions, states, expected = [Division(Processes(rank, count)) for rank in range(count)], [None] * count, None
    for step in Batching(True, 7).batches(sessions, np.random.default_rng(seed)):
        expected = carried(expected, step)
        parts = [division.part(step) for division in divisions]
        real = [part for part in parts if part.share]
        assert sorted(np.concatenate([part.own for part in real])) == list(range(len(step.targets)))
        assert sum(part.share for part in parts) == pytest.approx(1)
        for rank, part in enumerate(parts):
            states[rank] = carried(states[rank], part.batch)
            if part.share:
                assert (states[rank] == expected[part.own]).all()
                assert (part.own == divisions[rank].own_slots()).all()


def carried(states, step):
    """What an engine does with states, one number a slot."""
    if states is None:
        states = np.zeros(len(step.inputs), np.int64)
    elif step.kept is not None:
        states = states[step.kept]
    states = states.copy()
    if step.restarted is not None:
        states[step.restarted] = 0
    return states + step.inputs


def test_the_table_of_memory_is_what_the_rows_take():
    """Weights and Adagrad's squares; over all items a gradient too, scores, exponentials and gradients by scores."""
    text = (ROOT / "docs/devices.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if " GB |" in line]
    assert len(rows) == 8
    for number, (_, loss, *cells) in enumerate(rows):
        for count, cell in zip((1, 8, 16, 64), cells):
            rows_here, positions = -(-10 ** (6 + number // 2) // count), 400 * count
            weights = rows_here * (100 + 1)
            numbers = 2 * weights if loss == "sampled" else 3 * weights + 3 * positions * rows_here
            expected = 4 * numbers / 1e9
            assert float(cell.removesuffix(" GB")) == pytest.approx(expected, abs=0.5 if expected >= 100 else 0.05)
