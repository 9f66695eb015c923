"""PyTorch with and without fastdrop: single calls, and steps of training.

    python benches/torch_step.py
    python benches/torch_step.py --models MLP cells --threads 2     # some models
    python benches/torch_step.py --rounds 2 --quick                 # a look

All cases of a round follow one another; a factor is the median over rounds of the ratio of two
times, with quartiles. Above 1, fastdrop is faster. "no dropout" is the same model with p = 0. With
one thread, the time is that of the CPU, which other processes disturb less. The models of
transformers need that library, and have random weights.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import fastdrop.torch as ft
import torch
from fastdrop._bench import machine, ratio, take_turns
from torch import Tensor, nn
from torch.nn import functional as theirs

Built = tuple[nn.Module, Callable[[], Tensor]]
"""A model, and a call of it on data."""


def progress(text: str) -> None:
    """Show on standard error what is being measured."""
    print(f"\r{text:<60}\r", end="", file=sys.stderr, flush=True)


def clock() -> Callable[[], float]:
    """Return the clock for the present number of threads."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def switch(case: str) -> None:
    """Install fastdrop for the cases that use it."""
    ft.install() if case in ("installed", "fused") else ft.uninstall()


# --- Single calls --------------------------------------------------------------------------------


def calls(exponent: int, p: float) -> dict[str, Callable[[], object]]:
    """Return calls that allocate the result, as torch does."""
    x = torch.randn(1 << exponent)
    return {
        "torch": lambda: theirs.dropout(x, p),
        "installed": lambda: theirs.dropout(x, p),
        "function": lambda: ft.functional.dropout(x, p),
    }


def calls_with_backward(exponent: int, p: float) -> dict[str, Callable[[], object]]:
    """Return the same with the backward pass."""
    x = torch.randn(1 << exponent, requires_grad=True)
    dy = torch.randn(1 << exponent)

    def both(function: Any) -> Callable[[], object]:
        return lambda: torch.autograd.grad(function(x, p), x, dy)

    return {
        "torch": both(theirs.dropout),
        "installed": both(theirs.dropout),
        "function": both(ft.functional.dropout),
    }


def table_of_calls(rounds: int, exponents: list[int]) -> None:
    """Print the factors of single calls."""
    print("F.dropout of torch over F.dropout after install, and over")
    print("fastdrop.torch.functional.dropout, float32:\n")
    print("| elements | p | installed | function | installed, with backward | function |")
    print("| --- | --- | --- | --- | --- | --- |")
    for exponent in exponents:
        for p in (0.5, 0.1):
            progress(f"2^{exponent} elements, p = {p}")
            seconds = 0.02 if exponent < 20 else 0.1
            factors = []
            for make in (calls, calls_with_backward):
                times = take_turns(
                    make(exponent, p), rounds=rounds, seconds=seconds, clock=clock(), before=switch
                )
                factors += [ratio(times, "torch", name) for name in ("installed", "function")]
            shown = " | ".join(f"{factor.median:.2f}" for factor in factors)
            print(f"| 2^{exponent} | {p} | {shown} |", flush=True)


# --- Models: functions of p and of the number of examples ----------------------------------------


def cnn(p: float, batch: int) -> Built:
    """Return two convolutions and a linear map."""
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Dropout(p),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Dropout(p),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    x = torch.randn(batch, 3, 32, 32)
    return model, lambda: model(x)


def mlp(p: float, batch: int) -> Built:
    """Return 784-1024-1024-10."""
    model = nn.Sequential(
        nn.Linear(784, 1024), nn.ReLU(), nn.Dropout(p),
        nn.Linear(1024, 1024), nn.ReLU(), nn.Dropout(p), nn.Linear(1024, 10),
    )  # fmt: skip
    x = torch.randn(batch, 784)
    return model, lambda: model(x)


