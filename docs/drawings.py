"""Draw the SVG files of figures/: random bits, masks, and the time of a call.

`python docs/drawings.py` writes them. Bits and masks are real, from `tests/reference.py`, which
needs NumPy only; times are those of the table in performance.md. Colours are those of the theme
where a page embeds the file; by itself, a drawing is black on white.
"""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import reference as ref  # noqa: E402

FIGURES = ROOT / "docs" / "figures"
SEED, P, ELEMENTS = 12, 0.3, 10
WIDTH, CELL, LEFT, TOP, LABELS = 360, 25, 98, 52, 12

PAPER = "var(--pst-color-background, #fff)"
BASE = "var(--pst-color-text-base, #000)"
MUTED = "var(--pst-color-text-muted, #555)"
LINE = "var(--pst-color-border, #bbb)"
KEPT = "var(--pst-color-primary, #0a7d91)"
DROPPED = "var(--pst-color-danger, #b3261e)"


def bits(number: int, count: int) -> list[int]:
    """Return the first binary digits of a 64-bit number."""
    return [number >> (ref.PLANES - 1 - plane) & 1 for plane in range(count)]


def text(x: float, y: float, words: str, **attributes: object) -> str:
    """Return a piece of text, in the middle of x."""
    options = {"text_anchor": "middle", "fill": BASE} | attributes
    return f"<text x='{x:g}' y='{y:g}' {written(options)}>{words}</text>"


def box(x: float, y: float, size: float, **attributes: object) -> str:
    """Return a square."""
    return f"<rect x='{x:g}' y='{y:g}' width='{size:g}' height='{size:g}' {written(attributes)}/>"


def written(attributes: dict[str, object]) -> str:
    """Return attributes as SVG has them."""
    return " ".join(f"{name.replace('_', '-')}='{value}'" for name, value in attributes.items())


def column(number: int, uniform: int, threshold: list[int]) -> Iterator[str]:
    """Draw the bits of one element, from plane 0 to the one that decides."""
    x = LEFT + (number + 0.5) * CELL
    yield text(x, TOP - 10, str(number), fill=MUTED)
    dropped = uniform < ref.threshold(P)
    colour = DROPPED if dropped else KEPT
    undecided = True
    for plane, (bit, limit) in enumerate(
        zip(bits(uniform, len(threshold)), threshold, strict=True)
    ):
        y = TOP + plane * CELL
        if undecided and bit != limit:
            yield box(x - 11, y + 1.5, 22, rx=4, fill=colour)
            yield text(x, y + 17, str(bit), fill=PAPER, font_weight="bold")
        elif undecided:
            yield box(x - 11, y + 1.5, 22, rx=4, fill="none", stroke=LINE)
            yield text(x, y + 17, str(bit))
        else:
            yield text(x, y + 17, str(bit), fill=MUTED, opacity=0.5)
        undecided &= bit == limit
    y = TOP + len(threshold) * CELL + 22
    yield text(x, y, "0" if dropped else "x", fill=colour, font_weight="bold", font_size=15)


def written_out(title: str, width: float, height: float, parts: list[str]) -> str:
    """Return the text of an SVG file."""
    head = (
        f"<svg class='drawing' role='img' aria-label='{title}' viewBox='0 0 {width:g} {height:g}' "
        "xmlns='http://www.w3.org/2000/svg' font-family='sans-serif' font-size='13'>"
    )
    paper = f"<rect width='100%' height='100%' fill='{PAPER}'/>"
    return "\n".join([head, paper, *parts, "</svg>"]) + "\n"


