"""Run in a copy of the repository: train, evaluate and answer with both trainers, and print what came of it as JSON.

    python edits_driver.py DATA_DIRECTORY
"""

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))
DATA, SESSION = Path(sys.argv[1]), ["item_1", "item_4", "item_2", "item_7"]
FLAGS = ["--train_dir", DATA / "train_data", "--vocab_path", DATA / "vocab.txt", "--hid_size", 8, "--pass_num", 2,
         "--threads", 1, "--hid_dropout", 0, "--overwrite", 1]


def run(script, *arguments):
    """A script's stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    sys.argv = [script, *map(str, arguments)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        out.reconfigure = lambda **_: None
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"{sys.argv}: {out.getvalue()}{err.getvalue()}") from end
    return out.getvalue(), err.getvalue()


def last_loss(model_dir):
    lines = (Path(model_dir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [record["loss"] for record in records if record["event"] == "epoch"][-1]


def expected_items(model_dir, item_ids):
    """The best items by net.py itself."""
    import paddle

    from utils.model.network import load_network
    network = load_network(model_dir, 2)
    network.eval()
    with paddle.no_grad():
        items = paddle.to_tensor([item_ids.index(item) for item in SESSION])
        scores = network.scores(network.hidden_states(items, [1] * len(SESSION)), network.item_matrix)[-1].numpy()
    return [item_ids[item] for item in scores.argsort(kind="stable")[::-1][:5]]


def served_items(model_dir):
    from utils.serving.micro_batches import Question, answer
    from utils.serving.model_reload import ServedModel
    return answer(ServedModel(model_dir), [Question(SESSION, 5)])[0].item_ids


def findings(train_script, infer_script):
    sampled = ["--neg_size", 20, "--batch_size", 16, "--neighbours", 0]
    more = sampled if "sample" in train_script else ["--batch_size", 8]
    run(train_script, *FLAGS, *more, "--model_dir", "plain", "--tune_cpu", 0)
    out, warnings = run(train_script, *FLAGS, *more, "--model_dir", "model")
    evaluated, _ = run(infer_script, "--test_dir", DATA / "test_data", "--model_dir", "model", "--last_index", 2,
                       "--threads", 1)
    recommended, says = run("recommend.py", "--model_dir", "model", "--topk", 5, *SESSION)
    item_ids = (DATA / "vocab.txt").read_text(encoding="utf-8").split()
    return {"log": next(line for line in out.splitlines() if line.startswith("engine:")), "warnings": warnings,
            "loss": last_loss("model"), "plain loss": last_loss("plain"),
            "evaluated": [line.split()[1:3] for line in evaluated.splitlines() if line.startswith("model:")],
            "recommended": [line.split("\t")[2] for line in recommended.splitlines()], "says": says,
            "expected": expected_items("model", item_ids), "served": served_items("model"),
            "keeps net.py": Path("model/net.py").is_file() and Path("model/net.py").read_text() == Path(
                "net.py").read_text()}


if __name__ == "__main__":
    print(json.dumps({"train.py": findings("train.py", "infer.py"),
                      "train_sample_neg.py": findings("train_sample_neg.py", "infer_sample_neg.py")}))
