from __future__ import annotations

import subprocess
import sys

import strzoo
import strzoo.rnn


def test_every_public_name_exists_and_is_reached_from_strzoo() -> None:
    assert all(getattr(strzoo.rnn, name) is not None for name in strzoo.rnn.__all__)
    assert strzoo.rnn.FastGRNN.__module__ == "strzoo.rnn.layer"


def test_importing_the_package_imports_neither_torch_nor_torchaudio() -> None:
    program = (
        "import sys, strzoo; strzoo.rnn; "
        "assert not {'torch', 'torchaudio', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)
