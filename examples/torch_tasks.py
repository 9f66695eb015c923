"""Models of PyTorch's libraries, with random weights, and data that packages ship.

A task builds a model for a rate p, and gives it batches. Every model takes a batch by name, with
its ``labels`` if it has any, and returns a mapping with the ``loss`` and, for a classifier,
``logits``.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
from fastdrop import torch as ft
from network import load
from torch import Tensor, nn
from torch.nn import functional

Batch = dict[str, Tensor]


class Task(NamedTuple):
    """A model and its data."""

    library: str
    """The library that has the model, as its package is called."""
    description: str
    build: Callable[[float], nn.Module]
    p: float
    size: int
    """Number of examples in a batch; 0 if a batch is all there is, as for a graph."""
    data: Callable[[], Batch]

    @property
    def versions(self) -> str:
        """The library with its version."""
        return f"{self.library} {version(self.library).partition('+')[0]}"

    def batches(self, size: int, epochs: int = 1, seed: int = 0) -> Iterator[Batch]:
        """Yield the data in random batches, without a last short one."""
        data, rng = self.data(), np.random.default_rng(seed)
        for _ in range(epochs):
            if not self.size:
                yield data
                continue
            order = torch.from_numpy(rng.permutation(len(next(iter(data.values())))))
            for rows in order.split(size):
                if len(rows) == size:
                    yield {name: x[rows] for name, x in data.items()}

    def batch(self) -> Batch:
        """Return one batch."""
        return next(self.batches(self.size))


class Classifier(nn.Module):
    """A model of logits, with its loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, labels: Tensor, **inputs: Tensor) -> Any:
        """Return logits and their cross-entropy."""
        logits = self.model(**inputs)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


# --- Text: lines of the descriptions of scikit-learn's data sets, as bytes -----------------------

LENGTH = 64


@cache
def lines() -> tuple[list[str], list[int]]:
    """Return lines of text, and for each the data set that it describes."""
    from sklearn import datasets

    texts, labels = [], []
    for label, name in enumerate(("breast_cancer", "diabetes", "digits", "iris", "wine")):
        for line in getattr(datasets, f"load_{name}")().DESCR.splitlines():
            if len(line) > LENGTH // 2:
                texts.append(line.strip())
                labels.append(label)
    return texts, labels


def as_bytes(texts: list[str]) -> Tensor:
    """Return texts as numbers from 0 to 127, (texts, LENGTH); 0 is padding."""
    rows = [text.encode("ascii", "replace")[:LENGTH].ljust(LENGTH, b"\0") for text in texts]
    return torch.tensor([list(row) for row in rows])


def described() -> Batch:
    """Return lines with what they describe."""
    words = as_bytes(lines()[0])
    return {"input_ids": words, "attention_mask": (words > 0).long(),
            "labels": torch.tensor(lines()[1])}  # fmt: skip


def bert(p: float, attention: str = "sdpa") -> nn.Module:
    """Return a small BERT that says which data set a line is about."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=128, hidden_size=128, num_attention_heads=4, intermediate_size=512,
        num_hidden_layers=2, max_position_embeddings=LENGTH, num_labels=5, hidden_dropout_prob=p,
        attention_probs_dropout_prob=p, attn_implementation=attention,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def bert_by_name(p: float) -> nn.Module:
    """Return the same with fastdrop's attention, chosen by name."""
    import fastdrop.torch.transformers

    fastdrop.torch.transformers.register()
    return bert(p, "fastdrop")


class LanguageModel(nn.Module):
    """An LSTM as in Merity et al., arXiv:1708.02182: locked, weight and embedding dropout."""

    def __init__(self, p: float, width: int = 128) -> None:
        super().__init__()
        self.words = nn.Embedding(128, width)
        self.of_words, self.locked = ft.EmbeddingDropout(p / 2), ft.LockedDropout(p)
        layers = [nn.LSTM(width, width) for _ in range(2)]
        self.layers = nn.ModuleList(ft.drop_weights(one, "weight_hh_l0", p) for one in layers)
        self.out = nn.Linear(width, 128)

    def forward(self, input_ids: Tensor) -> Any:
        """Return the loss of each byte after the first."""
        x = self.locked(self.of_words(self.words.weight, input_ids.T))
        for layer in self.layers:
            x = self.locked(layer(x)[0])
        logits = self.out(x[:-1]).flatten(0, 1)
        return {"loss": functional.cross_entropy(logits, input_ids.T[1:].flatten())}


