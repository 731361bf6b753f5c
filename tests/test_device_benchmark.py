"""The device benchmark keeps what it has when a stage fails or is out of time."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.runs import environment

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "device.py"


def run(output: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, results.json, and what was printed."""
    command = [sys.executable, str(SCRIPT), "--tiny", "--device", "cpu", "--output", str(output)]
    done = subprocess.run(
        [*command, *arguments], env=environment(), capture_output=True, text=True, timeout=120
    )
    return done.returncode, json.loads((output / "results.json").read_text()), done.stdout


def test_a_stage_out_of_time_or_failing_loses_nothing_of_the_others(tmp_path: Path) -> None:
    kept = {
        "status": "done", "seconds": 1.0, "cpu_seconds": 1.0,
        "rows": [{"what": "speed", "value": "7", "goal": "", "verdict": ""}],
    }  # fmt: skip
    settings = {"tiny": True, "device": "cpu"}
    document = {"schema": 1, "machine": "", "settings": settings, "stages": {"cores": kept}}
    (tmp_path / "results.json").write_text(json.dumps(document))
    code, results, printed = run(
        tmp_path, "--only", "correctness", "training", "cores", "--minutes", "0.03"
    )
    assert code == 1
    assert "cores: done before" in printed
    assert results["stages"]["cores"] == kept
    for name in ("correctness", "training"):
        assert results["stages"][name]["status"].startswith("ended after its")
        assert results["stages"][name]["seconds"] < 30
    table = (tmp_path / "results.md").read_text()
    assert "| speed | 7 |  |  |" in table
    assert "## evaluation: not run" in table


@pytest.mark.slow
def test_a_stage_that_fails_says_so_and_keeps_its_log(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "carried-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("torch.py", "raise ImportError('the installed one comes first')")
    arguments = ["--only", "evaluation", "--workers", "-3", "--wheels", str(tmp_path)]
    code, results, _ = run(tmp_path, *arguments)
    assert (tmp_path / "packages" / "torch.py").exists()
    assert code == 1
    failed = "failed with exit code 1, see evaluation.log"
    assert results["stages"]["evaluation"]["status"] == failed
    log = (tmp_path / "evaluation.log").read_text()
    assert "Traceback" in log
    assert "comes first" not in log
