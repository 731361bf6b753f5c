from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from strzoo.errors import StrzooError, UsageError
from strzoo.rnn import RNNConfig, evaluate_rnn, load_digit_rows, load_rnn, quantise, train_rnn
from strzoo.rnn.datasets.sequences import SequenceSet
from strzoo.rnn.results import RNNEpoch, RNNTrainResult
from strzoo.rnn.training import build_classifier

CONFIG = RNNConfig(
    hidden_size=24, learning_rate=0.02, epochs=15, milestones=(11.0,), target_rank_w=4,
    target_rank_u=5, target_end=0.4,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RNNTrainResult:
    folder = tmp_path_factory.mktemp("run") / "digits"
    return train_rnn(replace(CONFIG, output=str(folder)))


def test_a_run_passes_through_ranks_and_keeps_the_best_network_of_each(
    trained: RNNTrainResult,
) -> None:
    assert trained.history[0].ranks == "8_24"
    assert trained.last.ranks == "4_5"
    assert len(trained.by_rank) == len({epoch.ranks for epoch in trained.history}) > 2
    test = load_digit_rows("test")
    for kept in trained.by_rank:
        mine = [e.top1 for e in trained.history if e.ranks == kept.epoch.ranks]
        assert kept.epoch.top1 == max(mine)
        assert kept.file is not None
        found = load_rnn(kept.file)
        assert evaluate_rnn(found, test) == pytest.approx(kept.epoch.top1)
        assert found.rnn.cells[0].ranks == (kept.epoch.rank_w[0], kept.epoch.rank_u[0])
    assert trained.last.top1 > 80


def test_the_folder_holds_a_row_for_each_epoch_and_the_result(trained: RNNTrainResult) -> None:
    assert trained.folder is not None
    rows = list(csv.DictReader((trained.folder / "results.csv").read_text().splitlines()))
    assert [float(row["top1"]) for row in rows] == [e.top1 for e in trained.history]
    document = json.loads((trained.folder / "result.json").read_text())
    assert document == json.loads(json.dumps(trained.to_dict()))
    last = load_rnn(trained.folder / "last.pth")
    x = load_digit_rows("test").sequences[:5]
    assert torch.equal(last(x), trained.model(x))


def test_int8_keeps_the_accuracy_on_the_digits(trained: RNNTrainResult) -> None:
    test, network = load_digit_rows("test"), trained.by_rank[-1].model
    made = quantise(network)
    assert made.kilobytes < 0.5 * sum(p.numel() for p in network.parameters()) * 4 / 1024
    assert abs(evaluate_rnn(made.network, test) - trained.by_rank[-1].epoch.top1) < 1.5


def test_a_seed_gives_the_same_network_and_leaves_the_global_state_alone() -> None:
    config = replace(CONFIG, epochs=1, milestones=(0.5,))
    before = torch.get_rng_state()
    seen: list[RNNEpoch] = []
    first, again = (train_rnn(config, save=False, on_epoch=seen.append) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert [replace(e, seconds=0) for e in seen[:1]] == [replace(e, seconds=0) for e in seen[1:]]
    for one, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_weight_decay_acts_on_m_and_s_alone() -> None:
    # One example whose gradient is zero: both logits are equal and their labels cancel.
    data = SequenceSet(torch.zeros(2, 3, 2), torch.tensor([0, 1]), 2)
    config = RNNConfig(
        hidden_size=3, epochs=1, batch_size=2, optimizer="sgd", learning_rate=0.5,
        schedule="constant", milestones=(), weight_decay=0.1,
    )  # fmt: skip
    model = build_classifier(config, data)
    decayed = {"m_W", "m_U", "s_W", "s_U"}
    from strzoo.rnn.training import _optimizer

    optimizer = _optimizer(model, config)
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.5 * 0.1 if name.split(".")[-1] in decayed else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before[name])


def test_what_cannot_train_says_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1437 sequences are fewer than batch_size=2000"):
        train_rnn(RNNConfig(batch_size=2000), save=False)
    with pytest.raises(UsageError, match="dataset=har2 needs data=FOLDER"):
        train_rnn(RNNConfig(dataset="har2"), save=False)
    with pytest.raises(StrzooError, match=r"the loss became .* lower learning_rate"):
        train_rnn(
            RNNConfig(update="relu", optimizer="sgd", learning_rate=1e9, epochs=3), save=False
        )
    (tmp_path / "file").write_text("")
    with pytest.raises(StrzooError, match="is not empty; name another by output=FOLDER"):
        train_rnn(RNNConfig(output=str(tmp_path)))
    with pytest.raises(UsageError, match="the network has 10 classes, the data 12"):
        evaluate_rnn(
            build_classifier(RNNConfig(), load_digit_rows("train")),
            SequenceSet(torch.zeros(1, 8, 8), torch.tensor([11]), 12),
        )
