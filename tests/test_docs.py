"""What the documentation shows is what happens: docstrings and the README, run as doctests."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path
from typing import Any

import fastdrop as fd
import numpy as np
import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
NAMES = {"np": np, "fd": fd}  # what a docstring may take as imported; a document may not

# Modules that run a command line.
RUNS = {"fastdrop.__main__", "fastdrop.torch.__main__"}

PAGES = [path for path in sorted(ROOT.glob("docs/**/*.md")) if "_build" not in path.parts]
# Pages without code, those of measurements and lists, and those that Sphinx makes from docstrings.
WITHOUT_EXAMPLES = {
    "docs/changelog.md",
    "docs/contributing.md",
    "docs/family.md",
    "docs/guide/index.md",
    "docs/libraries.md",
    "docs/performance.md",
    "docs/more.md",
    "docs/reliability.md",
    "docs/statistics.md",
    "docs/stream.md",
    "docs/unsafe.md",
    "docs/why/index.md",
    *(f"docs/reference/{path.name}" for path in ROOT.glob("docs/reference/*.md")),
}

MODULES = ["fastdrop"] + [
    module.name
    for module in pkgutil.walk_packages(fd.__path__, "fastdrop.")
    if module.name not in RUNS
]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def needing(thing: Any, *names: str) -> Any:
    """Mark a parameter by the libraries that it needs, so that CI can run these alone."""
    return pytest.param(thing, marks=[getattr(pytest.mark, name) for name in names])


def libraries(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return [name for name in ("torch", "jax") if f"import {name}" in text]


@pytest.mark.parametrize(
    "name",
    [needing(name, *{"torch", "jax"}.intersection(name.split(".")[1:2])) for name in MODULES],
)
def test_docstrings_show_what_happens(name: str) -> None:
    names: dict[str, Any] = dict(NAMES)
    if name.startswith("fastdrop.torch"):
        names["torch"] = pytest.importorskip("torch", reason="PyTorch is not installed")
        names["F"] = importlib.import_module("fastdrop.torch").functional
        names["fastdrop"] = fd
    if name == "fastdrop.torch.transformers":
        pytest.importorskip("transformers", reason="transformers is not installed")
    if name.startswith("fastdrop.jax"):
        names["jax"] = pytest.importorskip("jax", reason="JAX is not installed")
        for library in ("flax", "equinox") if name != "fastdrop.jax" else ():
            pytest.importorskip(library, reason=f"{library} is not installed")
        names["fastdrop"] = fd
    module = importlib.import_module(name)
    results = doctest.testmod(module, extraglobs=names, optionflags=FLAGS)
    assert results.failed == 0


@pytest.mark.parametrize(
    "thing",
    [getattr(fd, name) for name in fd.__all__ if name != "__version__"]
    + [fd.Mask.region, fd.Key.fold_in],
)
def test_public_names_have_examples_that_run(thing: object) -> None:
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
    "path",
    [needing(path, *libraries(path)) for path in [ROOT / "README.md", *PAGES]],
    ids=named,
)
def test_documents_show_what_happens(path: Path) -> None:
    text = re.sub(r"^```.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if "import torch" in text:
        pytest.importorskip("torch", reason="PyTorch is not installed")
    if "import jax" in text:
        pytest.importorskip("flax", reason="JAX or Flax is not installed")
    examples = doctest.DocTestParser().get_doctest(text, {}, path.name, str(path), 0)
    results = doctest.DocTestRunner(optionflags=FLAGS).run(examples)
    assert results.failed == 0
    if named(path) not in WITHOUT_EXAMPLES:
        assert results.attempted > 0, "the page shows no example"


def test_lines_of_the_cheat_sheet_run() -> None:
    text = (ROOT / "docs" / "guide" / "cheatsheet.md").read_text(encoding="utf-8")
    x = np.ones((4, 8, 5, 5), np.float32)
    names: dict[str, Any] = {"fd": fd, "np": np, "x": x, "dy": x, "residual": x, "key": fd.Key(0)}
    names |= {"p": 0.5, "shape": (4, 4), "start": (0, 0), "mask": fd.Mask(x.shape, 0.5, fd.Key(0))}
    exec("drop = fd.Dropout(); state = drop.state_dict(); model = lambda x: drop(x)", names)
    table = re.search(r"^\| to do .*?\n\n", text, re.MULTILINE | re.DOTALL)
    assert table is not None
    spans = re.findall("`([^`]+)`", table[0])
    code = [span for span in spans if "(" in span and "fastdrop." not in span]
    assert len(code) > 25
    for line in code:
        exec(line, names)


def test_snippets_of_the_tutorial_have_at_most_twenty_lines() -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert snippets
    assert all(snippet.count("\n") <= 20 for snippet in snippets)


def test_the_pages_are_found() -> None:
    """Would catch a pattern that matches nothing, and an excuse for a page that is gone."""
    names = {named(path) for path in PAGES}
    assert {"docs/index.md", "docs/tutorial.md", "docs/guide/seeds.md"} <= names
    assert names >= WITHOUT_EXAMPLES, "a page that is gone is excused from examples"
    assert not any(name.startswith("docs/_build/") for name in names)


def public(module: str) -> list[str]:
    """Return the public names of a module, which may need what is not installed."""
    path = ROOT.joinpath("python", "fastdrop", *module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    body = ast.parse(file.read_text(encoding="utf-8")).body
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    functions = [node.name for node in body if isinstance(node, ast.FunctionDef)]
    return [name for name in functions if not name.startswith("_")]


def described(path: Path) -> list[str]:
    """Return the names that a page of the reference describes."""
    text = path.read_text(encoding="utf-8")
    names = re.findall(r"^\.\. autoclass:: (\S+)$", text, re.MULTILINE)
    for module, listed in re.findall(r"^\.\. [\w-]+:: (\S+)\n\n((?:   .*\n)+)", text, re.MULTILINE):
        names += [f"{module}.{entry.strip().partition('(')[0]}" for entry in listed.splitlines()]
    return names


def test_the_reference_describes_every_public_name_once() -> None:
    """Each name in one place, those of modules that are not installed as well."""
    pages = sorted((ROOT / "docs" / "reference").glob("*.md"))
    names = {f"fastdrop.{name}" for name in fd.__all__}
    names -= {"fastdrop.__version__", "fastdrop.schedules", "fastdrop.monte_carlo"}
    modules = ["schedules", "monte_carlo", "dask", "sklearn", "jax"]
    modules += ["jax.nnx", "jax.linen", "jax.equinox"]
    for module in [*modules, "torch", "torch.functional", "torch.transformers"]:
        names |= {f"fastdrop.{module}.{name}" for name in public(module)}
    names -= {"fastdrop.monte_carlo.MonteCarlo", "fastdrop.torch.functional"}  # are elsewhere
    assert sorted(name for path in pages for name in described(path)) == sorted(names)


def test_the_index_of_the_reference_lists_the_names_of_every_page() -> None:
    text = (ROOT / "docs" / "reference" / "index.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs" / "reference").glob("*.md"):
        names = described(path)
        if any(name.removeprefix("fastdrop.") in fd.__all__ for name in names):
            assert f".. names:: {path.stem}\n" in text, path.stem
        elif names:
            assert f"({path.stem}.md)" in text, path.stem


def test_the_drawings_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("drawings", ROOT / "docs" / "drawings.py")
    assert spec is not None
    assert spec.loader is not None
    drawings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawings)
    assert len(drawings.DRAWINGS) == len(list((ROOT / "docs" / "figures").glob("*.svg")))
    for path, draw in drawings.DRAWINGS.items():
        assert path.read_text(encoding="utf-8") == draw(), path.name


# The table of members and doors


def _names(path: str) -> set[str]:
    """Return the names that a module of the package defines or imports."""
    body = ast.parse((ROOT / "python" / "fastdrop" / path).read_text(encoding="utf-8")).body
    found = {one.name for one in body if isinstance(one, ast.FunctionDef | ast.ClassDef)}
    found |= {
        name.asname or name.name
        for one in body
        if isinstance(one, ast.ImportFrom)
        for name in one.names
    }
    return {name for name in found if name[0] != "_"}


def _doors() -> list[set[str]]:
    """Return the public names of each column of the table."""
    torch = _names("torch/functional.py") | _names("torch/__init__.py")
    flax, equinox = _names("jax/nnx.py") & _names("jax/linen.py"), _names("jax/equinox.py")
    jax = _names("jax/__init__.py") | (flax & equinox) | {f"nnx.{name}" for name in flax}
    tree = ast.parse((ROOT / "python/fastdrop/dask.py").read_text(encoding="utf-8"))
    dask = next(
        ast.literal_eval(one.value)
        for one in tree.body
        if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == "__all__"
    )
    rust = set()
    for path in (ROOT / "src").glob("**/*.rs"):
        text = path.read_text(encoding="utf-8")
        rust |= set(re.findall(r"pub (?:fn|struct) (\w+)", text))
        rust |= set(re.findall(r"^    (\w+), \"\w+\", \[", text, re.MULTILINE))
    return [set(fd.__all__), torch, jax, set(dask), rust]


def test_the_table_of_the_family_says_where_each_member_is() -> None:
    """Would catch a member that comes to a library, or leaves it, without the table's knowing."""
    from members import ROWS

    doors, options = _doors(), {"broadcast_dims"}
    page = (ROOT / "docs" / "family.md").read_text(encoding="utf-8")
    table = page.partition("## Where each member is")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("| `")
    ]
    layers = {row.function.__name__: row.layer.__name__ for row in ROWS}
    assert {row[0] for row in rows} == {f"`{name}`, `{layers[name]}`" for name in layers}
    for row in rows:
        member = row[0].split("`")[1]
        for cell, known in zip(row, doors, strict=True):
            named = [name.rpartition("::")[2] for name in re.findall(r"`([\w:.]+)`", cell)]
            assert set(named) - options - {"feature_dropout"} <= known, (member, cell)
            assert cell, f"{member} has an empty cell"
            for note in re.findall(r"^\(\w\)$", cell):
                assert f"\n{note} " in table
            if member in known:
                assert f"`{member}`" in cell, (member, cell)
            if layers[member] in known:
                assert f"`{layers[member]}`" in cell, (member, cell)
