"""Write the tables of docs/reproduction.md: every row of the paper that a recipe trains.

python tools/write_reproduction.py
"""

from __future__ import annotations

from pathlib import Path

import strzoo
from strzoo.zoo.paper import PaperRank, PaperResult

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reproduction.md"
_BEGIN, _END = "<!-- tables: written by tools/write_reproduction.py -->\n", "<!-- end -->\n"
_RESULTS = ("1", "2", "4", "5", "9")


def make_page() -> str:
    """The page with its tables."""
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    after = rest.partition(_END)[2]
    tables = [_write_results(number) for number in _RESULTS]
    tables.insert(2, _write_ranks("3"))
    return before + _BEGIN + "\n" + "\n".join(tables) + "\n" + _END + after


def _write_results(number: str) -> str:
    table = strzoo.load_paper_table(number)
    lines = [
        f"## Table {number}. {table.title}\n",
        "| method | sparsity % | params | FLOPs | expected top-1 % | command |",
        "|---|---:|---:|---:|---:|---|",
    ]
    left = []
    for row in table.rows:
        assert isinstance(row, PaperResult)
        if row.recipe is None:
            left.append(row.method)
            continue
        lines.append(
            f"| {row.method} | {row.sparsity:.2f} | {row.params} | {row.flops or '-'} "
            f"| {row.top1:.2f} | `strzoo train {row.recipe} data=/data/imagenet` |"
        )
    if left:
        names = ", ".join(dict.fromkeys(left))
        lines.append(
            f"\nWithout a recipe here: {names} ({len(left)} rows, `strzoo paper {number}`)."
        )
    return "\n".join(lines) + "\n"


def _write_ranks(number: str) -> str:
    table = strzoo.load_paper_table(number)
    lines = [
        f"## Table {number}. {table.title}\n",
        "`data=` is Google-12 (Speech Commands) or HAR-2 (UCI HAR): [FastGRNN](fastgrnn.md).\n",
        "| data | ranks | expected accuracy %, learned | fixed | command |",
        "|---|---|---:|---:|---|",
    ]
    for row in table.rows:
        assert isinstance(row, PaperRank)
        lines.append(
            f"| {row.dataset} | {row.rank_w}, {row.rank_u} | {row.learned:.2f} | {row.fixed:.2f} "
            f"| `strzoo train {row.recipe} data=FOLDER` |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(make_page())
