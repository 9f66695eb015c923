"""Set-up of the suite: hypothesis repeats itself, every CPU level is run.

With FASTDROP_SIMD in the environment the whole suite runs at that level alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastdrop import _core
from hypothesis import settings
from support import FORCED_LEVEL, LEVELS, running_on

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    if FORCED_LEVEL is not None and _core.simd() != FORCED_LEVEL:
        raise pytest.UsageError(f"FASTDROP_SIMD={FORCED_LEVEL}, but {_core.simd()} is in use")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what visits every level by itself: no other run needs to repeat it."""
    for item in items:
        if "level" in getattr(item, "fixturenames", ()):
            item.add_marker("once")


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each SIMD level this machine has."""
    with running_on(level=request.param):
        yield request.param


@pytest.fixture(params=[1, 3], ids=["1-thread", "3-threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """One thread, and a number that divides no power of two."""
    with running_on(threads=request.param):
        yield request.param