def tiny(p: float, batch: int) -> Built:
    """Return 16-32-32-2."""
    model = nn.Sequential(
        nn.Linear(16, 32), nn.ReLU(), nn.Dropout(p),
        nn.Linear(32, 32), nn.ReLU(), nn.Dropout(p), nn.Linear(32, 2),
    )  # fmt: skip
    x = torch.randn(batch, 16)
    return model, lambda: model(x)


def cells(p: float, batch: int) -> Built:
    """Return a loop over 16 steps of a GRU cell, with dropout on its state."""
    model, dropout = nn.ModuleList([nn.GRUCell(16, 32), nn.Dropout(p)])
    x = torch.randn(16, batch, 16)

    def run() -> Tensor:
        state = torch.zeros(batch, 32)
        for step in x:
            state = dropout(model(step, state))
        return state

    return model, run


def lstm(p: float, batch: int) -> Built:
    """Return two layers of 256, with dropout on the inputs and between the layers."""
    model = nn.Sequential(nn.Dropout(p), nn.LSTM(128, 256, 2, dropout=p, batch_first=True))
    x = torch.randn(batch, 64, 128)
    return model, lambda: model(x)[0]


def encoder(p: float, batch: int) -> Built:
    """Return four layers of a transformer of width 256."""
    layer = nn.TransformerEncoderLayer(256, 4, 1024, p, batch_first=True)
    model = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    x = torch.randn(batch, 128, 256)
    return model, lambda: model(x)


class GraphAttention(nn.Module):
    """A layer of Velickovic et al., Graph Attention Networks, ICLR 2018, on a list of edges."""

    def __init__(self, inputs: int, heads: int, features: int, p: float) -> None:
        super().__init__()
        self.heads, self.features = heads, features
        self.project = nn.Linear(inputs, heads * features, bias=False)
        self.score = nn.Parameter(torch.randn(2, heads, features) * 0.1)
        self.of_inputs, self.of_weights = nn.Dropout(p), nn.Dropout(p)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Return the features of all nodes, (nodes, heads * features)."""
        source, target = edges
        h = self.project(self.of_inputs(x)).view(-1, self.heads, self.features)
        to, of = (h * self.score[0]).sum(-1), (h * self.score[1]).sum(-1)
        scores = theirs.leaky_relu(of[source] + to[target], 0.2)
        weights = (scores - scores.max().detach()).exp()
        sums = torch.zeros_like(to).index_add(0, target, weights)
        weights = self.of_weights(weights / sums[target])
        return torch.zeros_like(h).index_add(0, target, weights[..., None] * h[source]).flatten(1)


class GAT(nn.Module):
    """Two layers as in the paper: 8 heads of 8 features, then a head for each of 7 classes."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.first, self.second = GraphAttention(1433, 8, 8, p), GraphAttention(64, 1, 7, p)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Return the scores of the classes."""
        return self.second(theirs.elu(self.first(x, edges)), edges)


def gat(p: float, nodes: int) -> Built:
    """Return a GAT on a random graph with features and edges like those of Cora."""
    model, x = GAT(p), (torch.rand(nodes, 1433) < 0.0127).float()
    ends, loops = torch.randint(nodes, (2, 2 * nodes)), torch.arange(nodes).expand(2, -1)
    edges = torch.cat([ends, ends.flip(0), loops], 1)
    return model, lambda: model(x, edges)


