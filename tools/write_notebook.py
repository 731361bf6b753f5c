"""Write docs/tutorial.ipynb, the notebook of docs/tutorial.py, which is where it is edited.

python tools/write_notebook.py
"""

from __future__ import annotations

from pathlib import Path

import jupytext

SCRIPT = Path(__file__).resolve().parent.parent / "docs" / "tutorial.py"
NOTEBOOK = SCRIPT.with_suffix(".ipynb")


def make_notebook() -> str:
    """The notebook as JSON, the same each time: cells without output, named by their number."""
    notebook = jupytext.read(SCRIPT, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
    }
    text: str = jupytext.writes(notebook, fmt="ipynb")
    return text.rstrip("\n") + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(make_notebook())
