"""The processor as LLVM names it, kept beside the machine code so that LLVM need not be loaded."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from strzoo.engine.hardware import Hardware, host_hardware, processor_text
from strzoo.engine.requirement import llvmlite_version
from strzoo.engine.storage.private_folder import make_private, open_private
from strzoo.errors import StrzooError
from strzoo.files import write_text

log = logging.getLogger(__name__)


@lru_cache(maxsize=8)
def known_hardware(folder: Path | None) -> Hardware:
    """`host_hardware()`, found in the engine's cache `folder` if it was asked for here before.

    It is found by what Linux says about the processor; elsewhere LLVM is asked.
    """
    text = processor_text()
    folder = open_private(folder)
    if folder is None or text is None:
        return host_hardware()
    key = hashlib.sha256(f"{llvmlite_version()}\n{text}".encode()).hexdigest()
    file = folder / f"{key[:32]}.host"
    try:
        return Hardware(**json.loads(file.read_text()))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError) as error:
        log.warning("%s cannot be read (%s); asking again", file, error)
    found = host_hardware()
    try:
        make_private(folder)
        write_text(file, json.dumps(asdict(found)), force=True)
    except (OSError, StrzooError) as error:
        log.warning("what LLVM says of the processor is not kept: %s", error)
    return found
