"""What the documentation shows is what happens: docstrings and the README, run as doctests."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path

import fastdrop as fd
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
NAMES = {"np": np, "fd": fd}  # what a docstring may take as imported; a document may not

# Modules that need a package which need not be installed; and the one that runs when imported.
NEEDS = {"fastdrop.torch": "torch", "fastdrop.dask": "dask", "fastdrop.jax": "jax"}
RUNS = {"fastdrop.__main__"}

MODULES = ["fastdrop"] + [
    module.name
    for module in pkgutil.walk_packages(fd.__path__, "fastdrop.")
    if module.name not in RUNS
]


@pytest.mark.parametrize("name", MODULES)
def test_a_docstring_shows_what_does_not_happen(name: str) -> None:
    needed = NEEDS.get(name)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    module = importlib.import_module(name)
    results = doctest.testmod(module, extraglobs=NAMES, optionflags=FLAGS)
    assert results.failed == 0


@pytest.mark.parametrize(
    "thing",
    [getattr(fd, name) for name in fd.__all__ if name != "__version__"]
    + [fd.Mask.region, fd.Key.fold_in],
)
def test_a_public_name_has_no_example(thing: object) -> None:
    """Compiled classes too, whose docstrings doctest does not find by itself."""
    text = thing.__doc__ or ""
    name = getattr(thing, "__qualname__", "")
    examples = doctest.DocTestParser().get_doctest(text, dict(NAMES), name, None, 0)
    if "." not in name:
        assert examples.examples, f"{name} has no example"
    results = doctest.DocTestRunner(optionflags=FLAGS).run(examples)
    assert results.failed == 0


def test_every_public_name_is_documented() -> None:
    for name in fd.__all__:
        thing = getattr(fd, name)
        assert not callable(thing) or (thing.__doc__ or "").strip(), name


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))], ids=lambda path: path.name
)
def test_a_document_shows_what_does_not_happen(path: Path) -> None:
    text = re.sub(r"^```.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    examples = doctest.DocTestParser().get_doctest(text, {}, path.name, str(path), 0)
    results = doctest.DocTestRunner(optionflags=FLAGS).run(examples)
    assert results.failed == 0
    if path.name == "README.md":
        assert results.attempted > 0, "the README shows no example"
