"""The figures that infer.py prints, computed anew from the files alone: a formula for the network, scikit-learn for the
metrics. Nothing of the project takes part in that.
"""

import shutil

import numpy as np
import pytest
from conftest import assert_worked
from safetensors.numpy import load_file
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score

METRICS = "recall", "ndcg", "mrr"


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def scores_after_each_click(weights, clicks):
    """float64 [clicks, items]: a GRU as Paddle's nn.GRU is documented; one matrix is embedding and output matrix."""
    vectors, biases = weights["item_matrix"][:, :-1], weights["item_matrix"][:, -1]
    state, scores = np.zeros(vectors.shape[1]), []
    for click in clicks:
        inputs = np.split(vectors[click] @ weights["fc.0.weight"] + weights["fc.0.bias"], 3)
        products = np.split(state @ weights["gru.0.weight"] + weights["gru.0.bias"], 3)
        reset, update = sigmoid(inputs[0] + products[0]), sigmoid(inputs[1] + products[1])
        state = update * state + (1 - update) * np.tanh(inputs[2] + reset * products[2])
        scores.append(vectors @ state + biases)
    return scores


@pytest.mark.parametrize("epoch", [1, 2])
def test_recall_ndcg_and_mrr_are_those_of_scikit_learn(tiny_data, tiny_model, tmp_path, run_here, epoch):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    stored = load_file(model / f"epoch_{epoch}/model.safetensors")
    weights = {name: values.astype(np.float64) for name, values in stored.items()}
    scores, targets = [], []
    for line in (tiny_data / "test_data/test.txt").read_text().splitlines():
        clicks = list(map(int, line.split()))
        scores += scores_after_each_click(weights, clicks[:-1])
        targets += clicks[1:]
    scores, item_count = np.array(scores), len(weights["item_matrix"])
    is_target = np.eye(item_count, dtype=int)[targets]

    process = assert_worked(run_here("infer.py", "--test_dir", tiny_data / "test_data", "--model_dir", model,
                                     "--start_index", epoch, "--last_index", epoch, "--metrics", ",".join(METRICS),
                                     "--topk", f"1,5,20,{item_count}"))
    line, = [line for line in process.stdout.splitlines() if line.startswith("model:")]
    printed = dict(word.split(":") for word in line.split()[1:])
    assert f"predictions:{len(targets)}" in process.stdout
    for k in 1, 5, 20:
        recall = top_k_accuracy_score(targets, scores, k=k, labels=range(item_count))
        assert printed[f"recall@{k}"] == f"{recall:.4f}"
        assert printed[f"ndcg@{k}"] == f"{ndcg_score(is_target, scores, k=k):.4f}"
    assert printed["mrr@1"] == printed["recall@1"]
    mean_reciprocal_rank = label_ranking_average_precision_score(is_target, scores)
    assert printed[f"mrr@{item_count}"] == f"{mean_reciprocal_rank:.4f}"
