"""Clients for a service: sends images, compares the answers, measures.

    python load.py http://127.0.0.1:8000 photos --clients 32 --expected answers.json

Prints one JSON object. `answers.json` maps the name of each image to pairs of class and
probability, which the answers are compared with.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

TOLERANCE = 1e-3  # of a probability
PATIENCE = 60.0  # seconds that a client tries to have one answer
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass
class Counts:
    """What came back. `refused` counts answers of 503 and `broken` connections that broke: both
    are tried again, and a request is `lost` if that never leads to an answer."""

    answered: int = 0
    wrong: int = 0
    lost: int = 0
    refused: int = 0
    broken: int = 0
    seconds: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


async def send(session: aiohttp.ClientSession, url: str, content: bytes, counts: Counts) -> Any:
    """The answer to one image; None if there is none."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        begun = time.perf_counter()
        try:
            async with session.post(url, data=content) as answer:
                body = await answer.json()
        except (aiohttp.ClientError, ConnectionError, asyncio.TimeoutError) as error:
            counts.broken += 1
            counts.problems.append(repr(error)[:200])
            await asyncio.sleep(0.05)
            continue
        if answer.status == 200:
            counts.seconds.append(time.perf_counter() - begun)
            return body
        counts.problems.append(f"{answer.status}: {body}"[:200])
        if answer.status != 503:
            break
        counts.refused += 1
        await asyncio.sleep(0.1)
    return None


def is_right(answer: Any, expected: list[tuple[int, float]]) -> bool:
    """Whether the answer's probabilities, class by class, are the expected ones."""
    found = {guess["index"]: guess["probability"] for guess in answer["guesses"]}
    best = max(chance for _, chance in expected)
    first = dict(expected).get(answer["guesses"][0]["index"], 0.0)
    return best - first < TOLERANCE and all(
        abs(found.get(index, chance) - chance) < TOLERANCE for index, chance in expected
    )


async def run(
    url: str, folder: Path, requests: int, clients: int, expected: dict[str, Any]
) -> dict[str, Any]:
    """All requests from all clients, each of which has one connection and one request at a time."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    if not paths:
        sys.exit(f"{folder} has no images")
    images = [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in paths]
    counts, numbers = Counts(), itertools.count()

    async def client() -> None:
        connector = aiohttp.TCPConnector(limit=1)
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while (number := next(numbers)) < requests:
                name, content = images[number % len(images)]
                answer = await send(session, f"{url}/predict", content, counts)
                if answer is None:
                    counts.lost += 1
                    continue
                counts.answered += 1
                if name in expected and not is_right(answer, expected[name]):
                    counts.wrong += 1
                    counts.problems.append(f"{name}: {answer}"[:200])
                if number % 1000 == 999:
                    print(f"{number + 1} of {requests} requests", file=sys.stderr)

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    elapsed = time.perf_counter() - begun
    times = sorted(counts.seconds) or [0.0]
    quantiles = {
        f"p{percent}_ms": 1000 * times[min(len(times) - 1, len(times) * percent // 100)]
        for percent in (50, 90, 99)
    }
    found = asdict(counts) | {"problems": counts.problems[:5]}
    del found["seconds"]
    return {**found, "requests_per_second": counts.answered / elapsed, **quantiles}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path, help="of images")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--expected", type=Path, help="JSON: image to pairs (class, probability)")
    options = parser.parse_args()
    expected = json.loads(options.expected.read_text()) if options.expected else {}
    result = run(options.url, options.folder, options.requests, options.clients, expected)
    print(json.dumps(asyncio.run(result)))


if __name__ == "__main__":
    main()
