import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.evaluation.metrics import METRICS, TIES, Measures, count_rows, item_values, recall_and_mrr, target_ranks


def ranks_of(scores, targets, ties):
    scores = np.array(scores, np.float32)
    return target_ranks(scores, scores[np.arange(len(scores)), targets], ties).tolist()


def slow_rank(row, target, ties):
    better = sum(score > row[target] for score in row)
    equal = sum(score == row[target] for score in row)  # the target among them
    return {"standard": better + 1, "conservative": better + equal, "median": better + (1 + equal) / 2}[ties]


@pytest.mark.parametrize("ties", TIES)
def test_without_ties_every_mode_counts_the_better_ones(ties):
    assert ranks_of([[0.1, 0.4, 0.3, 0.2]] * 4, [0, 1, 2, 3], ties) == [4, 1, 2, 3]


@pytest.mark.parametrize("ties, ranks", [("standard", [2, 1, 5]), ("conservative", [4, 1, 5]), ("median", [3, 1, 5])])
def test_a_tied_target_is_first_last_or_in_the_middle_of_its_equals(ties, ranks):
    assert ranks_of([[5, 7, 5, 5, 1]] * 3, [2, 1, 4], ties) == ranks


@pytest.mark.parametrize("ties, rank", [("standard", 1), ("conservative", 4), ("median", 2.5)])
def test_constant_scores_show_the_tie_mode(ties, rank):
    assert ranks_of([[0.5] * 4] * 2, [0, 3], ties) == [rank, rank]


@given(scores=st.lists(st.lists(st.integers(-3, 3), min_size=5, max_size=5), min_size=1, max_size=6),
       target=st.integers(0, 4), ties=st.sampled_from(TIES))
def test_ranks_as_a_slow_plain_version_does(scores, target, ties):
    assert ranks_of(scores, [target] * len(scores), ties) == [slow_rank(row, target, ties) for row in scores]


@given(scores=st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=30),
       data=st.data())
def test_modes_agree_on_their_order(scores, data):
    target = data.draw(st.integers(0, len(scores) - 1))
    (standard,), (conservative,), (median,) = (ranks_of([scores], [target], ties) for ties in TIES)
    assert 1 <= standard <= conservative <= len(scores)
    assert median == (standard + conservative) / 2


def test_counts_true_values_in_each_row():
    mask = np.random.default_rng(1).random((50, 333)) < 0.3
    assert count_rows(mask).tolist() == mask.sum(axis=1).tolist()
    assert count_rows(mask).dtype == np.int64


def test_recall_and_mrr_of_hand_worked_ranks():
    figures = recall_and_mrr(np.array([1, 2, 5, 21]), [1, 2, 20])
    assert list(figures) == ["recall@1", "recall@2", "recall@20", "mrr@1", "mrr@2", "mrr@20"]
    assert figures == pytest.approx({"recall@1": 0.25, "recall@2": 0.5, "recall@20": 0.75,
                                     "mrr@1": 0.25, "mrr@2": 1.5 / 4, "mrr@20": 1.7 / 4})


def test_the_cutoff_itself_counts_and_a_middle_rank_beyond_it_does_not():
    assert recall_and_mrr(np.array([20.0]), [20]) == {"recall@20": 1, "mrr@20": 0.05}
    assert recall_and_mrr(np.array([20.5]), [20]) == {"recall@20": 0, "mrr@20": 0}


@given(ranks=st.lists(st.integers(2, 80).map(lambda twice: twice / 2), min_size=1), k=st.integers(1, 40))
def test_figures_equal_those_of_a_slow_plain_version(ranks, k):
    hits = [rank for rank in ranks if rank <= k]
    figures = recall_and_mrr(np.array(ranks), [k])
    assert figures[f"recall@{k}"] == pytest.approx(len(hits) / len(ranks))
    assert figures[f"mrr@{k}"] == pytest.approx(sum(1 / rank for rank in hits) / len(ranks))
    assert all(type(value) is float for value in figures.values())  # they go to metrics.jsonl


