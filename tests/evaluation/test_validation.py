"""Validation, the best epoch, early stopping and --keep, as a user sees them and by their parts."""

import json
import shutil

import numpy as np
import pytest
from conftest import assert_one_line_error, assert_worked, with_flags
from hypothesis import given
from hypothesis import strategies as st

from utils.data.sessions import Sessions, choose
from utils.evaluation.validation import (
    SMALLER_IS_BETTER,
    better_of,
    evenly_chosen,
    sessions_checksum,
    split_sessions,
    without_unknown,
)
from utils.files import InputError
from utils.model import checkpoint
from utils.training.flags import WATCHED


def flags(data, model_dir, *more):
    usual = ["--train_dir", data / "train_data", "--vocab_path", data / "vocab.txt", "--model_dir", model_dir,
             "--threads", 1, "--hid_size", 8, "--pass_num", 3, "--batch_size", 10]
    return with_flags(usual, more)


def epoch_records(model_dir):
    lines = (model_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["event"] == "epoch"]


def of(*sessions):
    return Sessions(np.array([item for session in sessions for item in session], np.int32),
                    np.cumsum([0, *map(len, sessions)]))


def as_lists(sessions):
    return [sessions.items[start:end].tolist() for start, end in zip(sessions.offsets, sessions.offsets[1:])]


def cut(sessions, fraction, valid_dir=""):
    return split_sessions(sessions, 10, "", valid_dir, fraction)


# Parts

def test_the_newest_sessions_are_the_last_lines():
    sessions = of([1, 2], [3, 1], [2, 3, 1], [1, 3], [2, 1])
    training, validation, left_out = cut(sessions, 0.4)
    assert as_lists(training) == [[1, 2], [3, 1], [2, 3, 1]] and as_lists(validation) == [[1, 3], [2, 1]]
    assert left_out == 0
    assert as_lists(cut(sessions, 0.01)[1]) == [[2, 1]]  # at least one
    assert cut(sessions, 0.0) == (sessions, None, 0)


def test_validation_clicks_on_items_that_training_lacks_are_left_out():
    validation, left_out = without_unknown(of([1, 5, 2], [5], [6, 7], [2, 1]), of([1, 2], [2, 3]), 10)
    assert as_lists(validation) == [[1, 2], [], [], [2, 1]] and left_out == 4 and validation.predictions == 2


def test_nothing_to_validate_with_is_said():
    with pytest.raises(InputError, match="--valid_fraction 0.5: found no validation session"):
        cut(of([1, 2], [3, 4]), 0.5)


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=9), st.data())
def test_choose_takes_whole_sessions(sessions, data):
    numbers = data.draw(st.lists(st.integers(0, len(sessions) - 1), max_size=9))
    chosen = choose(of(*sessions), np.array(numbers, np.int64))
    assert as_lists(chosen) == [sessions[number] for number in numbers]


def test_the_training_sample_spreads_over_all_sessions():
    sessions = of(*([number, number] for number in range(100)))
    assert evenly_chosen(sessions, 10).items.tolist() == [item for item in range(0, 100, 10) for _ in range(2)]
    assert len(evenly_chosen(sessions, 1000).lengths) == 100


def test_the_checksum_knows_clicks_and_borders():
    found = {sessions_checksum(sessions)
             for sessions in (of([1, 2], [3]), of([1], [2, 3]), of([1, 2], [4]), of([1, 2]))}
    assert len(found) == 4 and sessions_checksum(None) is None
    assert sessions_checksum(of([1, 2], [3])) == sessions_checksum(of([1, 2], [3]))


def test_better_is_more_or_less_and_the_earlier_of_equals():
    assert set(SMALLER_IS_BETTER) < set(WATCHED)
    best = better_of(None, 1, {"recall@20": 0.5}, "recall@20")
    assert best == {"epoch": 1, "watched": "recall@20", "value": 0.5}
    assert better_of(best, 2, {"recall@20": 0.5}, "recall@20") == best
    assert better_of(best, 2, {"recall@20": 0.6}, "recall@20")["epoch"] == 2
    best = better_of(None, 1, {"valid_loss": 3.0}, "valid_loss")
    assert better_of(best, 2, {"valid_loss": 3.1}, "valid_loss") == best
    assert better_of(best, 2, {"valid_loss": 2.9}, "valid_loss")["epoch"] == 2


def test_losses_are_the_cross_entropy_over_all_items(tiny_data, tiny_model):
    import paddle

    from utils.data.sessions import read_sessions
    from utils.evaluation.ranks import Way, network_ranks, network_ranks_and_losses
    from utils.model.network import load_network, named_weights
    network = load_network(tiny_model, 2)
    weights = named_weights(network)
    sessions = read_sessions(tiny_data / "test_data", 36, "--test_dir")
    longest = choose(sessions, np.array([np.argmax(sessions.lengths)]))
    clicks = paddle.to_tensor(longest.items.astype(np.int64))
    network.settings.label_smoothing = 0.0
    for scale in (1, 1000):  # whose exponentials overflow
        for name, values in weights.items():
            network.state_dict()[name].set_value(paddle.to_tensor(values * (scale if name == "item_matrix" else 1)))
        ranks, losses = network_ranks_and_losses(network, sessions, Way(64))
        assert (ranks == network_ranks(network, sessions, Way(64))).all() and len(losses) == sessions.predictions
        network.eval()
        states = network.hidden_states(clicks[:-1], [1] * longest.predictions)
        expected = float(network.loss(network.scores(states, network.item_matrix), clicks[1:]).mean())
        assert network_ranks_and_losses(network, longest, Way(64))[1].mean() == pytest.approx(expected, rel=1e-4)


