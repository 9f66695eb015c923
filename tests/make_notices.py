"""Write the licences of what the extension module links, `LICENSE-THIRD-PARTY`.

Run `python tests/make_notices.py` after a change of dependencies. Wheels carry the file beside the
project's own licences; the test suite checks that it names every crate.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATH = ROOT / "LICENSE-THIRD-PARTY"
FEATURES = ["--features", "python", "--locked"]
TARGETS = [
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-unknown-linux-musl",
    "aarch64-apple-darwin",
    "x86_64-pc-windows-msvc",
]
ABOUT = """\
The compiled module of fastdrop contains these libraries. Where a library offers a choice, it is
used under the terms that stand here.
"""


def linked() -> list[str]:
    """Return name and version of each crate whose code is in the module, in order."""
    command = ["cargo", "tree", *FEATURES, "--edges", "normal,no-proc-macro", "--prefix", "none"]
    command += ["--format", "{p}", *(f"--target={target}" for target in TARGETS)]
    output = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout
    crates = {" ".join(line.split()[:2]).replace(" v", " ") for line in output.splitlines() if line}
    return sorted(crate for crate in crates if not crate.startswith("fastdrop "))


def texts(folder: Path) -> list[str]:
    """Return the licence of a crate: under the MIT terms if there is a choice."""
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name.upper().startswith(("LICEN", "COPYING", "NOTICE"))
    ]
    chosen = [path for path in files if "MIT" in path.name.upper()] or files
    if not chosen:
        raise RuntimeError(f"{folder.name} comes without a licence text")
    return [path.read_text(encoding="utf-8").strip() for path in chosen]


def notices() -> str:
    """Return the text of the file."""
    command = ["cargo", "metadata", "--format-version", "1", *FEATURES]
    output = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout
    packages = {f"{one['name']} {one['version']}": one for one in json.loads(output)["packages"]}
    sections: dict[str, list[str]] = {}
    for crate in linked():
        package = packages[crate]
        text = "\n\n".join(texts(Path(package["manifest_path"]).parent))
        sections.setdefault(text, []).append(f"{crate} ({package['license']})")
    parts = ["\n".join([*crates, "", text]) for text, crates in sections.items()]
    return ("\n\n" + "=" * 80 + "\n\n").join([ABOUT.strip(), *parts]) + "\n"


if __name__ == "__main__":
    PATH.write_text(notices(), encoding="utf-8", newline="\n")
