from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest

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


def _functions() -> list[str]:
    return [n for n in strzoo.rnn.__all__ if inspect.isfunction(getattr(strzoo.rnn, n))]


@pytest.mark.parametrize("name", _functions())
def test_a_public_docstring_names_parameters_and_result(name: str) -> None:
    function = getattr(strzoo.rnn, name)
    text, signature = inspect.getdoc(function) or "", inspect.signature(function)
    assert "Returns:" in text
    missing = [p for p in signature.parameters if not re.search(rf"[`\s,(]{p}[`,:]", text)]
    assert not missing