class TabularBlock(nn.Module):
    """A layer of FT-Transformer (Gorishniy et al., NeurIPS 2021), which stores its weights."""

    def __init__(self, width: int, heads: int, p: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * 256), nn.Linear(256, width)
        self.of_weights, self.of_hidden, self.of_residual = (nn.Dropout(p) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, tokens, width)."""
        three = self.into(self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = three.transpose(1, 3).unbind(2)
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        attended = (self.of_weights(weights) @ v).transpose(1, 2).flatten(2)
        x = x + self.of_residual(self.out(attended))
        h, gate = self.wide(self.norm2(x)).chunk(2, -1)
        return x + self.of_residual(self.narrow(self.of_hidden(h * gate.relu())))


def tabular(p: float, batch: int) -> Built:
    """Return three layers of FT-Transformer for 20 numbers."""
    model = nn.Sequential(*(TabularBlock(192, 8, p) for _ in range(3)), nn.Linear(192, 1))
    scale, shift = nn.Parameter(torch.randn(20, 192)), nn.Parameter(torch.randn(20, 192))
    x = torch.randn(batch, 20, 1)
    return model, lambda: model(x * scale + shift)


def bert(p: float, batch: int, length: int) -> Built:
    """Return two layers of the width of BERT small."""
    from transformers import BertConfig, BertModel

    model = BertModel(
        BertConfig(
            vocab_size=1000, hidden_size=512, num_attention_heads=8, intermediate_size=2048,
            num_hidden_layers=2, hidden_dropout_prob=p, attention_probs_dropout_prob=p,
        ),
        add_pooling_layer=False,
    )  # fmt: skip
    ids = torch.randint(1000, (batch, length))
    return model, lambda: model(ids)[0]


def bert_short(p: float, batch: int) -> Built:
    """Return BERT on 128 tokens."""
    return bert(p, batch, 128)


def bert_long(p: float, batch: int) -> Built:
    """Return BERT on 512 tokens."""
    return bert(p, batch, 512)


def t5(p: float, batch: int) -> Built:
    """Return two layers of encoder and decoder of the width of T5 small."""
    from transformers import T5Config, T5Model

    model = T5Model(T5Config(vocab_size=1000, num_layers=2, dropout_rate=p))
    ids = torch.randint(1000, (batch, 64))
    return model, lambda: model(input_ids=ids, decoder_input_ids=ids)[0]


def vit(p: float, batch: int) -> Built:
    """Return four layers of the width of ViT tiny."""
    from transformers import ViTConfig, ViTModel

    model = ViTModel(
        ViTConfig(
            image_size=64, patch_size=8, hidden_size=192, num_attention_heads=3,
            intermediate_size=768, num_hidden_layers=4, hidden_dropout_prob=p,
            attention_probs_dropout_prob=p,
        ),
        add_pooling_layer=False,
    )  # fmt: skip
    x = torch.randn(batch, 3, 64, 64)
    return model, lambda: model(x)[0]


def swin(p: float, batch: int) -> Built:
    """Return two stages of Swin tiny, whose windows are 7 x 7."""
    from transformers import SwinConfig, SwinModel

    model = SwinModel(
        SwinConfig(
            image_size=56, embed_dim=96, depths=[2, 2], num_heads=[3, 6], drop_path_rate=0.0,
            hidden_dropout_prob=p, attention_probs_dropout_prob=p,
        ),
        add_pooling_layer=False,
    )  # fmt: skip
    x = torch.randn(batch, 3, 56, 56)
    return model, lambda: model(x)[0]


MODELS: dict[str, tuple[Callable[[float, int], Built], float, int, str]] = {
    "CNN": (cnn, 0.1, 64, "2 convolutions, 64 images of 32 x 32"),
    "MLP": (mlp, 0.1, 128, "784-1024-1024-10, batch 128"),
    "encoder": (encoder, 0.1, 16, "4 layers, d 256, 16 x 128 tokens"),
    "BERT-128": (bert_short, 0.1, 8, "2 layers, d 512, 8 x 128 tokens"),
    "BERT-512": (bert_long, 0.1, 2, "2 layers, d 512, 2 x 512 tokens"),
    "T5": (t5, 0.1, 8, "2 + 2 layers, d 512, 8 x 64 tokens"),
    "ViT": (vit, 0.1, 16, "4 layers, d 192, 16 images of 64 x 64"),
    "Swin": (swin, 0.1, 16, "2 + 2 layers, d 96, 16 images of 56 x 56"),
    "LSTM": (lstm, 0.2, 32, "2 layers, d 256, 32 x 64 steps"),
    "GAT": (gat, 0.6, 2708, "2 layers, Cora's size"),
    "FT-Transformer": (tabular, 0.1, 256, "3 layers, d 192, 20 features, batch 256"),
    "tiny-8": (tiny, 0.1, 8, "16-32-32-2, batch 8"),
    "tiny-32": (tiny, 0.1, 32, "16-32-32-2, batch 32"),
    "cells": (cells, 0.1, 8, "16 steps of a GRU cell, d 32, batch 8"),
}
"""For each model its function, p, the number of examples, and what the table says of it."""


def step(built: Built) -> Callable[[], object]:
    """Return a step of training."""
    model, call = built
    optimizer = torch.optim.SGD(model.train().parameters(), 1e-4)

    def run() -> None:
        loss = call().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def steps(build: Callable[[float, int], Built], p: float, size: int) -> dict[str, Any]:
    """Return the steps to compare. All models have the same weights and data."""

    def made(p: float, fuse: bool = False) -> Callable[[], object]:
        torch.manual_seed(0)
        model, call = build(p, size)
        return step((ft.fuse(model) if fuse else model, call))

    return {
        "torch": made(p), "installed": made(p), "fused": made(p, True), "no dropout": made(0.0),
    }  # fmt: skip


def table_of_steps(rounds: int, seconds: float, names: list[str], size: int | None) -> None:
    """Print the factors of training steps, with `size` examples if it is given."""
    threads = torch.get_num_threads()
    print(f"\nA step of training, {threads} thread{'s' * (threads > 1)}:\n")
    print("| model | p | no dropout, ms | torch / installed | torch / fused ", end="")
    print("| no dropout / installed | no dropout / fused |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in names:
        build, p, usual, description = MODELS[name]
        progress(name)
        try:
            cases = steps(build, p, size or usual)
        except ImportError as error:
            print(f"| {name}: {description} | {p} | not measured: {error} |||||")
            continue
        times = take_turns(cases, rounds=rounds, seconds=seconds, clock=clock(), before=switch)
        factors = [
            f"{ratio(times, one, to):.2f}"
            for one in ("torch", "no dropout")
            for to in ("installed", "fused")
        ]
        ms = f"{sorted(times['no dropout'])[rounds // 2] * 1e3:.3g}"
        print(f"| {name}: {description} | {p} | {ms} | {' | '.join(factors)} |", flush=True)


def bytes_kept(case: str) -> int:
    """Return the bytes that a call of 2^16 elements saves for backward, as autograd sees them."""
    switch(case)
    kept: list[int] = []

    def pack(saved: Any) -> Any:
        kept.append(saved.numel() * saved.element_size())
        return saved

    x = torch.randn(1 << 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        theirs.dropout(x, 0.1)
    return sum(kept)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="turns that each case gets")
    parser.add_argument("--threads", type=int, nargs="+", help="1 and 2, or 1 if --quick")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="only steps of these models")
    parser.add_argument("--quick", action="store_true", help="small sizes, one step each")
    options = parser.parse_args()
    print(f"{machine()}, torch {torch.__version__}")
    for threads in options.threads or ([1] if options.quick else [1, 2]):
        torch.set_num_threads(threads)
        if options.models is None:
            print()
            table_of_calls(options.rounds, [6, 12] if options.quick else [6, 12, 16, 20, 23])
        table_of_steps(
            options.rounds, 0.0 if options.quick else 0.3, options.models or list(MODELS),
            1 if options.quick else None,
        )  # fmt: skip
    kept = f"{bytes_kept('torch')} bytes by torch, {bytes_kept('installed')} by fastdrop"
    print(f"\nF.dropout of 2^16 elements keeps for backward: {kept}")


if __name__ == "__main__":
    main()
