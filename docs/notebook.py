"""Make a Jupyter notebook of tutorial.md: `python docs/notebook.py tutorial.ipynb`.

Text becomes cells of Markdown, without links to other pages. An example becomes a cell that ends
where the page shows output. `make notebook` runs the cells.
"""

import base64
import doctest
import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE / "tutorial.md"

Cell = dict[str, Any]


def text_cell(text: str) -> Cell:
    """Make a cell of text; drawings come with it."""
    names = re.findall(r":file: figures/(\S+)", text)
    text = re.sub(r"```\{raw\} html\n:file: figures/(\S+)\n```", r"![\1](attachment:\1)", text)
    text = re.sub(r"\[([^\]]+)\]\([\w/]+\.md[^)]*\)", r"\1", text)  # no such pages here
    cell: Cell = {"cell_type": "markdown", "metadata": {}, "source": text.strip()}
    if names:
        drawings = {name: (HERE / "figures" / name).read_bytes() for name in names}
        cell["attachments"] = {
            name: {"image/svg+xml": base64.b64encode(drawing).decode()}
            for name, drawing in drawings.items()
        }
    return cell


def code_cells(block: str) -> list[Cell]:
    """Make cells of a block of examples, each up to one with output."""
    cells: list[Cell] = []
    source = ""
    examples = doctest.DocTestParser().get_examples(block)
    for example in examples:
        source += example.source
        if example.want or example is examples[-1]:
            cells.append(
                {
                    "cell_type": "code",
                    "execution_count": None,
                    "metadata": {},
                    "outputs": [],
                    "source": source.rstrip(),
                }
            )
            source = ""
    return cells


def notebook() -> dict[str, Any]:
    """Return the notebook, in version 4.5 of its format."""
    page = re.sub(r"This page is also \{download\}.*\n", "", PAGE.read_text(encoding="utf-8"))
    cells: list[Cell] = []
    for number, part in enumerate(re.split(r"```python\n(.*?)```\n", page, flags=re.DOTALL)):
        cells += code_cells(part) if number % 2 else [text_cell(part)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": [cell | {"id": f"cell-{number}"} for number, cell in enumerate(cells)],
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def write(path: Path) -> None:
    """Write the notebook to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook(), indent=1), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
