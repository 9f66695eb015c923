"""Attention with dropout, forward and backward, beside torch's kernels.

    python benches/attention.py
    python benches/attention.py --rounds 5 --cases 0 2     # a look at some shapes

All calls of a round follow one another; a factor is the median over rounds of fastdrop's time over
torch's, with quartiles. "flash" is torch's fused kernel without dropout, "torch" the path that it
takes with dropout. fastdrop runs at p = 0.1 on the same memory, through NumPy. "float32" is
fastdrop itself on the same numbers in float32. With one thread, the time is that of the CPU, which
other processes disturb less.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import fastdrop as fd
import numpy as np
import torch
from torch.nn import functional as theirs

P = 0.1
CASES = [
    (16, 8, 128, 32),
    (8, 12, 128, 64),
    (8, 12, 512, 64),
    (2, 12, 1024, 64),
    (1, 12, 2048, 64),
    (1, 12, 4096, 64),
]


def arrays(shape: tuple[int, int, int, int], dtype: torch.dtype) -> list[torch.Tensor]:
    """Return q, k, v and dy, in the layout of a model: heads side by side in memory."""
    batch, heads, length, features = shape
    return [torch.randn(batch, length, heads, features).to(dtype).transpose(1, 2) for _ in range(4)]


def of_torch(tensors: list[torch.Tensor], p: float, causal: bool) -> Callable[[], object]:
    """Return a call of torch, forward and backward."""
    q, k, v, dy = tensors
    inputs = [x.detach().requires_grad_() for x in (q, k, v)]

    def run() -> object:
        y = theirs.scaled_dot_product_attention(*inputs, dropout_p=p, is_causal=causal)
        return torch.autograd.grad(y, inputs, dy)

    return run


def as_numpy(tensor: torch.Tensor) -> Any:
    """Return a view of a tensor."""
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def of_fastdrop(tensors: list[torch.Tensor], p: float, causal: bool) -> Callable[[], object]:
    """Return the same call of fastdrop."""
    q, k, v, dy = map(as_numpy, tensors)
    key = fd.Key(0)

    def run() -> object:
        y, lse = fd.scaled_dot_product_attention(
            q, k, v, p, is_causal=causal, rng=key, return_lse=True
        )
        return fd.scaled_dot_product_attention_backward(
            dy, q, k, v, y, lse, p, is_causal=causal, rng=key
        )

    return run


def rounds_of(
    calls: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """Return the seconds of each call in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for turn in range(rounds):
        names = list(calls)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = clock()
            calls[name]()
            seconds[name].append(clock() - start)
    return {name: np.array(several) for name, several in seconds.items()}


def quartiles(one: Any, other: Any) -> str:
    """Return the median of a ratio and its quartiles."""
    low, median, high = np.quantile(one / other, [0.25, 0.5, 0.75])
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)))
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--no-torch", action="store_true", help="leave out torch with dropout")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    fd.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    print(f"{options.dtype}, {options.threads} threads, p = {P}, causal: {options.causal}\n")
    others = ["flash", "float32", "torch"]
    print(f"| batch, heads, length, features | fastdrop, ms | over {' | over '.join(others)} |")
    print("| --- | --- | --- | --- | --- |")
    for case in options.cases:
        tensors = arrays(CASES[case], getattr(torch, options.dtype))
        calls = {
            "fastdrop": of_fastdrop(tensors, P, options.causal),
            "flash": of_torch(tensors, 0.0, options.causal),
        }
        if options.dtype != "float32":
            singles = [tensor.float() for tensor in tensors]
            calls["float32"] = of_fastdrop(singles, P, options.causal)
        if not options.no_torch:
            calls["torch"] = of_torch(tensors, P, options.causal)
        seconds = rounds_of(calls, options.rounds, clock)
        ours = seconds["fastdrop"]
        factors = [quartiles(ours, seconds[name]) if name in seconds else "" for name in others]
        shown = ", ".join(map(str, CASES[case]))
        print(f"| {shown} | {np.median(ours) * 1e3:.1f} | {' | '.join(factors)} |", flush=True)


if __name__ == "__main__":
    main()
