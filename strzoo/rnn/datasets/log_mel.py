"""Log-mel features of one-second recordings, by torchaudio."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from strzoo.errors import StrzooError, install_advice

RATE = 16_000  # samples per second
FILTERS = 32
WINDOW, STEP = RATE * 25 // 1000, RATE * 10 // 1000  # 25 ms and 10 ms
FRAMES = 1 + -(-(RATE - WINDOW) // STEP)  # 99: the last one runs over the end
_FFT = 512
_EMPHASIS = 0.97
_FLOOR = 1e-10


class LogMel:
    """log(energy + 1e-10) of 32 mel filters from 0 to 8 kHz, in Hamming windows of 25 ms every
    10 ms, after pre-emphasis by 0.97; energies are power spectra over the 512 points of the
    transform, of samples in the range of 16-bit numbers (the EdgeML project's features).

    Raises:
        StrzooError: torchaudio is not installed.
    """

    def __init__(self) -> None:
        try:
            import torchaudio
        except ImportError as error:
            raise StrzooError(
                f"log-mel features need torchaudio: {install_advice('speech')}"
            ) from error
        self._audio: Any = torchaudio
        self._mel: Any = torchaudio.transforms.MelSpectrogram(
            sample_rate=RATE,
            n_fft=_FFT,
            win_length=WINDOW,
            hop_length=STEP,
            n_mels=FILTERS,
            f_min=0.0,
            f_max=RATE / 2,
            window_fn=torch.hamming_window,
            wkwargs={"periodic": False},
            power=2.0,
            center=False,
        )

    def __call__(self, samples: Tensor) -> Tensor:
        """[N, 99, 32] from samples [N, 16000]."""
        samples = self._audio.functional.preemphasis(samples, _EMPHASIS)
        # The window lies in the middle of the transform's 512 points: half of the rest in front.
        front = (_FFT - WINDOW) // 2
        whole = _FFT + (FRAMES - 1) * STEP
        padded = functional.pad(samples, (front, whole - front - samples.shape[1]))
        energies: Tensor = self._mel(padded) / _FFT
        return torch.log(energies + _FLOOR).transpose(1, 2).contiguous()