def decisions() -> str:
    """Draw how random bits decide which elements are dropped."""
    key = ref.key_from_seed(SEED)
    uniforms = [int(uniform) for uniform in ref.uniforms(key, np.arange(ELEMENTS))]
    threshold = ref.threshold(P)
    needed = 1 + max(ref.PLANES - (uniform ^ threshold).bit_length() for uniform in uniforms)
    limits = bits(threshold, needed)
    height = TOP + needed * CELL + 34
    title = f"Bits of the first {ELEMENTS} elements, and those of p = {P}"
    parts = [
        text(LEFT - 22, TOP - 10, "p", font_style="italic"),
        text(LEFT + ELEMENTS * CELL / 2, 16, "element", fill=MUTED),
    ]
    for plane, limit in enumerate(limits):
        y = TOP + plane * CELL + 17
        parts.append(text(2, y, f"plane {plane}", text_anchor="start", fill=MUTED))
        parts.append(text(LEFT - 22, y, str(limit), font_weight="bold"))
    parts.append(text(2, TOP + needed * CELL + 22, "result", text_anchor="start", fill=MUTED))
    for number, uniform in enumerate(uniforms):
        parts += column(number, uniform, limits)
    return written_out(title, WIDTH, height, parts)


def masks() -> str:
    """Draw three masks of 12 rows and 12 columns, from one key."""
    side, cell, gap = 12, 9.0, 18.0
    key = ref.key_from_seed(0)
    panels = (
        ("p = 0.5", 0.5, np.arange(side * side).reshape(side, side)),
        ("p = 0.2", 0.2, np.arange(side * side).reshape(side, side)),
        ("rows, p = 0.5", 0.5, np.repeat(np.arange(side), side).reshape(side, side)),
    )
    parts = []
    for number, (label, p, indices) in enumerate(panels):
        left = number * (side * cell + gap)
        parts.append(text(left + side * cell / 2, 12, label))
        for place, keep in enumerate(ref.kept(key, p, indices.ravel())):
            row, column = divmod(place, side)
            fill = KEPT if keep else LINE
            parts.append(
                box(
                    left + column * cell,
                    20 + row * cell,
                    cell - 1,
                    fill=fill,
                    opacity=1 if keep else 0.5,
                )
            )
    title = "Masks of 12 by 12 elements: dark elements are kept, pale ones dropped"
    return written_out(title, 3 * side * cell + 2 * gap, 21 + side * cell, parts)


def times() -> str:
    """Draw the time of one call for 2^20 elements and p = 0.5, over that of fastdrop."""
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    copies = re.search(r"^\| p = 0\.5, AVX-512 \|([^\n]*)", page, re.MULTILINE)
    table = re.search(r"^\| p = 0\.5 \|[^\n]*\n[^\n]*\n((?:\|[^\n]*\n)+)", page, re.MULTILINE)
    assert copies is not None
    assert table is not None
    rows = [line.strip("|\n").split("|") for line in table[1].splitlines()]
    bars = [("np.copyto", 1 / float(copies[1].split("|")[2])), ("fastdrop", 1.0)]
    names = {"`x * (rng": "NumPy", "float32 uniforms": "NumPy, preallocated"}
    for cells in rows:
        name = next((to for start, to in names.items() if cells[0].strip().startswith(start)), None)
        bars.append((name or cells[0].strip(), float(cells[3])))
    left, full = 154, 170  # the longest name fits in the widest common fonts
    longest = max(value for _, value in bars)
    parts = []
    for number, (name, value) in enumerate(sorted(bars, key=lambda bar: bar[1])):
        y, width = 6 + number * 20, full * value / longest
        parts.append(text(left - 6, y + 12, name, text_anchor="end"))
        fill = KEPT if name == "fastdrop" else MUTED
        parts.append(f"<rect x='{left}' y='{y}' width='{width:.1f}' height='14' fill='{fill}'/>")
        parts.append(text(left + width + 5, y + 12, f"{value:.2g}", text_anchor="start"))
    title = "Time of one call for 2^20 elements and p = 0.5, over that of fastdrop"
    return written_out(title, WIDTH, 10 + 20 * len(bars), parts)


DRAWINGS: dict[Path, Callable[[], str]] = {
    FIGURES / "bernoulli.svg": decisions,
    FIGURES / "masks.svg": masks,
    FIGURES / "times.svg": times,
}

if __name__ == "__main__":
    for path, draw in DRAWINGS.items():
        path.write_text(draw(), encoding="utf-8")
