"""Speech Commands (version 0.01): short words as log-mel features, in 30 classes or in 12.

The folder has one folder of .wav files for each word, `_background_noise_`, `validation_list.txt`
and `testing_list.txt`.

Google-12 is ten words and the classes "silence" and "unknown". How the published sets drew those
two is not known to the file; the rule here: each has ceil(count / 10) sequences for the `count`
sequences of the ten words in the split, which gives the published sizes (22,246 for training,
3,081 for test) from 18,538 and 2,567 of the words. "unknown" takes that many files, without
repetition, from the other words of the split; "silence" takes one-second pieces that start
anywhere in the files of `_background_noise_`, each times a volume between 0 and 1. All draws
are uniform and follow from `seed`.
"""

from __future__ import annotations

import math
import os
import wave
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from strzoo.borders import open_file, read_text, reading
from strzoo.errors import IntegrityError, StrzooError, UsageError
from strzoo.rnn.datasets.log_mel import RATE, LogMel
from strzoo.rnn.datasets.sequences import SequenceSet, check_split
from strzoo.settings import Limits

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
EXTRA = ("silence", "unknown")
SPLITS = ("train", "validation", "test")
TASKS = ("google12", "google30")
_LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
_NOISE = "_background_noise_"
_SHARE = 10  # percent of the ten words' count, for each of the two extra classes
_BATCH = 256


def load_speech_commands(
    folder: str | os.PathLike[str],
    split: str = "train",
    *,
    task: str = "google12",
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> SequenceSet:
    """Sequences of 99 steps of 32 log-mel energies. Needs torchaudio (extra `strzoo[speech]`).

    Args:
        folder: of the unpacked data set.
        split: "train", "validation" or "test", by the data set's own lists.
        task: "google12", or "google30" for every word as a class.
        seed: of the draws for "silence" and "unknown".
        on_progress: called with the sequences done and in all.

    Returns:
        The split, not normalised; the words first, then of Google-12 "silence" and "unknown".

    Raises:
        StrzooError: torchaudio or a file is missing, or a file is unreadable.
        IntegrityError: a file is no 16-bit recording of one channel at 16 kHz, at most one second.
        UsageError: an unknown split or task.
    """
    check_split(split, SPLITS)
    if task not in TASKS:
        raise UsageError(f"task {task!r} is not one of {', '.join(TASKS)}")
    features = LogMel()  # fails here if torchaudio is missing, before a file is read
    root = Path(folder)
    files = _files(root, split)
    generator = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split)]))
    if task == "google30":
        names = tuple(sorted({file.parent.name for file in root.glob("*/*.wav")} - {_NOISE}))
        chosen, silence = [(file, _find(names, file)) for file in files], []
    else:
        names = (*WORDS, *EXTRA)
        chosen, count = _choose(root, files, generator)
        silence = _draw_silence(root, count, generator)
    quiet = len(WORDS) + EXTRA.index("silence")
    labels = [label for _, label in chosen] + [quiet] * len(silence)
    total, parts = len(labels), []
    for start in range(0, total, _BATCH):
        clips = [read_clip(file) for file, _ in chosen[start : start + _BATCH]]
        first = max(0, start - len(chosen))
        clips += silence[first : first + _BATCH - len(clips)]
        parts.append(features(torch.from_numpy(np.stack([_pad(clip) for clip in clips]))))
        if on_progress is not None:
            on_progress(min(start + _BATCH, total), total)
    return SequenceSet(torch.cat(parts), torch.tensor(labels), len(names), names)


def _files(root: Path, split: str) -> list[Path]:
    """The recordings of a split, sorted."""
    listed = {name: _read_list(root / file) for name, file in _LISTS.items()}
    if split in listed:
        return [root / name for name in sorted(listed[split])]
    held_out = listed["validation"] | listed["test"]
    found = sorted(
        f"{file.parent.name}/{file.name}"
        for file in root.glob("*/*.wav")
        if file.parent.name != _NOISE
    )
    if not found:
        raise StrzooError(f"{root} holds no folders of .wav files")
    return [root / name for name in found if name not in held_out]


def _find(names: tuple[str, ...], file: Path) -> int:
    if file.parent.name not in names:
        raise StrzooError(f"{file} does not exist, and its folder holds no .wav file")
    return names.index(file.parent.name)


def _read_list(file: Path) -> set[str]:
    if not file.exists():
        raise StrzooError(f"{file} does not exist; give the unpacked Speech Commands")
    lines = read_text(file, "a list of recordings").split()
    for line in lines:
        if line.count("/") != 1 or ".." in line:
            raise IntegrityError(f"{file}: {line!r} is no WORD/FILE.wav")
    return set(lines)


def _choose(
    root: Path, files: Sequence[Path], generator: np.random.Generator
) -> tuple[list[tuple[Path, int]], int]:
    """Recordings of Google-12 but "silence", with their classes, and the size of an extra class."""
    words = [(file, WORDS.index(file.parent.name)) for file in files if file.parent.name in WORDS]
    others = [file for file in files if file.parent.name not in WORDS]
    count = math.ceil(len(words) * _SHARE / 100)
    if len(others) < count:
        raise StrzooError(
            f"{root}: 'unknown' needs {count} recordings of other words, there are {len(others)}"
        )
    drawn = sorted(generator.choice(len(others), count, replace=False).tolist())
    unknown = len(WORDS) + EXTRA.index("unknown")
    return [*words, *((others[index], unknown) for index in drawn)], count


def _draw_silence(root: Path, count: int, generator: np.random.Generator) -> list[np.ndarray]:
    files = sorted((root / _NOISE).glob("*.wav"))
    noises = [read_clip(file, longest=None) for file in files]
    noises = [noise for noise in noises if len(noise) >= RATE]
    if not noises:
        raise StrzooError(f"{root / _NOISE} holds no .wav file of a second or more")
    pieces = []
    for _ in range(count):
        noise = noises[generator.integers(len(noises))]
        start = generator.integers(len(noise) - RATE + 1)
        volume = np.float32(generator.random())
        pieces.append(noise[start : start + RATE] * volume)
    return pieces


def read_clip(file: Path, *, longest: int | None = RATE) -> np.ndarray:
    """The samples of a recording, float32 in the range of 16-bit numbers.

    Raises:
        StrzooError, IntegrityError: as `load_speech_commands`.
    """
    with reading(file, "a .wav file"), open_file(file) as raw, wave.open(raw) as stream:
        form = (stream.getnchannels(), stream.getsampwidth(), stream.getframerate())
        count = stream.getnframes()
        if form != (1, 2, RATE) or (longest is not None and count > longest):
            raise IntegrityError(
                f"{file} has {form[0]} channels of {8 * form[1]} bits at {form[2]} Hz and "
                f"{count} samples; expected 1 of 16 bits at {RATE} Hz"
                + ("" if longest is None else f" and at most {longest}")
            )
        Limits.from_env().check("bytes", 2 * count, str(file))
        content = stream.readframes(count)
    return np.frombuffer(content, "<i2").astype(np.float32)


def _pad(clip: np.ndarray) -> np.ndarray:
    """One second: zeros in front of what is shorter."""
    return np.concatenate([np.zeros(RATE - len(clip), np.float32), clip])


def to_features(clips: Sequence[np.ndarray]) -> Tensor:
    """[N, 99, 32] of recordings of up to one second, as `load_speech_commands` makes them."""
    return LogMel()(torch.from_numpy(np.stack([_pad(clip) for clip in clips])))
