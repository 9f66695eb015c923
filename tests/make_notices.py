"""Write the licences of what the extension module links, and a bill of these materials.

Run `python tests/make_notices.py` after a change of dependencies or of the version. Wheels carry
both files; the test suite checks that they name every crate. The bill is CycloneDX. Tools that make
one during the build write its folder, its time and a random number into the wheel.
"""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PATH = ROOT / "LICENSE-THIRD-PARTY"
BILL = ROOT / "fastdrop.cyclonedx.json"
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


def packages() -> dict[str, dict[str, Any]]:
    """Return Cargo's records of all crates, by name and version."""
    command = ["cargo", "metadata", "--format-version", "1", *FEATURES]
    output = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout
    return {f"{one['name']} {one['version']}": one for one in json.loads(output)["packages"]}


def notices() -> str:
    """Return the text of the licences."""
    known = packages()
    sections: dict[str, list[str]] = {}
    for crate in linked():
        package = known[crate]
        text = "\n\n".join(texts(Path(package["manifest_path"]).parent))
        sections.setdefault(text, []).append(f"{crate} ({package['license']})")
    parts = ["\n".join([*crates, "", text]) for text, crates in sections.items()]
    return ("\n\n" + "=" * 80 + "\n\n").join([ABOUT.strip(), *parts]) + "\n"


def bill() -> str:
    """Return the bill of materials: the package, and the crates that its module links."""
    known = packages()
    locked = tomllib.loads((ROOT / "Cargo.lock").read_text(encoding="utf-8"))["package"]
    sums = {f"{one['name']} {one['version']}": one.get("checksum") for one in locked}

    def component(crate: str) -> dict[str, Any]:
        name, version = crate.split()
        reference = f"pkg:cargo/{name}@{version}"
        return {
            "type": "library",
            "bom-ref": reference,
            "name": name,
            "version": version,
            **({"hashes": [{"alg": "SHA-256", "content": sums[crate]}]} if sums[crate] else {}),
            "licenses": [{"expression": known[crate]["license"].replace("/", " OR ")}],
            "purl": reference,
        }

    def dependencies(crate: str) -> dict[str, Any]:
        named = {one["name"] for one in known[crate]["dependencies"] if one["kind"] is None}
        used = [component(one)["bom-ref"] for one in crates[1:] if one.split()[0] in named]
        return {"ref": component(crate)["bom-ref"], "dependsOn": used}

    crates = [next(crate for crate in known if crate.startswith("fastdrop ")), *linked()]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(crates[0])},
        "components": [component(crate) for crate in crates[1:]],
        "dependencies": [dependencies(crate) for crate in crates],
    }
    return json.dumps(document, indent=1) + "\n"


if __name__ == "__main__":
    for path, text in ((PATH, notices()), (BILL, bill())):
        path.write_text(text, encoding="utf-8", newline="\n")
