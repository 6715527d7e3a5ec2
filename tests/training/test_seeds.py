"""utils/training/seeds.py: every epoch, step and process draws other numbers, and the same ones again."""

import itertools

import paddle

from utils.training.seeds import epoch_generator, seed_step


def test_every_epoch_has_its_own_generator():
    draw = lambda seed, epoch: epoch_generator(seed, epoch).random(3).tolist()
    assert draw(1, 2) == draw(1, 2)
    assert len({tuple(draw(seed, epoch)) for seed, epoch in itertools.product((1, 2, 3), repeat=2)}) == 9


def test_every_step_of_every_process_has_its_own_seed(monkeypatch):
    seeds = []
    monkeypatch.setattr(paddle, "seed", seeds.append)
    for seed, epoch, step, rank in list(itertools.product((1, 2, 3), (1, 2, 3), (0, 1, 2), (0, 1))) * 2:
        seed_step(seed, epoch, step, rank)
    assert seeds[:54] == seeds[54:] and len(set(seeds)) == 54
