"""The licences of linked libraries: the file that wheels carry names every one of them."""

from __future__ import annotations

import re

import make_notices
import pytest


@pytest.mark.once
def test_every_linked_library_has_its_notice() -> None:
    """Fails after a change of dependencies, until `make notices` has run."""
    text = make_notices.PATH.read_text(encoding="utf-8")
    named = re.findall(r"^(\S+ \d\S*) \(.+\)$", text, flags=re.MULTILINE)
    assert sorted(named) == make_notices.linked()
