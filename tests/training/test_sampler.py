from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from strzoo.errors import UsageError
from strzoo.training.sampler import BatchSampler


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 8), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99),
    st.integers(0, 5),
)  # fmt: skip
def test_the_processes_of_any_number_share_each_step_of_one_process(
    part: int, accumulate: int, processes: int, steps: int, left: int, epoch: int
) -> None:
    batch = part * accumulate * processes
    images = batch * steps + left % batch
    alone = BatchSampler(images, batch, seed=3)
    shared = BatchSampler(images, batch, 3, processes, accumulate)
    assert (alone.steps_per_epoch, shared.steps_per_epoch, shared.micro_batch) == (
        steps,
        steps,
        part,
    )
    whole = alone.indices(epoch)
    # A permutation without the images that fill no batch.
    assert len(set(whole)) == len(whole) == batch * steps
    assert set(whole) <= set(range(images))
    each = batch // processes
    shares = [shared.indices(epoch, rank) for rank in range(processes)]
    for step in range(steps):
        together = [i for one in shares for i in one[step * each : (step + 1) * each]]
        assert together == whole[step * batch : (step + 1) * batch]
    # Going on in mid-epoch leaves out exactly the steps done.
    assert shared.indices(epoch, 0, steps - 1) == shares[0][(steps - 1) * each :]


def test_epochs_and_seeds_differ_and_come_back() -> None:
    sampler = BatchSampler(100, 10)
    assert sampler.indices(0) == BatchSampler(100, 10).indices(0)
    assert sampler.indices(0) != sampler.indices(1)
    assert sampler.indices(0) != BatchSampler(100, 10, seed=1).indices(0)


@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.integers(0, 40), st.booleans())
def test_the_smallest_part_is_that_of_the_images_that_are_handed_out(
    part: int, accumulate: int, processes: int, left: int, keep: bool
) -> None:
    batch = part * accumulate * processes
    assume(not keep or not 0 < left % batch < processes)
    sampler = BatchSampler(batch + left, batch, 0, processes, accumulate, keep)
    sizes = []
    for rank in range(processes):
        indices = sampler.indices(0, rank)
        sizes += [len(indices[i : i + part]) for i in range(0, len(indices), part)]
    assert sampler.smallest_part == min(sizes)


def test_too_few_images_or_a_batch_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(UsageError, match="9 images are too few for one batch: batch_size=10"):
        BatchSampler(9, 10)
    with pytest.raises(UsageError, match="cannot be shared by 2 processes in accumulate=2 parts"):
        BatchSampler(100, 10, processes=2, accumulate=2)
