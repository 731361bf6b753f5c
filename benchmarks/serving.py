"""The service of examples/serving under load: requests per second, p99, and nothing lost or wrong.

    python benchmarks/serving.py
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

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness.record import Record, make_parser
from harness.results import Column

import strzoo
from tests.helpers.serving import CLIENTS, make_network, send, serve

ENGINES = {"sparse": "model.strz", "onnxruntime": "model.onnx"}
ABOUT = """examples/serving over a file of {architecture} (random weights, the zeros of its budget),
{requests:,} requests from {clients} clients in a process of their own, each answer compared with
that of torch; the service is told to replace its processes {restarts} times meanwhile. {setups}:
processes x callers x threads of a caller. Medians of {rounds} rounds."""
KEYS = ("answered", "lost", "wrong", "refused", "broken", "restarts")


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--architecture", default="resnet50", help="or resnet20")
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=ENGINES)
    parser.add_argument("--restarts", type=int, default=0)
    parser.add_argument("--setups", nargs="+", default=[f"1x{os.cpu_count()}x1"])
    options = parser.parse_args()
    about = ABOUT.format(
        **{**vars(options), "clients": CLIENTS, "setups": ", ".join(options.setups)}
    )
    record = Record(
        parser, options, "serving",
        f"Serving {options.architecture}: requests per second and p99, nothing lost", about,
        packages=["fastapi", "uvicorn", "httptools", "onnxruntime", "strzoo"],
        kinds=["architecture"],
    )  # fmt: skip
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
    enter(record, rows)
    return record.finish()


def make_files(folder: Path, architecture: str = "resnet50") -> None:
    """As `make_network`, and model.onnx and model.strz."""
    checkpoint = make_network(folder, architecture)
    strzoo.export_onnx(checkpoint, folder / "model.onnx")
    strzoo.compile(folder / "model.onnx", threads=1).save(folder / "model.strz")


def enter(record: Record, rows: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
    """Medians of the rounds, and sums of what was lost."""
    table = record.table([
        Column("engine"), Column("processes x callers x threads"), Column("requests/s", "", ".1f"),
        Column("p50", "ms", ".0f"), Column("p99", "ms", ".0f"),
        *(Column(key, "", ",.0f") for key in KEYS),
    ])  # fmt: skip
    for (engine, setup), found in rows.items():
        middles = (
            float(statistics.median(row[key] for row in found))
            for key in ("requests_per_second", "p50_ms", "p99_ms")
        )
        sums = {key: sum(row[key] for row in found) for key in KEYS}
        table.add(engine, setup, *middles, *sums.values())
        for key in ("lost", "wrong", "broken"):
            table.judge(f"{engine} {setup}: the number of {key} requests", sums[key], most=0)


if __name__ == "__main__":
    sys.exit(main())
