"""The Python of docs/python.md works as it stands, block after block, and does what the scripts do."""

import re

from conftest import ROOT, assert_worked
from test_docs_commands import make_shop

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_blocks_in_their_order(tmp_path, run_here, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_shop(tmp_path / "shop.csv.gz")
    frames, bad_rows, answers = BLOCK.findall((ROOT / "docs/python.md").read_text(encoding="utf-8"))
    names = {}
    exec(frames, names)
    assert_worked(run_here("preprocess.py", "--input", "shop.csv.gz", "--session_column", "user", "--item_column",
                           "product", "--time_column", "clicked_at", "--session_gap", 3600, "--drop_repeats", 1,
                           "--test_days", 7, "--to_text", "by_script"))
    for file in "train_data/train.txt", "test_data/test.txt", "vocab.txt":
        assert (tmp_path / "shop" / file).read_bytes() == (tmp_path / "by_script" / file).read_bytes()
    capsys.readouterr()
    exec(bad_rows, names)
    assert capsys.readouterr().out == "4 found no value as product, expected an id\n"
    assert_worked(run_here("train_sample_neg.py", "--train_dir", "shop/train_data", "--vocab_path", "shop/vocab.txt",
                           "--model_dir", "shop/model", "--hid_size", 8, "--pass_num", 1, "--threads", 1))
    exec(answers, names)
    process = assert_worked(run_here("recommend.py", "--model_dir", "shop/model", "p7", "p12"))
    assert [line.split("\t")[2] for line in process.stdout.splitlines()] == names["answer"]["item"].tolist()
