"""What users rely on stays: names and parameters, commands and options, exit codes."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path

import pytest

import strzoo
from tests.helpers.surface import describe_surface

# They compute with what they get and check nothing.
NEVER_RAISE = {"soft_threshold", "to_dense", "to_dense_", "list_models"}
STORED = Path(__file__).parent / "helpers" / "public_surface.json"


def test_nothing_public_has_gone() -> None:
    before, now = json.loads(STORED.read_text()), describe_surface()
    assert now["exit_codes"].items() >= before["exit_codes"].items()
    for kind in ("names", "commands"):
        for name, parameters in before[kind].items():
            assert name in now[kind], f"{name} is gone"
            lost = set(parameters) - set(now[kind][name])
            assert not lost, f"{name} has lost {sorted(lost)}"


def test_lazy_names_are_the_ones_that_type_checkers_see() -> None:
    tree = ast.parse(Path(strzoo.__file__).read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen: dict[str, set[str]] = {}
    for node in guarded.body:
        assert isinstance(node, ast.ImportFrom)
        assert node.module is not None
        for alias in node.names:
            assert alias.asname == alias.name
            seen.setdefault(node.module, set()).add(alias.name)
    assert seen == {module: set(names) for module, names in strzoo._HOMES.items()}
    assert set(strzoo.__all__) == {n for names in seen.values() for n in names} | {"__version__"}


def _public_functions() -> list[str]:
    return [name for name in strzoo.__all__ if inspect.isfunction(getattr(strzoo, name))]


@pytest.mark.parametrize("name", _public_functions())
def test_a_public_docstring_names_parameters_result_and_errors(name: str) -> None:
    function = getattr(strzoo, name)
    text = inspect.getdoc(function) or ""
    signature = inspect.signature(function)
    summary, _, _ = text.partition("\n\n")
    assert summary.rstrip().endswith((".", ":"))
    missing = [p for p in signature.parameters if not re.search(rf"[`\s,(]{p}[`,:]", text)]
    assert not missing, f"{name} does not say what {', '.join(missing)} is"
    if signature.return_annotation not in ("None", None) and "Args:" in text:
        assert "Returns:" in text, f"{name} does not say what it returns"
    # Whatever takes an argument can refuse it.
    assert "Raises:" in text or not signature.parameters or name in NEVER_RAISE
