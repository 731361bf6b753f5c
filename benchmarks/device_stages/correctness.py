"""Stage 1: the tests marked `cuda`, run for real; on a CPU their twins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from device_stages.rows import FAILS, OK, Stage

ROOT = Path(__file__).resolve().parents[2]
TESTS = ("tests/device", "tests/sparse/test_fused_threshold.py")
TINY = "double_precision or mask_by_magnitude or but_for_ties"  # the whole suite runs the rest


def run(stage: Stage) -> None:
    report = stage.folder / "tests.xml"
    chosen = ["-m", "cuda"] if stage.device == "cuda" else []
    if stage.tiny:
        chosen = ["-k", TINY]
    command = [
        *(sys.executable, "-m", "pytest", *TESTS, "-q", "-p", "no:cacheprovider"),
        # Another torch or Python than CI's may warn of what it will change.
        *(*chosen, "-W", "default", f"--junitxml={report}"),
    ]
    done = subprocess.run(command, cwd=ROOT, check=False)
    if not report.exists():
        stage.say("the tests", f"pytest ended with {done.returncode}", verdict=FAILS)
        return
    skipped = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = case.get("name", "").removeprefix("test_").replace("_", " ")
        told = "; ".join(f"{p.get('name')}: {p.get('value')}" for p in case.iter("property"))
        if (outcome := case.find("skipped")) is not None:
            skipped.append(f"{name} ({outcome.get('message', '')})")
        elif case.find("failure") is None and case.find("error") is None:
            stage.say(name, told or "passed", verdict=OK)
        else:
            fault = case.find("failure")
            fault = case.find("error") if fault is None else fault
            assert fault is not None
            reason = " ".join(fault.get("message", "").split())[:300]
            stage.say(name, f"{told} {reason}".strip(), verdict=FAILS)
    if skipped:
        stage.say(f"{len(skipped)} tests skipped", "; ".join(sorted(skipped))[:2000])
