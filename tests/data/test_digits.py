from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits as sklearn_digits

import strzoo
from strzoo.errors import UsageError


def test_the_digits_are_those_of_scikit_learn_normalised() -> None:
    theirs = sklearn_digits()
    ours = strzoo.load_digits()
    images = (theirs.images - theirs.images.mean()) / theirs.images.std(ddof=1)
    assert ours.images.shape == (1797, 3, 8, 8)
    for channel in range(3):
        np.testing.assert_allclose(ours.images[:, channel].numpy(), images, atol=1e-5)
    assert ours.labels.tolist() == theirs.target.tolist()


def test_train_and_test_share_no_image_and_miss_none() -> None:
    train, test, everything = (strzoo.load_digits(s) for s in ("train", "test", "all"))
    assert (len(train), len(test)) == (1437, 360)
    assert torch.equal(test.images, everything.images[::5])
    together = torch.cat([train.labels, test.labels]).bincount()
    assert torch.equal(together, everything.labels.bincount())
    assert int(test.labels.bincount().min()) >= 25  # every digit is held out


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UsageError, match="'val' is not one of train, test, all"):
        strzoo.load_digits("val")
