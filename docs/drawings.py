"""Draw figures/bernoulli.svg, the drawing of how.md: how random bits decide who is dropped.

`python docs/drawings.py` writes it. The bits are real: those of the first elements of a mask, from
`tests/reference.py`, which needs NumPy only. Colours are those of the theme, where the page embeds
the file; by itself it is black on white.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import reference as ref  # noqa: E402

FILE = ROOT / "docs" / "figures" / "bernoulli.svg"
SEED, P, ELEMENTS = 12, 0.3, 10
WIDTH, CELL, LEFT, TOP, LABELS = 360, 25, 98, 52, 12

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
            fill = "var(--pst-color-background, #fff)"
            yield text(x, y + 17, str(bit), fill=fill, font_weight="bold")
        elif undecided:
            yield box(x - 11, y + 1.5, 22, rx=4, fill="none", stroke=LINE)
            yield text(x, y + 17, str(bit))
        else:
            yield text(x, y + 17, str(bit), fill=MUTED, opacity=0.5)
        undecided &= bit == limit
    y = TOP + len(threshold) * CELL + 22
    yield text(x, y, "0" if dropped else "x", fill=colour, font_weight="bold", font_size=15)


def drawing() -> str:
    """Return the drawing as SVG."""
    key = ref.key_from_seed(SEED)
    uniforms = [int(uniform) for uniform in ref.uniforms(key, np.arange(ELEMENTS))]
    threshold = ref.threshold(P)
    needed = 1 + max(ref.PLANES - (uniform ^ threshold).bit_length() for uniform in uniforms)
    limits = bits(threshold, needed)
    height = TOP + needed * CELL + 34
    title = f"Bits of the first {ELEMENTS} elements, and those of p = {P}"
    parts = [
        f"<svg class='drawing' role='img' aria-label='{title}' viewBox='0 0 {WIDTH} {height}' "
        "xmlns='http://www.w3.org/2000/svg' font-family='sans-serif' font-size='13'>",
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
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    FILE.write_text(drawing(), encoding="utf-8")
