"""utils/serving/micro_batches.py: questions asked together get the answers that each gets alone, none waits forever."""

import asyncio

import numpy as np
import pytest
from conftest import write_random_model
from hypothesis import given
from hypothesis import strategies as st

from utils.model.load import load_model
from utils.model.popular import Popular
from utils.model.scorer import Scorer
from utils.model.top_k import top_k
from utils.serving import micro_batches
from utils.serving.micro_batches import Batcher, Question, QueueFull, answer
from utils.serving.model_reload import ModelSlot, ServedModel

ITEMS = 50
FORMS = [dict(hid_size=(8,)), dict(hid_size=(5, 8), embedding="separate", reset_after=False),
         dict(hid_size=(6,), embedding="none")]
IDS = st.integers(0, ITEMS + 5).map("item_{}".format)  # the last ones are unknown
QUESTIONS = st.builds(Question, st.lists(IDS, max_size=6), st.integers(1, 60), st.lists(IDS, max_size=5),
                      st.none() | st.lists(IDS, max_size=8))


@pytest.fixture(scope="module", params=FORMS, ids=str)
def model(request, tmp_path_factory):
    return ServedModel(write_random_model(tmp_path_factory.mktemp("model") / "model", items=ITEMS, **request.param))


def slot_of(model):
    slot = ModelSlot(None, None)
    slot.model = model
    return slot


def expected(model, question):
    """The answer by NumPy alone, click by click: pairs of item id and score."""
    clicks = [model.index_of[item_id] for item_id in question.clicks if item_id in model.index_of]
    if not clicks:
        return []
    states = model.scorer.before_first_click()
    for item in clicks:
        states = model.scorer.click(item, states)
    scores = model.scorer.scores(states[-1])
    left_out = [item for item, item_id in enumerate(model.item_ids) if item_id in question.excluded
                or question.allowed is not None and item_id not in question.allowed]
    return [(model.item_ids[item], score) for item, score in zip(*top_k(scores, question.k, left_out))]


def assert_answers(answers, model, questions):
    for found, question in zip(answers, questions, strict=True):
        wanted = expected(model, question)
        assert found.item_ids == [item_id for item_id, _ in wanted]
        np.testing.assert_allclose(found.scores, [score for _, score in wanted], rtol=0, atol=1e-5)
        assert found.unknown == sum(item_id not in model.index_of for item_id in question.clicks)
        assert found.model is model


@given(questions=st.lists(QUESTIONS, min_size=1, max_size=6))
def test_a_batch_answers_what_each_gets_alone(model, questions):
    together = answer(model, questions)
    assert_answers(together, model, questions)
    for found, question in zip(together, questions):
        alone, = answer(model, [question])
        for name in "item_ids", "scores", "state":
            assert getattr(alone, name) == getattr(found, name), f"{name}, to the last bit"


def test_a_carried_state_answers_as_the_whole_session(model):
    clicks = [f"item_{item}" for item in (3, 1, 60, 4, 1, 5)]
    whole, = answer(model, [Question(clicks, 10)])
    for covered in range(1, 7):
        before, = answer(model, [Question(clicks[:covered], 10)])
        questions = [Question(clicks, 10, covered=covered, model=model.checksum, state=before.state),
                     Question(["item_7"], 3)]
        for found in answer(model, questions)[0], *answer(model, questions[:1]):
            assert found == whole


def test_a_state_of_another_model_is_not_used(model):
    clicks = ["item_3", "item_1"]
    whole, = answer(model, [Question(clicks, 10)])
    found, = answer(model, [Question(clicks, 10, covered=1, model="another", state=b"\1" * len(whole.state))])
    assert found == whole


@pytest.mark.parametrize("length", [0, 1, 3, 4, 400])
def test_a_state_of_another_size_harms_nobody(model, length):
    """Whatever a store may hold under this model's name: it is replayed instead."""
    clicks = ["item_3", "item_1"]
    whole, other = answer(model, [Question(clicks, 10), Question(["item_7"], 3)])
    spoilt = Question(clicks, 10, covered=1, model=model.checksum, state=b"\1" * length)
    assert answer(model, [spoilt, Question(["item_7"], 3)]) == [whole, other]


def test_nothing_to_answer(model):
    for question in (Question([], 5), Question(["unknown"], 5), Question(["item_1"], 5, allowed=[]),
                     Question(["item_1"], 5, allowed=["?"])):
        found, = answer(model, [question])
        assert found.item_ids == [] and found.scores == []
    assert answer(model, [Question(["unknown"], 5)])[0].state == b""


def test_what_is_popular_answers_where_no_click_is_known(model, monkeypatch):
    clicks, first_clicks = (np.eye(ITEMS, dtype=np.float32)[item] for item in (4, 9))
    monkeypatch.setattr(model, "popular", Popular(clicks, first_clicks))
    found = answer(model, [Question([], 1), Question(["unknown"], 1), Question(["item_1"], 1)])
    assert [each.item_ids for each in found[:2]] == [["item_9"], ["item_4"]]
    assert [each.fallback for each in found] == ["popular", "popular", ""]


def test_what_waits_is_answered_in_batches(model):
    sizes, questions = [], [Question([f"item_{number}"], 3) for number in range(10)]

    async def ask():
        batcher = Batcher(slot_of(model), 4, 20, sizes.append)
        return await asyncio.gather(*[batcher.ask([question]) for question in questions])
    assert_answers([found for found, in asyncio.run(ask())], model, questions)
    assert sizes == [4, 4, 2]


