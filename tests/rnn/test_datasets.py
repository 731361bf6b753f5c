"""Data sets built here in the form of the published files, a few sequences each."""

from __future__ import annotations

import builtins
import math
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import strzoo
from strzoo.errors import IntegrityError, StrzooError, UsageError
from strzoo.rnn import (
    SequenceSet,
    load_digit_rows,
    load_edgeml_arrays,
    load_har2,
    load_speech_commands,
)
from strzoo.rnn.datasets.har import SIGNALS
from strzoo.rnn.datasets.load import SHAPES
from strzoo.rnn.datasets.speech_commands import WORDS, read_clip, to_features


def test_digits_are_read_row_by_row() -> None:
    train, test = load_digit_rows("train"), load_digit_rows("test")
    assert (len(train), len(test), train.num_classes) == (1437, 360, 10)
    assert SHAPES["digits"] == (*train.sequences.shape[1:], train.num_classes)
    images = strzoo.load_digits("test")
    assert torch.equal(test.sequences[7, 3], images.images[7, 0, 3])
    with pytest.raises(UsageError, match="split 'all' is not one of train, test"):
        load_digit_rows("all")


def test_a_set_checks_shapes_and_labels() -> None:
    with pytest.raises(UsageError, match=r"are not \[N, T, in\] and \[N\]"):
        SequenceSet(torch.zeros(2, 3), torch.zeros(2), 2)
    with pytest.raises(UsageError, match="labels must lie in 0 to 1"):
        SequenceSet(torch.zeros(2, 3, 4), torch.tensor([0, 2]), 2)


def _har(root: Path, split: str, activities: list[int]) -> None:
    signals = root / "UCI HAR Dataset" / split / "Inertial Signals"
    signals.mkdir(parents=True)
    lines = "\n".join(map(str, activities)) + "\n"
    (signals.parent / f"y_{split}.txt").write_text(lines)
    for index, name in enumerate(SIGNALS):
        rows = [
            " ".join(f"{index + 0.1 * row + 1e-3 * t: .7e}" for t in range(128))
            for row in range(len(activities))
        ]
        (signals / f"{name}_{split}.txt").write_text("\n".join(rows) + "\n")


def test_har2_merges_sitting_laying_and_walking_upstairs(tmp_path: Path) -> None:
    _har(tmp_path, "test", [1, 2, 3, 4, 5, 6])
    found = load_har2(tmp_path, "test")
    assert found.sequences.shape == (6, 128, 9)
    assert found.labels.tolist() == [1, 0, 1, 0, 1, 0]
    # body_gyro_y is the fifth signal: 4 + 0.1 row + 0.001 step.
    assert found.sequences[2, 10, 4].item() == pytest.approx(4.21)
    assert torch.equal(load_har2(tmp_path / "UCI HAR Dataset", "test").labels, found.labels)


def test_har_files_that_are_not_whole_are_named(tmp_path: Path) -> None:
    with pytest.raises(StrzooError, match=r"y_train.txt does not exist; give the folder of"):
        load_har2(tmp_path)
    _har(tmp_path, "train", [1, 2])
    folder = tmp_path / "UCI HAR Dataset" / "train"
    (folder / "y_train.txt").write_text("1\n7\n")
    with pytest.raises(IntegrityError, match="holds activity 7; expected 1 to 6"):
        load_har2(tmp_path)
    (folder / "y_train.txt").write_text("1\n2\n3\n")
    with pytest.raises(IntegrityError, match=r"body_acc_x_train.txt has 2 rows for 3 labels"):
        load_har2(tmp_path)
    (folder / "Inertial Signals" / "body_acc_x_train.txt").write_text("1 2 3\n")
    with pytest.raises(IntegrityError, match="no table of 128 finite numbers"):
        load_har2(tmp_path)


def test_edgeml_s_arrays_are_label_first_and_time_major(tmp_path: Path) -> None:
    rows = np.arange(4 * 6, dtype=float).reshape(4, 6)
    np.save(tmp_path / "train.npy", np.column_stack([[1, 3, 2, 1], rows]))
    np.save(tmp_path / "test.npy", np.column_stack([[2, 2], rows[:2]]))
    found = load_edgeml_arrays(tmp_path, 2)
    assert found["train"].labels.tolist() == [0, 2, 1, 0]
    assert found["test"].labels.tolist() == [1, 1]
    assert found["train"].num_classes == found["test"].num_classes == 3
    assert found["train"].sequences[1].tolist() == [[6, 7], [8, 9], [10, 11]]
    with pytest.raises(UsageError, match="rows of 6 values after the label are no multiple"):
        load_edgeml_arrays(tmp_path, 4)


def test_arrays_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StrzooError, match=r"train.npy does not exist"):
        load_edgeml_arrays(tmp_path, 2)
    (tmp_path / "train.npy").write_bytes(b"no array")
    with pytest.raises(IntegrityError, match=r"train.npy is not a .npy file of numbers"):
        load_edgeml_arrays(tmp_path, 2)
    np.save(tmp_path / "train.npy", np.full((3, 5), 0.5))
    with pytest.raises(IntegrityError, match="label that is no whole number"):
        load_edgeml_arrays(tmp_path, 2)


