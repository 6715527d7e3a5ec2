"""Yesterday's model learns tomorrow's clicks, new items too, while serve.py goes on answering, and is swapped in."""

import os

import numpy as np
import pytest
from conftest import assert_worked, run_script
from running_server import Load

NEW = "of_tomorrow"  # an item that is clicked after item_1


@pytest.fixture
def shop(tmp_path):
    """A directory with the clicks of two days, session text of item ids, and a test."""
    random, new = np.random.default_rng(3), {"monday": [], "tuesday": [f"item_1 {NEW} item_3"] * 40}
    for day, more in new.items():
        (tmp_path / day).mkdir()
        lines = [" ".join(f"item_{item}" for item in random.integers(30, size=random.integers(2, 7)))
                 for _ in range(60)] + more
        (tmp_path / day / "clicks.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "clicks.txt").write_text("item_1 item_2 item_3\n")
    return tmp_path


def learn(run, shop, day, model, *more, extend=()):
    """Both commands that make a model of a day."""
    assert_worked(run("text2paddle.py", shop / day, shop / "test", shop / f"{day}_data", shop / f"{day}_test",
                      shop / f"{day}.txt", *extend))
    assert_worked(run("train_sample_neg.py", "--train_dir", shop / f"{day}_data", "--vocab_path", shop / f"{day}.txt",
                      "--model_dir", model, "--neg_size", 8, "--threads", 1, *more))


def switch(link, target):
    """Make the link lead to another directory, in one step."""
    (link.parent / "next").symlink_to(target)
    os.replace(link.parent / "next", link)


def test_tomorrows_clicks_are_learnt_while_the_server_answers(shop, run_here, own_server):
    monday, tuesday = shop / "days/model", shop / "days/tuesday"
    learn(run_here, shop, "monday", monday, "--hid_size", 8, "--pass_num", 1)
    switch(shop / "model", monday)
    server = own_server("--reload_seconds", 0.2, "--log", "errors")
    click = {"session_id": "visitor", "user_consent": "true", "k": 3}
    server.get("/v1/recommend", item_id="item_1", **click)
    server.get("/v1/recommend", item_id=NEW, **click)
    assert server.recommend([["item_1", NEW]])[0]["unknown_items"] == 1
    with Load(server) as load:
        learn(run_script, shop, "tuesday", tuesday, "--init_from", shop / "model", "--pass_num", 8,
              extend=["--extend", shop / "model/vocab.txt"])
        asked_meanwhile = len(load.responses)
        switch(shop / "model", tuesday)
        server.wait_for(lambda: server.workers_with_model("tuesday/epoch_8") == 2)
    assert not load.failures and {response.status_code for response in load.responses} == {200}
    assert asked_meanwhile > 50 and load.models() == {"model/epoch_1", "tuesday/epoch_8"}
    [answer] = server.recommend([["item_1"]], k=1)
    assert answer["items"] == [NEW]
    live = server.get("/v1/recommend", item_id="item_3", **click).json()
    whole = server.recommend([["item_1", NEW, "item_3"]], k=3, exclude_clicked="last")[0]
    assert (live["items"], live["scores"]) == (whole["items"], whole["scores"]), "what was unknown counts by now"
    before, after = ((path / "vocab.txt").read_text() for path in (monday, tuesday))
    assert after == before + f"{NEW}\n"