def test_questions_asked_together_are_answered_together(model):
    sizes = []

    async def ask():
        batcher = Batcher(slot_of(model), 4, 20, sizes.append)
        return await asyncio.gather(*[batcher.ask([Question(["item_1"], 1)] * 3) for _ in range(3)])
    assert [len(answers) for answers in asyncio.run(ask())] == [3, 3, 3] and sizes == [6, 3]


@pytest.mark.parametrize("most", [4, 5])
def test_a_full_queue_refuses_and_answers_the_others(model, most):
    async def ask():
        batcher = Batcher(slot_of(model), 4, most)
        found = await asyncio.gather(*[batcher.ask([Question(["item_1"], 1)] * 2) for _ in range(4)],
                                     return_exceptions=True)
        return found, await batcher.ask([Question(["item_1"], 1)] * most)
    found, afterwards = asyncio.run(ask())
    assert [isinstance(answers, QueueFull) for answers in found] == [False, False, True, True]
    assert len(afterwards) == most


def test_what_counts_as_more_questions_fills_the_queue_sooner_but_is_answered_alone(model):
    async def ask():
        batcher = Batcher(slot_of(model), 4, 5)
        found = await asyncio.gather(*[batcher.ask([Question(["item_1"], 1)], 2) for _ in range(3)],
                                     return_exceptions=True)
        return found, await batcher.ask([Question(["item_1"], 1)], 20), batcher.size
    found, alone, left = asyncio.run(ask())
    assert [isinstance(answers, QueueFull) for answers in found] == [False, True, True]
    assert len(alone) == 1 and left == 0


def test_a_failure_reaches_everyone_who_asked_and_the_next_is_answered(model):
    async def ask():
        batcher = Batcher(slot_of(None), 4, 20)
        failed = await asyncio.gather(*[batcher.ask([Question(["item_1"], 1)]) for _ in range(3)],
                                      return_exceptions=True)
        batcher.slot.model = model
        return failed, await batcher.ask([Question(["item_1"], 1)])
    failed, afterwards = asyncio.run(ask())
    assert all(isinstance(error, AttributeError) for error in failed) and len(afterwards) == 1


def test_who_has_gone_is_not_answered(model):
    sizes = []

    async def ask():
        batcher = Batcher(slot_of(model), 4, 20, sizes.append)
        gone, there = [asyncio.create_task(batcher.ask([Question(["item_1"], 1)])) for _ in range(2)]
        await asyncio.sleep(0)
        gone.cancel()
        return await there
    assert len(asyncio.run(ask())) == 1 and sizes == [1]


def test_the_same_scores_as_the_scorer_loaded_from_the_directory(tmp_path):
    directory = write_random_model(tmp_path / "model", items=3000, hid_size=(16,))
    model, scorer = ServedModel(directory), Scorer(*load_model(directory)[:2])
    found, = answer(model, [Question(["item_2999"], 20)])
    best, scores = top_k(scorer.scores(scorer.click(np.array([2999]), scorer.before_first_click(1))[-1])[0], 20)
    assert found.item_ids == [f"item_{item}" for item in best]
    np.testing.assert_allclose(found.scores, scores, rtol=0, atol=1e-5)


def test_a_client_that_asks_one_question_after_another_waits_for_nobody(model, monkeypatch):
    monkeypatch.setattr(micro_batches, "SPACING", 10)
    sizes = []

    async def ask():
        batcher = Batcher(slot_of(model), 4, 20, sizes.append)
        for _ in range(20):
            await batcher.ask([Question(["item_1"], 1)])
    asyncio.run(asyncio.wait_for(ask(), 5))
    assert sizes == [1] * 20


def test_where_several_ask_they_are_answered_together(model, monkeypatch):
    """Once three have come together, two wait for a third, but not for a fourth, and not for longer than SPACING."""
    monkeypatch.setattr(micro_batches, "SPACING", 0.5)
    sizes = []

    async def ask():
        loop, batcher = asyncio.get_running_loop(), Batcher(slot_of(model), 4, 20, sizes.append)
        several = lambda count: [asyncio.create_task(batcher.ask([Question(["item_1"], 1)])) for _ in range(count)]
        await asyncio.gather(*several(3))
        began = loop.time()
        two = several(2)
        await asyncio.sleep(0.05)
        await asyncio.gather(*two, *several(1))
        three = loop.time() - began
        await asyncio.gather(*several(2))
        return three, loop.time() - began - three
    three, two = asyncio.run(ask())
    assert sizes[:3] == [3, 3, 2] and three < 0.45 and two >= 0.49


def test_several_questions_are_expected_only_for_a_while(model):
    sizes = []

    async def ask():
        batcher = Batcher(slot_of(model), 64, 64, sizes.append)
        await asyncio.gather(*[batcher.ask([Question(["item_1"], 1)]) for _ in range(5)])
        expected = [batcher.expected]
        for _ in range(micro_batches.LATELY):
            await batcher.ask([Question(["item_1"], 1)])
            expected.append(batcher.expected)
        return expected
    assert asyncio.run(ask()) == [5] * micro_batches.LATELY + [1] and sizes == [5] + [1] * micro_batches.LATELY