def _write(file: Path, samples: np.ndarray, rate: int = 16_000) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(file), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(rate)
        stream.writeframes(samples.astype("<i2").tobytes())


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 recordings of each of the ten words for training and 1 for test; 8 of two others."""
    root, generator = tmp_path_factory.mktemp("commands"), np.random.default_rng(0)
    for word in (*WORDS, "bed", "cat"):
        for index in range(3 if word in WORDS else 4):
            _write(root / word / f"{index}.wav", generator.normal(size=4000) * 1000)
    _write(root / "_background_noise_" / "hum.wav", generator.normal(size=40_000) * 100)
    tests = [f"{word}/0.wav" for word in WORDS] + ["bed/0.wav", "cat/0.wav"]
    (root / "testing_list.txt").write_text("\n".join(tests))
    (root / "validation_list.txt").write_text("bed/1.wav\n")
    return root


def _mel_frame(samples: np.ndarray, frame: int) -> np.ndarray:
    """Log-mel energies of one frame from their definition."""
    emphasised = np.append(samples[0], samples[1:] - 0.97 * samples[:-1])
    padded = np.append(emphasised, np.zeros(400))
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 399)
    part = padded[160 * frame : 160 * frame + 400] * window
    power = np.abs(np.fft.rfft(part, 512)) ** 2 / 512
    mel = np.linspace(0, 2595 * math.log10(1 + 8000 / 700), 34)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequencies = np.arange(257) * 16000 / 512
    rise = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    return np.log(np.clip(np.minimum(rise, fall), 0, None) @ power + 1e-10)


def test_log_mel_features_are_those_of_their_definition() -> None:
    pytest.importorskip("torchaudio")
    clip = (np.random.default_rng(1).normal(size=9000) * 500).astype(np.float32)
    found = to_features([clip])
    assert found.shape == (1, 99, 32)
    samples = np.append(np.zeros(7000), clip)  # zeros in front of what is short
    for frame in (0, 44, 70, 98):
        np.testing.assert_allclose(found[0, frame], _mel_frame(samples, frame), atol=2e-3)


def test_google12_draws_a_tenth_of_the_words_count_for_each_extra_class(commands: Path) -> None:
    pytest.importorskip("torchaudio")
    seen: list[tuple[int, int]] = []
    train = load_speech_commands(commands, "train", on_progress=lambda *n: seen.append(n))
    # Twenty recordings of the words, so two of silence and two of other words.
    counts = torch.bincount(train.labels, minlength=12).tolist()
    assert counts == [2] * 10 + [2, 2]
    assert train.sequences.shape == (24, 99, 32)
    assert torch.isfinite(train.sequences).all()
    assert train.class_names[-2:] == ("silence", "unknown")
    assert seen[-1] == (24, 24)
    assert len(load_speech_commands(commands, "test")) == 12
    again = load_speech_commands(commands, "train")
    assert torch.equal(again.sequences, train.sequences)
    other = load_speech_commands(commands, "train", seed=1)
    assert torch.equal(other.sequences[:20], train.sequences[:20])
    assert not torch.equal(other.sequences[20:], train.sequences[20:])


def test_google30_takes_every_word_as_a_class(commands: Path) -> None:
    pytest.importorskip("torchaudio")
    found = load_speech_commands(commands, "train", task="google30")
    # Two of each of the ten words, two of bed (one is held out for validation), three of cat.
    assert len(found) == 20 + 2 + 3
    assert found.num_classes == 12
    assert found.class_names == tuple(sorted((*WORDS, "bed", "cat")))


def test_recordings_of_another_form_are_named(tmp_path: Path) -> None:
    _write(tmp_path / "a.wav", np.zeros(100), rate=8000)
    with pytest.raises(IntegrityError, match=r"a.wav has 1 channels of 16 bits at 8000 Hz"):
        read_clip(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_bytes(b"RIFF")
    with pytest.raises(IntegrityError, match=r"b.wav is not a .wav file, or is damaged"):
        read_clip(tmp_path / "b.wav")
    with pytest.raises(StrzooError, match=r"c.wav does not exist"):
        read_clip(tmp_path / "c.wav")


def test_a_missing_torchaudio_says_how_to_install_it(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "torchaudio":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(StrzooError, match=r"need torchaudio: .*pip install 'torchaudio>=2\.6'"):
        load_speech_commands(commands)


def test_lists_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("torchaudio")
    (tmp_path / "validation_list.txt").write_text("")
    (tmp_path / "testing_list.txt").write_text("../../etc/passwd\n")
    with pytest.raises(IntegrityError, match=r"'../../etc/passwd' is no WORD/FILE.wav"):
        load_speech_commands(tmp_path, "test")