# As a user sees it

def test_figures_of_each_epoch_are_infers_own(tiny_data, tmp_path, run_here):
    model_dir = tmp_path / "model"
    process = assert_worked(run_here("train.py", *flags(tiny_data, model_dir, "--valid_dir", tiny_data / "test_data")))
    records = epoch_records(model_dir)
    values = [record["recall@20"] for record in records]
    best = int(np.argmax(values)) + 1
    assert f"best epoch by recall@20: epoch_{best}" in process.stdout and checkpoint.best_epoch(model_dir) == best
    assert process.stdout.count("epoch:1 validation recall@20:") == 1
    for record in records:
        assert record["loss_ratio"] == pytest.approx(record["valid_loss"] / record["train_loss"])
        assert 0 < record["mrr@20"] < record["recall@20"] < 1 and 1 < record["train_loss"] < 4
    infer = lambda *more: assert_worked(run_here("infer.py", "--test_dir", tiny_data / "test_data",
                                                 "--model_dir", model_dir, *more))
    assert infer("--start_index", 1, "--last_index", 3).stdout.count("model:") == 3
    assert f"model:{model_dir}/epoch_{best} " in infer("--epoch", 0).stdout
    output = infer().stdout
    assert output.count("model:") == 1 and f"model:{model_dir}/epoch_{best} recall@20:{values[best - 1]:.4f}" in output
    assert f"epoch:{best} the best by validation" in output


def test_recommend_answers_by_the_best_epoch(tiny_data, tmp_path, run_here):
    model_dir = tmp_path / "model"
    # The loss only grows, on every processor; the recall may go either way.
    more = ["--valid_fraction", 0.2, "--base_lr", 1, "--lr_end", 100, "--watch", "valid_loss"]
    process = run_here("train.py", *flags(tiny_data, model_dir, *more))
    assert process.returncode == 0 and process.stderr.startswith("train.py: --lr_end 100: found a loss of ")
    best = checkpoint.best_epoch(model_dir)
    assert best < 3
    answer = lambda *more: assert_worked(run_here("recommend.py", "--model_dir", model_dir, "item_1", "item_2",
                                                  *more)).stdout
    assert answer() == answer("--epoch", best) != answer("--epoch", 3)
    shutil.rmtree(model_dir / f"epoch_{best}")
    process = run_here("recommend.py", "--model_dir", model_dir, "item_1")
    assert_one_line_error(process, "best", "the state.json of epoch_3", "epochs there")


def test_early_stopping_and_keep(tiny_data, tmp_path, run_here):
    """With a rate of 0 nothing gets better: the first epoch is the best, and the run ends after --patience more."""
    more = ["--valid_fraction", 0.2, "--base_lr", 0, "--pass_num", 9, "--patience", 3, "--keep", 2]
    process = assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "model", *more)))
    assert "epoch 1 in 3 epochs: stopped early" in process.stdout and len(epoch_records(tmp_path / "model")) == 4
    assert checkpoint.finished_epochs(tmp_path / "model") == [1, 3, 4]
    assert checkpoint.best_epoch(tmp_path / "model") == 1
    again = assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "model", *more, "--resume", 1)))
    assert "epoch_5 start" not in again.stdout and again.stdout.endswith("finish training\n")


@pytest.mark.parametrize("watched", WATCHED)
def test_each_figure_can_be_watched(tiny_data, tmp_path, run_here, watched):
    assert_worked(run_here("train_sample_neg.py", *flags(tiny_data, tmp_path / "model", "--valid_fraction", 0.2,
                                                         "--watch", watched)))
    values = [record[watched] for record in epoch_records(tmp_path / "model")]
    best = np.argmin(values) if watched in SMALLER_IS_BETTER else np.argmax(values)
    assert checkpoint.best_epoch(tmp_path / "model") == best + 1


def test_without_validation_there_is_no_best_epoch(tiny_data, tmp_path, run_here):
    assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "model", "--keep", 1)))
    assert checkpoint.finished_epochs(tmp_path / "model") == [3] and checkpoint.best_epoch(tmp_path / "model") is None


def test_validation_changes_nothing_of_the_training(tiny_data, tmp_path, run_here):
    for name, more in (("with", ["--valid_dir", tiny_data / "test_data"]), ("without", [])):
        assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / name, "--tune_cpu", 0, *more)))
    weights = [(tmp_path / name / "epoch_3" / checkpoint.MODEL).read_bytes() for name in ("with", "without")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("more, fragments", [
    (["--valid_dir", "nowhere"], ["--valid_dir", "nowhere"]),
    (["--valid_dir", "x", "--valid_fraction", 0.1], ["--valid_fraction", "--valid_dir"]),
    (["--patience", 2], ["--patience", "--valid_fraction"]),
    (["--watch", "recall@20"], ["--watch", "--valid_fraction"]),
    (["--valid_fraction", 1], ["--valid_fraction", "< 1"]),
    (["--valid_fraction", 0.1, "--watch", "loss"], ["--watch", "'loss'"]),
    (["--valid_fraction", 0.999], ["found no"]),
])
def test_wrong_flags_end_in_one_line(tiny_data, tmp_path, run_here, more, fragments):
    assert_one_line_error(run_here("train.py", *flags(tiny_data, tmp_path / "model", *more)), *fragments)
    assert not (tmp_path / "model").exists()
