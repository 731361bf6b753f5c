"""A process that downloads one file, for the tests that kill it or run several at once."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path

from strzoo.errors import StrzooError
from tests.helpers.download_helpers import fetch
from tests.helpers.drive_stub import DriveStub

SIGNALS = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT}


def main(options: dict) -> int:
    # A shell starts what runs in the background deaf to it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if limit := options.get("file_limit"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if limit := options.get("memory_limit"):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if options.get("powerless"):
        import filelock  # noqa: F401 - the interpreter itself may be out of reach afterwards

        os.setuid(65534)
    if options.get("no_flock"):
        import fcntl

        fcntl.flock = lambda *_: None

    def progress(done: int, total: int | None) -> None:
        for name, number in SIGNALS.items():
            if name in options and done >= options[name]:
                os.kill(os.getpid(), number)

    stub = DriveStub(b"")
    stub.address = options["address"]
    try:
        fetched = fetch(
            stub, Path(options["cache"]), progress=progress, network=options.get("network", {})
        )
    except StrzooError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    print(json.dumps({"source": fetched.source, "sha256": fetched.file.sha256}))
    return 0 if "torch" not in sys.modules else 99


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