class Sentences(nn.Module):
    """A model of sentence-transformers that brings the two halves of a line together."""

    def __init__(self, p: float) -> None:
        super().__init__()
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.models import Pooling, Transformer
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

        with tempfile.TemporaryDirectory() as folder:
            words = [
                "[PAD]",
                "[UNK]",
                *sorted({word for line in lines()[0] for word in line.split()}),
            ]
            reader = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "[UNK]"))
            reader.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
            PreTrainedTokenizerFast(
                tokenizer_object=reader, unk_token="[UNK]", pad_token="[PAD]"
            ).save_pretrained(folder)
            BertModel(
                BertConfig(
                    vocab_size=len(words), hidden_size=128, num_attention_heads=4,
                    intermediate_size=512, num_hidden_layers=2, hidden_dropout_prob=p,
                    attention_probs_dropout_prob=p,
                )
            ).save_pretrained(folder)  # fmt: skip
            transformer = Transformer(folder)
        self.model = SentenceTransformer(modules=[transformer, Pooling(128)], device="cpu")

    def forward(self, index: Tensor) -> Any:
        """Return the loss of telling apart which half belongs to which."""
        split = [lines()[0][number].split() for number in index.tolist()]
        halves = [" ".join(words[: len(words) // 2]) for words in split]
        halves += [" ".join(words[len(words) // 2 :]) for words in split]
        vectors = self.model(self.model.tokenize(halves))["sentence_embedding"]
        first, second = functional.normalize(vectors, dim=1).chunk(2)
        return {"loss": functional.cross_entropy(20 * first @ second.T, torch.arange(len(index)))}


# --- Images, tables, graphs ----------------------------------------------------------------------


def images() -> Batch:
    """Return digits of MNIST."""
    digits = load("mnist")
    return {"pixel_values": torch.from_numpy(digits.images).view(-1, 1, 28, 28),
            "labels": torch.from_numpy(digits.labels)}  # fmt: skip


def vit(p: float) -> nn.Module:
    """Return a small ViT for digits."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=28, patch_size=4, num_channels=1, hidden_size=96, num_attention_heads=3,
        intermediate_size=384, num_hidden_layers=3, num_labels=10, hidden_dropout_prob=p,
        attention_probs_dropout_prob=p,
    )  # fmt: skip
    return ViTForImageClassification(config)


def tumours() -> Batch:
    """Return 30 numbers of each tumour, and whether it is benign."""
    from sklearn.datasets import load_breast_cancer

    x, labels = load_breast_cancer(return_X_y=True)
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    return {"x": torch.from_numpy(x), "labels": torch.from_numpy(labels)}


class Tabular(nn.Module):
    """An FT-Transformer for tables of numbers."""

    def __init__(self, p: float, blocks: int = 2) -> None:
        super().__init__()
        from rtdl_revisiting_models import FTTransformer

        settings = FTTransformer.get_default_kwargs(blocks)
        settings |= {"attention_dropout": p, "ffn_dropout": p, "residual_dropout": p}
        self.model = FTTransformer(n_cont_features=30, cat_cardinalities=[], d_out=2, **settings)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.model(x, None)


def neighbours() -> Batch:
    """Return a graph of digits, each joined to the five that look most alike."""
    from sklearn.neighbors import kneighbors_graph

    digits = load("optical")
    edges = np.stack(kneighbors_graph(digits.images, 5).nonzero()).astype(np.int64)
    return {"x": torch.from_numpy(digits.images), "labels": torch.from_numpy(digits.labels),
            "edge_index": torch.from_numpy(edges)}  # fmt: skip


class Graph(nn.Module):
    """A GAT of PyTorch Geometric, which also drops edges."""

    def __init__(self, p: float) -> None:
        super().__init__()
        from torch_geometric.nn import GATConv

        self.p = p
        self.first = GATConv(64, 16, heads=8, dropout=p)
        self.second = GATConv(128, 10, heads=1, dropout=p)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return logits of all nodes."""
        from torch_geometric.utils import dropout_edge

        edges, _ = dropout_edge(edge_index, self.p, training=self.training)
        x = functional.dropout(x, self.p, self.training)
        x = functional.elu(self.first(x, edges))
        return self.second(functional.dropout(x, self.p, self.training), edges)


TASKS = {
    "bert": Task("transformers", "BERT, sdpa, 2 layers, d 128, 16 lines", bert, 0.1, 16, described),
    "bert-fastdrop": Task(
        "transformers", 'BERT, attention "fastdrop"', bert_by_name, 0.1, 16, described
    ),
    "vit": Task("transformers", "ViT, 3 layers, d 96, 32 digits", vit, 0.1, 32, images),
    "sentences": Task(
        "sentence-transformers", "BERT, 2 layers, d 128, 16 pairs", Sentences, 0.1, 16,
        lambda: {"index": torch.arange(len(lines()[0]))},
    ),
    "lstm": Task(
        "torch", "LSTM of bytes: locked, weights, words", LanguageModel, 0.4, 16,
        lambda: {"input_ids": as_bytes(lines()[0])},
    ),
    "ft-transformer": Task(
        "rtdl-revisiting-models", "FT-Transformer, 2 blocks, 64 rows of 30",
        lambda p: Classifier(Tabular(p)), 0.2, 64, tumours,
    ),
    "gnn": Task(
        "torch_geometric", "GAT, 1,797 nodes, 8,985 edges", lambda p: Classifier(Graph(p)),
        0.5, 0, neighbours,
    ),
}  # fmt: skip
