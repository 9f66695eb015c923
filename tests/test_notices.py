"""Dependencies: their licences, in the file that wheels carry, and their review in SECURITY.md."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import make_notices
import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]


def test_every_linked_library_has_its_notice() -> None:
    """Fails after a change of dependencies, until `make notices` has run."""
    text = make_notices.PATH.read_text(encoding="utf-8")
    named = re.findall(r"^(\S+ \d\S*) \(.+\)$", text, flags=re.MULTILINE)
    assert sorted(named) == make_notices.linked()


def test_all_direct_dependencies_are_reviewed() -> None:
    """A dependency that nobody gave a reason for."""
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    crate = tomllib.loads((ROOT / "Cargo.toml").read_text())
    assert sorted(rows) == sorted(crate["dependencies"])
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert [re.match(r"\w+", name)[0] for name in package["project"]["dependencies"]] == ["numpy"]
