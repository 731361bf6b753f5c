"""strzoo_runtime: runs networks that strzoo compiled (`.strz` files), on NumPy alone.

It is the part of strzoo that runs them, under a name of its own, so that both can be installed.
"""

from __future__ import annotations

from strzoo.engine.runtime.load import load
from strzoo.engine.runtime.model import SparseModel
from strzoo.engine.session import InferenceSession, SessionOptions
from strzoo.errors import StrzooError
from strzoo.version import VERSION

__version__ = VERSION
__all__ = ["InferenceSession", "SessionOptions", "SparseModel", "StrzooError", "load"]
