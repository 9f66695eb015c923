"""docs/unsafe.md lists all unsafe code of the crate, and SECURITY.md all direct dependencies."""

import re
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
# The first line of what may have unsafe code in it, and its name.
ITEM = re.compile(
    r"""^(\s*)(?:pub(?:\(\w+\))?\ |const\ |unsafe\ |extern\ "C"\ )*
    (?:fn|impl|mod|trait|macro_rules!)\ (?:[\w:]+\ for\ )?(\$?\w+)""",
    re.VERBOSE,
)
# Types of pointers to functions, `unsafe fn(...)`, oblige nobody.
UNSAFE = re.compile(
    r"""(?P<block>\bunsafe\ \{)|(?P<impl>\bunsafe\ impl\b)|(?P<fn>\bunsafe\ (?:extern\ "C"\ )?fn\ )
    |(?P<extern>\bunsafe\ extern\ "C"\ \{)|(?P<pointer>\bunsafe\ (?:extern\ "C"\ )?fn\()
    |(?P<attribute>\#\[unsafe\()
    |(?P<unknown>\bunsafe\b)""",
    re.VERBOSE,
)


def unsafe_code(source: str) -> dict[str, str]:
    """Return what unsafe code each item of a source has, as in {"Job": "2 impls"}.

    rustfmt indents what is in an item. An attribute belongs to the item after it.
    """
    found: dict[str, Counter[str]] = defaultdict(Counter)
    around: list[tuple[int, str]] = []
    waiting: Counter[str] = Counter()
    for line in source.splitlines():
        code = re.sub(r"//.*", "", line)
        while (shorter := re.sub(r"<[^<>]*>", "", code)) != code:
            code = shorter
        kinds = Counter(str(match.lastgroup) for match in UNSAFE.finditer(code))
        indent = len(code) - len(code.lstrip())
        if item := ITEM.match(code):
            around = [(at, name) for at, name in around if at < indent] + [(indent, item[2])]
            kinds, waiting = kinds + waiting, Counter()
        elif kinds["attribute"]:
            waiting += kinds
            continue
        name = "::".join(name for at, name in around if at < indent or item) or "top level"
        found[name] += kinds
        del found[name]["pointer"]
    in_words = {
        name: [kind if n == 1 else f"{n} {kind}s" for kind, n in kinds.items()]
        for name, kinds in found.items()
    }
    return {name: ", ".join(words) for name, words in in_words.items() if words}


def listed(document: str) -> dict[str, dict[str, str]]:
    """Return the rows of the tables under the headings of files: the item and its unsafe code."""
    tables: dict[str, dict[str, str]] = {}
    for section in document.split("\n### ")[1:]:
        file, rows = section.split("\n", 1)
        cells = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", rows, re.MULTILINE)
        tables[file.strip("`")] = dict(cells)
    return tables


def test_all_unsafe_code_is_listed_with_what_must_hold() -> None:
    code = {
        path.relative_to(ROOT).as_posix(): found
        for path in (ROOT / "src").rglob("*.rs")
        if (found := unsafe_code(path.read_text()))
    }
    assert listed((ROOT / "docs" / "unsafe.md").read_text()) == code
    assert "unknown" not in str(code)


def test_all_direct_dependencies_are_reviewed() -> None:
    """A dependency that nobody gave a reason for."""
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    crate = tomllib.loads((ROOT / "Cargo.toml").read_text())
    assert sorted(rows) == sorted(crate["dependencies"])
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert [re.match(r"\w+", name)[0] for name in package["project"]["dependencies"]] == ["numpy"]