def figures_of(metrics, cutoffs, blocks, item_count=5, clicks=(4, 2, 1, 1, 0)):
    measures = Measures(metrics, cutoffs, item_count, np.array(clicks))
    for ranks, best in blocks:
        measures.add(np.array(ranks), None if best is None else np.array(best))
    return measures.figures()


def test_hand_worked_figures_of_ranks():
    figures = figures_of(["ndcg", "hit", "recall"], [1, 3], [([1, 3, 7, 2.5], None)])
    assert list(figures) == ["ndcg@1", "ndcg@3", "hit@1", "hit@3", "recall@1", "recall@3"]
    assert figures == pytest.approx({"ndcg@1": 0.25, "ndcg@3": (1 + 0.5 + 1 / np.log2(3.5)) / 4, "hit@1": 0.25,
                                     "hit@3": 0.75, "recall@1": 0.25, "recall@3": 0.75})


def test_hand_worked_figures_of_lists():
    blocks = [([1, 9], [[0, 1, 2], [0, 4, 1]]), ([2], [[1, 0, 2]])]
    figures = figures_of(["coverage", "popularity", "novelty"], [1, 3], blocks)
    assert figures == pytest.approx({"coverage@1": 2 / 5, "coverage@3": 4 / 5,
                                     "popularity@1": (1 + 1 + 0.5) / 3,
                                     "popularity@3": (1.75 / 3 + 1.5 / 3 + 1.75 / 3) / 3,
                                     "novelty@1": (1 + 1 + 2) / 3,
                                     "novelty@3": ((1 + 2 + 3) / 3 + (1 + 3 + 2) / 3 + (2 + 1 + 3) / 3) / 3})


def test_lists_are_asked_for_up_to_the_largest_cutoff_and_only_if_they_count():
    assert Measures(["recall", "coverage"], [5, 20, 1], 9).list_length == 20
    assert Measures(["recall", "mrr", "ndcg", "hit"], [5, 20, 1], 9).list_length == 0


def test_a_list_may_be_shorter_than_the_cutoff():
    assert figures_of(["coverage", "popularity"], [9], [([1], [[0, 1, 2, 3, 4]])]) == \
        pytest.approx({"coverage@9": 1, "popularity@9": 2 / 5})


def test_items_without_a_click_have_finite_values():
    for metric in "popularity", "novelty":
        assert np.isfinite(item_values(metric, np.array([0, 3]))).all()
        assert np.isfinite(item_values(metric, np.zeros(4, np.int64))).all()


@given(data=st.data(), items=st.integers(1, 12), cutoffs=st.sets(st.integers(1, 15), min_size=1).map(sorted))
def test_blocks_and_every_metric_as_a_slow_plain_version_does(data, items, cutoffs):
    clicks = data.draw(st.lists(st.integers(0, 9), min_size=items, max_size=items).filter(any))
    rows = st.tuples(st.integers(1, items), st.permutations(range(items)))
    blocks = data.draw(st.lists(st.lists(rows, min_size=1, max_size=5), min_size=1, max_size=3))
    figures = figures_of(METRICS, cutoffs, [zip(*block) for block in blocks], items, clicks)
    everything, total = [row for block in blocks for row in block], sum(clicks)
    for k in cutoffs:
        hits = [rank for rank, _ in everything if rank <= k]
        listed = [best[:k] for _, best in everything]
        mean = lambda values: sum(values) / len(everything)
        expected = {"recall": mean([1 for _ in hits]), "hit": mean([1 for _ in hits]),
                    "mrr": mean([1 / rank for rank in hits]), "ndcg": mean([1 / np.log2(1 + rank) for rank in hits]),
                    "coverage": len(set(sum(map(list, listed), []))) / items,
                    "popularity": mean([np.mean([clicks[item] for item in best]) / max(clicks) for best in listed]),
                    "novelty": mean([np.mean([-np.log2(max(clicks[item], 1) / total) for item in best])
                                     for best in listed])}
        assert {metric: figures[f"{metric}@{k}"] for metric in METRICS} == pytest.approx(expected, abs=1e-12)
