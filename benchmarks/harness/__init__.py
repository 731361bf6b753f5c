"""What the benchmarks share: turns, what was measured on what, JSON, tables. Standard library only.

Importing it puts the checkout on the path, for `tests.helpers` and for strzoo itself, of this
process and of those that it starts.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
_known = os.environ.get("PYTHONPATH", "")
if str(ROOT) not in _known.split(os.pathsep):
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), _known)))
