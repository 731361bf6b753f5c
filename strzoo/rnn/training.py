"""train_rnn: train a FastGRNN classifier, keeping the best network of every pair of ranks.

The procedure of the FastGRNN paper as the STR paper uses it (appendix A): Adam, batches of 100, a
rate of 0.01 that falls to a tenth after two thirds; weight decay on m and s alone.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from strzoo.devices import find_device
from strzoo.errors import StrzooError, UsageError
from strzoo.rnn.cell import FastGRNNCell
from strzoo.rnn.classifier import SequenceClassifier, measure_normalisation
from strzoo.rnn.config import RNNConfig
from strzoo.rnn.datasets.load import SHAPES, load_sequences
from strzoo.rnn.datasets.sequences import SequenceSet
from strzoo.rnn.files import save_rnn
from strzoo.rnn.layer import FastGRNN
from strzoo.rnn.rank_target import RankController
from strzoo.rnn.report import RNNReport, report_rnn
from strzoo.rnn.results import RankResult, RNNEpoch, RNNTrainResult, write_results

_EVALUATION_BATCH = 1000


def build_classifier(config: RNNConfig, data: SequenceSet) -> SequenceClassifier:
    """The untrained network of `config` for sequences like `data`, which it is normalised by.

    The global random state is left alone; weights follow from `config.seed`.
    """
    mean, std = measure_normalisation(data.sequences)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        rnn = FastGRNN(
            data.features,
            config.hidden_size,
            config.num_layers,
            bidirectional=config.bidirectional,
            gate=config.gate,
            update=config.update,
            rank_w=config.rank_w,
            rank_u=config.rank_u,
            s_init=config.s_init,
        )
        return SequenceClassifier(rnn, data.num_classes, mean=mean, std=std)


def plan_rnn(config: RNNConfig) -> RNNReport | None:
    """What the network of `config` costs before training; nothing is trained or written.

    Args:
        config: the data are read only where their form does not follow from `dataset`.

    Returns:
        Parameters and MACs of one sequence; None if the form follows from data that are not given.

    Raises:
        UsageError: a rank or a nonlinearity does not exist.
        StrzooError: the data cannot be read.
    """
    if config.dataset in SHAPES:
        steps, features, classes = SHAPES[config.dataset]
        data = SequenceSet(torch.zeros(1, steps, features), torch.zeros(1).long(), classes)
    elif config.data is None:
        return None
    else:
        data = load_sequences(config, "train")
    return report_rnn(build_classifier(config, data), name=config.about or config.dataset)


def train_rnn(
    config: RNNConfig | None = None,
    *,
    data: Mapping[str, SequenceSet] | None = None,
    save: bool = True,
    on_epoch: Callable[[RNNEpoch], None] | None = None,
) -> RNNTrainResult:
    """Train; keep the best network of every pair of ranks (rank_w, rank_u) passed through.

    The same configuration, data and machine give the same weights.

    Args:
        config: by default `RNNConfig()`.
        data: "train" and "test"; by default what `config.dataset` names.
        save: write the files into `config.run_folder`: `rank_W_U.pth` for each pair of ranks
            (layers joined by +), folded; `last.pth`, not folded; `results.csv`; `result.json`.
        on_epoch: called after each epoch.

    Returns:
        Every epoch, the last network, and the best one of each pair of ranks.

    Raises:
        UsageError: the configuration does not fit the data.
        StrzooError: data are missing, a file cannot be written, the loss is no longer finite.
    """
    config = config or RNNConfig()
    folder = Path(config.run_folder)
    if save:
        _check_folder(folder)
    sets = data or {split: load_sequences(config, split) for split in ("train", "test")}
    if save:
        _make_folder(folder)
    train, test = sets["train"], sets["test"]
    if len(train) < config.batch_size:
        raise UsageError(f"{len(train)} sequences are fewer than batch_size={config.batch_size}")
    device = find_device(config.device)
    model = build_classifier(config, train).to(device)
    cells = [cell for layer in model.rnn.layers for cell in layer]
    optimizer = _optimizer(model, config)
    steps = math.ceil(len(train) / config.batch_size)
    target = config.rank_target
    controller = None if target is None else RankController(cells, target, steps * config.epochs)
    generator = torch.Generator().manual_seed(config.seed)
    sequences, labels = train.sequences.to(device), train.labels.to(device)
    history: list[RNNEpoch] = []
    best: dict[str, tuple[RNNEpoch, dict[str, Tensor]]] = {}
    for epoch in range(config.epochs):
        model.train()
        start, total = time.perf_counter(), torch.zeros((), device=device)
        order = torch.randperm(len(train), generator=generator).to(device)
        for step in range(steps):
            _set_rate(optimizer, config.learning_rates.at(epoch + step / steps))
            batch = order[step * config.batch_size : (step + 1) * config.batch_size]
            loss = nn.functional.cross_entropy(model(sequences[batch]), labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if config.clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            if controller is not None:
                controller.step(epoch * steps + step + 1)
            total += loss.detach() * len(batch)
        mean_loss = float(total) / len(train)
        if not math.isfinite(mean_loss):
            raise StrzooError(
                f"the loss became {mean_loss} in epoch {epoch + 1}; lower learning_rate (now "
                f"{config.learning_rate}) or set clip_norm"
            )
        seconds = time.perf_counter() - start
        record = RNNEpoch(
            epoch + 1, mean_loss, evaluate_rnn(model, test), optimizer.param_groups[0]["lr"],
            tuple(cell.ranks[0] for cell in cells), tuple(cell.ranks[1] for cell in cells), seconds,
        )  # fmt: skip
        history.append(record)
        known = best.get(record.ranks)
        if known is None or record.top1 >= known[0].top1:
            best[record.ranks] = record, copy.deepcopy(model.state_dict())
        if on_epoch is not None:
            on_epoch(record)
    return _finish(model.cpu().eval(), config, history, best, folder if save else None)


@torch.no_grad()
def evaluate_rnn(model: SequenceClassifier, data: SequenceSet) -> float:
    """The accuracy of a network in evaluation mode; its mode is left as it was.

    Args:
        model: on any device.
        data: sequences and labels.

    Returns:
        Top-1 in percent.

    Raises:
        UsageError: there are no sequences, or the network has fewer classes than the data.
    """
    if not len(data):
        raise UsageError("there are no sequences to evaluate")
    if model.num_classes < data.num_classes:
        raise UsageError(
            f"the network has {model.num_classes} classes, the data {data.num_classes}"
        )
    training, device = model.training, model.mean.device
    model.eval()
    correct = 0
    for start in range(0, len(data), _EVALUATION_BATCH):
        part = slice(start, start + _EVALUATION_BATCH)
        found = model(data.sequences[part].to(device, model.mean.dtype)).argmax(1).cpu()
        correct += int((found == data.labels[part]).sum())
    model.train(training)
    return 100.0 * correct / len(data)


def _optimizer(model: SequenceClassifier, config: RNNConfig) -> torch.optim.Optimizer:
    """Weight decay on m and s of learned ranks; on nothing else."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            of_rank = isinstance(module, FastGRNNCell) and name[:2] in ("m_", "s_")
            (decayed if of_rank else others).append(parameter)
    groups: list[dict[str, Any]] = [{"params": others, "weight_decay": 0.0}]
    if decayed:
        groups.append({"params": decayed, "weight_decay": config.weight_decay})
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.Adam(groups, lr=config.learning_rate)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _check_folder(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StrzooError(f"{folder} exists and is not empty; name another by output=FOLDER")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StrzooError(f"cannot make {folder}: {error.strerror or error}") from error


def _finish(
    model: SequenceClassifier,
    config: RNNConfig,
    history: list[RNNEpoch],
    best: dict[str, tuple[RNNEpoch, dict[str, Tensor]]],
    folder: Path | None,
) -> RNNTrainResult:
    """Fold the kept networks and, with a folder, write everything."""
    results = []
    for ranks, (record, state) in best.items():
        network = copy.deepcopy(model)
        network.load_state_dict(state)
        folded, file = network.fold(), None
        if folder is not None:
            file = folder / f"rank_{ranks}.pth"
            save_rnn(folded, file, metadata=_describe(record, config))
        results.append(RankResult(record, folded, file))
    results.sort(key=lambda one: (-sum(one.epoch.rank_w + one.epoch.rank_u), one.epoch.ranks))
    made = RNNTrainResult(config, model, tuple(history), tuple(results), folder)
    if folder is not None:
        save_rnn(model, folder / "last.pth", metadata=_describe(history[-1], config))
        write_results(made, folder)
    return made


def _describe(record: RNNEpoch, config: RNNConfig) -> dict[str, str | int | float | bool | None]:
    """What is kept beside the weights."""
    return {"epoch": record.epoch, "top1": record.top1, "dataset": config.dataset}
