from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection.data.sampling import EvalBatches, TrainBatches

sizes = {"num_images": st.integers(0, 40), "batch_size": st.integers(1, 5), "num_processes": st.integers(1, 4)}


@given(**sizes, grouped=st.booleans(), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_every_image_in_every_epoch_in_equal_batches(num_images, batch_size, num_processes, grouped, seed, epoch):
    ratios = np.random.default_rng(seed).uniform(0.5, 2, num_images) if grouped else None
    seen = Counter()
    for rank in range(num_processes):
        batches = TrainBatches(
            num_images, batch_size, seed=seed, aspect_ratios=ratios, num_processes=num_processes, rank=rank
        )
        batches.set_epoch(epoch)
        listed = list(batches)
        assert len(listed) == len(batches) == -(-num_images // (batch_size * num_processes))
        assert all(len(batch) == batch_size for batch in listed)
        assert all(key[0] == epoch for batch in listed for key in batch)
        seen.update(position for batch in listed for _, position, _ in batch)
    assert set(seen) == set(range(num_images))
    repeats = sum(seen.values()) - num_images
    assert repeats < batch_size * num_processes
    if num_images >= batch_size * num_processes:
        assert all(count <= 2 for count in seen.values())


@given(st.integers(1, 8), st.integers(0, 32), st.integers(0, 3))
def test_no_batch_holds_an_image_twice_where_there_are_enough(batch_size, more, seed):
    for batch in TrainBatches(batch_size + more, batch_size, seed=seed):
        assert len({position for _, position, _ in batch}) == batch_size


@given(**sizes, skip=st.integers(0, 9), seed=st.integers(0, 5))
def test_batches_of_the_start_are_left_out(num_images, batch_size, num_processes, skip, seed):
    batches = TrainBatches(num_images, batch_size, seed=seed, num_processes=num_processes, rank=num_processes - 1)
    batches.set_epoch(2)
    complete = list(batches)
    batches.set_epoch(2, skip)
    assert list(batches) == complete[skip:] and len(batches) == len(complete[skip:])


@pytest.mark.parametrize(("size", "steps"), [(12, 1), (6, 2), (3, 4), (1, 12)])
def test_an_epoch_goes_on_in_batches_of_another_size_with_the_images_that_are_left(size, steps):
    ratios = np.random.default_rng(0).uniform(0.5, 2, 50)
    before, after = (TrainBatches(50, s, aspect_ratios=ratios) for s in (4, size))
    used = [key[:2] for batch in list(before)[:6] for key in batch]  # two updates of three batches
    after.set_epoch(0, 2 * steps, formed_by=4)
    left = [key[:2] for batch in after for key in batch]
    assert len(left) == len(after) * size and set(used) | set(left) == {(0, p) for p in range(50)}
    assert len(set(used) & set(left)) <= 2 + size  # what fills up the last batches


def test_epochs_and_seeds_differ_and_repeat():
    def order(seed, epoch):
        batches = TrainBatches(50, 4, seed=seed)
        batches.set_epoch(epoch)
        return [position for batch in batches for _, position, _ in batch]

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_orientations_are_kept_apart():
    ratios = np.array([1.5, 0.5] * 21)
    batches = TrainBatches(42, 4, aspect_ratios=ratios)
    mixed = [batch for batch in batches if len({ratios[position] >= 1 for _, position, _ in batch}) > 1]
    # 21 of each: five whole batches of each, and one wide and one tall image remain.
    assert len(batches) == 11 and len(mixed) <= 1


def test_squares_go_with_wide_images_and_either_kind_may_come_first():
    ratios = np.array([1.0] * 4 + [2.0] * 4 + [0.5] * 8)
    batches, first = TrainBatches(16, 4, aspect_ratios=ratios), set()
    for epoch in range(12):
        batches.set_epoch(epoch)
        listed = [sorted({ratios[position] >= 1 for _, position, _ in batch}) for batch in batches]
        assert sorted(listed) == [[False]] * 2 + [[True]] * 2
        first.add(listed[0][0])
    assert first == {True, False}


def test_global_batches_do_not_depend_on_the_number_of_processes():
    ratios = np.linspace(0.5, 2, 30)
    one = list(TrainBatches(30, 6, aspect_ratios=ratios))
    three = [list(TrainBatches(30, 2, aspect_ratios=ratios, num_processes=3, rank=rank)) for rank in range(3)]
    assert one == [sum(slices, []) for slices in zip(*three, strict=True)]


@given(**sizes)
def test_eval_batches_are_dealt_whole(num_images, batch_size, num_processes):
    whole = list(EvalBatches(num_images, batch_size))
    assert sum(whole, []) == list(range(num_images))
    for rank in range(num_processes):
        batches = EvalBatches(num_images, batch_size, num_processes=num_processes, rank=rank)
        assert list(batches) == whole[rank::num_processes] and len(batches) == len(list(batches))


def test_evaluation_in_a_given_order():
    assert list(EvalBatches(5, 2, order=[3, 0, 4, 1, 2])) == [[3, 0], [4, 1], [2]]
    assert list(EvalBatches(5, 2, num_processes=2, rank=1, order=[3, 0, 4, 1, 2])) == [[4, 1]]


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": 1, "rank": 1}])
def test_wrong_arguments(wrong):
    for kind in (TrainBatches, EvalBatches):
        with pytest.raises(ValueError):
            kind(3, **wrong)
    with pytest.raises(ValueError):
        TrainBatches(3, 1, aspect_ratios=np.ones(2))
