"""What the documents site adds to docs/: pages that are kept elsewhere in the repository.

README.md is its first page, docs/tutorial.py the tutorial; results, changes and the map of the code
are pages too. Links between them lead to the pages; other files of the repository have none, so a
link to one becomes its name.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

import jupytext
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
# Page of the site -> file of the repository.
ELSEWHERE = {
    "index.md": "README.md",
    "benchmarks.md": "benchmarks/RESULTS.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "tutorial.md": "docs/tutorial.py",
}
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")
_PAGES = {path: page for page, path in ELSEWHERE.items()} | {"docs/tutorial.ipynb": "tutorial.md"}


def on_config(config: Any) -> None:
    """Refuse --quiet: strict mode counts the warnings that are logged, and would pass without them.

    Raises:
        PluginError: warnings are not logged.
    """
    if not logging.getLogger("mkdocs").isEnabledFor(logging.WARNING):
        raise PluginError("build without --quiet: strict mode fails on warnings that are logged")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for page, path in ELSEWHERE.items():
        text = (ROOT / path).read_text()
        if path.endswith(".py"):
            text = jupytext.writes(jupytext.reads(text, fmt="py:percent"), fmt="md")
            text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links between files of the repository into links between pages."""
    source = ELSEWHERE.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return link_pages(markdown, source, {file.src_uri for file in files})


def link_pages(markdown: str, source: str, pages: set[str]) -> str:
    """`markdown`, of the file `source` of the repository, with links to `pages` of the site.

    Raises:
        FileNotFoundError: a link leads to no file.
    """
    here = _PAGES.get(source, source.removeprefix("docs/"))

    def replace(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        page = _PAGES.get(path, path.removeprefix("docs/"))
        if page in pages:
            return f"[{text}]({posixpath.relpath(page, posixpath.dirname(here) or '.')}{anchor})"
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"{source} links to {target}, which does not exist")
        return text if text.startswith("`") else f"{text} (`{path}`)"

    return _LINK.sub(replace, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Leave out what mkdocs-click prints for options without a default."""
    if page.file.src_uri != "reference/commands.md":
        return html
    return html.replace("<code>Sentinel.UNSET</code>", "").replace("<td>None</td>", "<td></td>")
