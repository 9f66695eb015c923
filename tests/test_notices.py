"""Dependencies: licences and versions in what wheels carry, and their review in SECURITY.md."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import fastdrop as fd
import make_notices
import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
INSTALL = ROOT / "docs" / "install.md"


def test_every_linked_library_has_its_notice() -> None:
    """Fails after a change of dependencies, until `make notices` has run."""
    text = make_notices.PATH.read_text(encoding="utf-8")
    named = re.findall(r"^(\S+ \d\S*) \(.+\)$", text, flags=re.MULTILINE)
    assert sorted(named) == make_notices.linked()


def test_the_bill_of_materials_is_of_the_linked_libraries() -> None:
    """Another version in the bill than in the module, or one for each build."""
    assert make_notices.BILL.read_text(encoding="utf-8") == make_notices.bill()


def test_the_version_is_that_of_the_crate_everywhere() -> None:
    """A release whose citation or installation page names another version."""
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    assert fd.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^version: +{re.escape(version)}$", INSTALL.read_text(), re.MULTILINE)


def test_all_direct_dependencies_are_reviewed() -> None:
    """A dependency that nobody gave a reason for."""
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    crate = tomllib.loads((ROOT / "Cargo.toml").read_text())
    assert sorted(rows) == sorted(crate["dependencies"])
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert [re.match(r"\w+", name)[0] for name in package["project"]["dependencies"]] == ["numpy"]
