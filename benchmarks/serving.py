"""The service of examples/serving under load: requests per second, p99, and nothing lost or wrong.

    python benchmarks/serving.py                              # the table for RESULTS.md
    python benchmarks/serving.py --requests 10000 --only sparse --restarts 2
    python benchmarks/serving.py --architecture resnet20 --requests 600 --rounds 1

ResNet50 with the published budget of 90.23 % and random weights (BatchNorm statistics are those of
photographs, so that answers depend on the image) is compiled to a `.strz` file and exported to
ONNX. Both files are served by the same code, in turn, to the same load generator, a process of its
own with 32 clients; photographs of 300 x 240 pixels as JPEG. Each answer is compared with
`strzoo.predict`. With `--restarts` the service is told to replace its processes so many times while
the clients go on. `--setups` compares processes with threads: WORKERSxCALLERSxTHREADS.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import strzoo
from tests.helpers.serving import CLIENTS, make_network, send, serve

ENGINES = {"sparse": "model.strz", "onnxruntime": "model.onnx"}
KEYS = ("answered", "lost", "wrong", "refused", "broken", "restarts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="resnet50", help="or resnet20")
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=ENGINES)
    parser.add_argument("--restarts", type=int, default=0)
    parser.add_argument("--setups", nargs="+", default=[f"1x{os.cpu_count()}x1"])
    options = parser.parse_args()
    engines = [options.only] if options.only else list(ENGINES)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_files(folder, options.architecture)
        rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for _ in range(options.rounds):
            for setup in options.setups:
                workers, callers, threads = map(int, setup.split("x"))
                for engine in engines:
                    command = ["--workers", workers, "--callers", callers, "--threads", threads]
                    with serve(folder / ENGINES[engine], *command) as service:
                        send(service.url, folder, 2 * CLIENTS)  # warm
                        times = [2.0 + 15.0 * number for number in range(options.restarts)]
                        row = send(service.url, folder, options.requests, service, times)
                    rows.setdefault((engine, setup), []).append(row)
                    print(f"{engine} {setup}: {json.dumps(row)}", file=sys.stderr)
    print_table(rows)
    if any(
        row["lost"] or row["wrong"] or row["broken"] for found in rows.values() for row in found
    ):
        sys.exit("requests were lost, wrong or broken")


def make_files(folder: Path, architecture: str = "resnet50") -> None:
    """As `make_network`, and model.onnx and model.strz."""
    checkpoint = make_network(folder, architecture)
    strzoo.export_onnx(checkpoint, folder / "model.onnx")
    strzoo.compile(folder / "model.onnx", threads=1).save(folder / "model.strz")


def print_table(rows: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
    """Medians of the rounds as Markdown, and the machine."""
    heads = "requests/s", "p50 ms", "p99 ms", *KEYS
    print(f"| engine | processes x callers x threads | {' | '.join(heads)} |")
    print("|---|---|" + "---:|" * len(heads))
    for (engine, setup), found in rows.items():
        rate, middle, tail = (
            statistics.median(row[key] for row in found)
            for key in ("requests_per_second", "p50_ms", "p99_ms")
        )
        sums = " | ".join(str(sum(row[key] for row in found)) for key in KEYS)
        print(f"| {engine} | {setup} | {rate:.1f} | {middle:.0f} | {tail:.0f} | {sums} |")
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python "
        f"{platform.python_version()}"
    )


if __name__ == "__main__":
    main()
