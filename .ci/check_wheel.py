"""Check wheels: size, files, tags, README, and no path of the machine that built them.

`python .ci/check_wheel.py WHEEL... [--without PATH...]` prints a line for each wheel, or the first
fault. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import re
import zipfile
from pathlib import Path

MOST = 2_000_000
"""Size in bytes that no wheel may exceed."""
FILES = ("licenses/LICENSE-THIRD-PARTY", "sboms/fastdrop.cyclonedx.json")
TAGS = re.compile(r"cp3\d+t?-(abi3t?|cp3\d+t?)-(.*manylinux_2_\d+_|musllinux_1_2_|macosx_|win_).*")
README = Path(__file__).parent.parent / "README.md"
UNWINDER = b"libgcc_s.so.1"
"""What a module for glibc must link: exceptions of torch pass through it, so both need the same."""


def fault(path: Path, without: list[str]) -> str | None:
    """Return what is wrong with a wheel, if anything is."""
    if (size := path.stat().st_size) > MOST:
        return f"has {size:,} bytes, more than {MOST:,}"
    if not TAGS.fullmatch(path.stem.split("-", 2)[2]):
        return "has other tags"
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        for file in FILES:
            if not any(name.endswith(f".dist-info/{file}") for name in names):
                return f"lacks {file}"
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        description = wheel.read(metadata).decode().split("\n\n", 1)[-1]
        if description.strip() != README.read_text(encoding="utf-8").strip():
            return "describes itself by another text than README.md"
        for name in names:
            for text in without:
                if text.encode() in wheel.read(name):
                    return f"names {text} in {name}"
            if (
                name.endswith(".so")
                and "manylinux" in path.name
                and UNWINDER not in wheel.read(name)
            ):
                return f"has an unwinder of its own in {name}"
    return None


def main() -> None:
    """Check the wheels that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wheels", nargs="+", type=Path)
    parser.add_argument("--without", nargs="*", default=[], help="paths that must not occur")
    arguments = parser.parse_args()
    for path in arguments.wheels:
        if wrong := fault(path, arguments.without):
            raise SystemExit(f"{path.name} {wrong}")
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
