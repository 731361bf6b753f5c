from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strzoo.errors import UsageError
from strzoo.training.sampler import BatchOrder


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
    alone = BatchOrder(images, batch, seed=3)
    shared = BatchOrder(images, batch, 3, processes, accumulate)
    assert (alone.steps, shared.steps, shared.part) == (steps, steps, part)
    whole = alone.share(epoch)
    # A permutation without the images that fill no batch.
    assert len(set(whole)) == len(whole) == batch * steps
    assert set(whole) <= set(range(images))
    each = batch // processes
    shares = [shared.share(epoch, rank) for rank in range(processes)]
    for step in range(steps):
        together = [i for share in shares for i in share[step * each : (step + 1) * each]]
        assert together == whole[step * batch : (step + 1) * batch]
    # Going on in mid-epoch leaves out exactly the steps done.
    assert shared.share(epoch, 0, steps - 1) == shares[0][(steps - 1) * each :]


def test_epochs_and_seeds_differ_and_come_back() -> None:
    order = BatchOrder(100, 10)
    assert order.share(0) == BatchOrder(100, 10).share(0)
    assert order.share(0) != order.share(1)
    assert order.share(0) != BatchOrder(100, 10, seed=1).share(0)


def test_too_few_images_or_a_batch_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(UsageError, match="9 images are too few for one batch: batch_size=10"):
        BatchOrder(9, 10)
    with pytest.raises(UsageError, match="cannot be shared by 2 processes in accumulate=2 parts"):
        BatchOrder(100, 10, processes=2, accumulate=2)
