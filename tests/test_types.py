from __future__ import annotations

from pathlib import Path

import make_stubs
import pytest


@pytest.mark.once
@pytest.mark.parametrize("path", make_stubs.STUBS, ids=lambda path: path.parent.name)
def test_stubs_are_those_of_the_signatures(path: Path) -> None:
    """Fails after a change of signatures, until `make stubs` has run."""
    assert path.read_text(encoding="utf-8") == make_stubs.STUBS[path]()
