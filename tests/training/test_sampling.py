"""utils/training/sampling.py: distributions, seeds, collisions."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from utils.training import sampling
from utils.training.sampling import PopularitySampler, distinct, tiled_negatives

SUPPORT = np.array([0, 100, 50, 0, 10, 1, 0])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_items_are_drawn_by_their_support_to_the_power_of_alpha(kernels_or_none, alpha):
    sampler = PopularitySampler(SUPPORT, alpha, 1000, np.random.default_rng(1), kernels_or_none)
    drawn = np.concatenate([sampler.draw() for _ in range(300)])
    expected = SUPPORT.astype(float) ** alpha / (SUPPORT.astype(float) ** alpha).sum()
    found = np.bincount(drawn, minlength=len(SUPPORT)) / len(drawn)
    assert np.abs(found - expected).max() < 4 * np.sqrt(0.25 / len(drawn))
    assert alpha == 0 or not found[SUPPORT == 0].any()


def test_draws_follow_the_seed_and_the_store_is_filled_again(monkeypatch, kernels_or_none):
    monkeypatch.setattr(sampling, "DRAWN_AT_ONCE", 20)

    def draws(seed):
        sampler = PopularitySampler(SUPPORT, 1, 8, np.random.default_rng(seed), kernels_or_none)
        return np.array([sampler.draw() for _ in range(7)])

    assert (draws(1) == draws(1)).all() and (draws(1) != draws(2)).any()
    assert len({row.tobytes() for row in draws(1)}) > 1, "no draw is used twice"


def test_a_number_between_two_items_draws_the_second(kernels_or_none):
    """As 0 does where the first item has no support."""
    class Drawn:
        def random(self, shape):
            return np.resize([0.0, 100 / 161, 150 / 161], shape)

    sampler = PopularitySampler(SUPPORT, 1, 3, Drawn(), kernels_or_none)
    assert sampler.draw().tolist() == [1, 2, 4]


@given(targets=st.lists(st.integers(0, 5), min_size=1, max_size=30), size=st.integers(1, 12), seed=st.integers(0, 99))
def test_tiled_negatives_are_other_targets_of_the_batch(targets, size, seed):
    targets = np.array(targets)
    negatives = tiled_negatives(targets, size, np.random.default_rng(seed))
    assert negatives.shape == (len(targets), size)
    assert set(negatives.ravel()) <= set(targets)
    if len(set(targets)) > 1:
        assert (negatives != targets[:, None]).all()


@given(items=st.lists(st.integers(0, 9), min_size=1, max_size=30))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_distinct_items_come_once_in_their_order(kernels_or_none, items):
    found, places = distinct(np.array(items), np.empty(10, np.int64), kernels_or_none)
    assert found.tolist() == list(dict.fromkeys(items)) and found[places].tolist() == items
