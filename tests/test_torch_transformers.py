"""Models of transformers with attn_implementation="fastdrop". Needs PyTorch and transformers."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

import fastdrop.torch as ft  # noqa: E402
from fastdrop.torch import _fused  # noqa: E402
from fastdrop.torch.transformers import register  # noqa: E402

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own
    pytest.mark.filterwarnings("ignore:.*tensor cores"),
]

P = 0.3
SIZES = {
    "vocab_size": 50,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 64,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT": ("BertForMaskedLM", SIZES | {"attention_probs_dropout_prob": P}),
    "GPT-2": ("GPT2LMHeadModel", {"vocab_size": 50, "n_embd": 32, "n_head": 4, "n_layer": 2}),
    "Llama": ("LlamaForCausalLM", SIZES | {"num_key_value_heads": 2, "attention_dropout": P}),
    "Mistral": (
        "MistralForCausalLM",
        SIZES | {"num_key_value_heads": 2, "attention_dropout": P, "sliding_window": 4},
    ),
    "T5": (
        "T5ForConditionalGeneration",
        {"vocab_size": 50, "d_model": 32, "d_kv": 8, "num_heads": 4, "num_layers": 2, "d_ff": 64}
        | {"decoder_start_token_id": 0},
    ),
    "ViT": (
        "ViTForImageClassification",
        SIZES | {"image_size": 32, "patch_size": 8, "attention_probs_dropout_prob": P},
    ),
}
GENERATORS = ["GPT-2", "Llama", "Mistral", "T5"]

IDS = torch.arange(3 * 9).reshape(3, 9) * 7 % 47 + 3
LENGTHS = torch.tensor([9, 6, 4])
SEES = (torch.arange(9) < LENGTHS[:, None]).long()


@pytest.fixture(autouse=True)
def _registered() -> None:
    register()
    register()  # changes nothing
    transformers.logging.set_verbosity_error()


def model(name: str, attention: str, **changes: Any) -> Any:
    """Return a model with weights that depend on its name alone."""
    kind, options = MODELS[name]
    config = getattr(transformers, kind).config_class(**options | changes)
    torch.manual_seed(0)
    made = getattr(transformers, kind)._from_config(config, attn_implementation=attention)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # so that attention is far from uniform
    return made.eval()


def inputs(name: str) -> dict[str, Any]:
    """Return a batch with padding, and what is to be predicted of the rest."""
    if name == "ViT":
        torch.manual_seed(2)
        return {"pixel_values": torch.randn(2, 3, 32, 32),
                "labels": torch.tensor([0, 1])}  # fmt: skip
    labels = IDS[:, :5].contiguous() if name == "T5" else IDS.masked_fill(SEES == 0, -100)
    return {"input_ids": IDS, "attention_mask": SEES, "labels": labels}


def loss_and_gradients(made: Any, batch: Any) -> list[Any]:
    torch.manual_seed(1)
    loss = made(**batch).loss
    loss.backward()
    return [loss, *(x.grad for x in made.parameters() if x.grad is not None)]


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_models_compute_what_they_do_with_eager_attention(name: str, padded: bool) -> None:
    batch = inputs(name)
    if not padded:
        batch.pop("attention_mask", None)
    expected, actual = (
        loss_and_gradients(model(name, attention), batch) for attention in ("eager", "fastdrop")
    )
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_training_drops_the_weights_that_eager_attention_drops(name: str) -> None:
    """The dropout of eager attention is fastdrop's as well, so both draw the same keys."""
    batch = inputs(name)
    with ft.installed():
        expected, actual, without = (
            loss_and_gradients(model(name, attention).train(training), batch)
            for attention, training in (("eager", True), ("fastdrop", True), ("fastdrop", False))
        )
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)
    assert abs(actual[0] - without[0]) > 1e-5


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("name", GENERATORS)
def test_generation_with_a_cache_gives_the_same_tokens(name: str, cache: str) -> None:
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    results = [
        model(name, attention).generate(
            IDS, attention_mask=SEES.flip(1), cache_implementation=cache,
            disable_compile=True, **options,
        )
        for attention in ("eager", "fastdrop")
    ]  # fmt: skip
    assert torch.equal(*results)


def test_a_compiled_model_draws_and_computes_what_an_eager_one_does() -> None:
    torch._dynamo.reset()
    made = model("Llama", "fastdrop", num_hidden_layers=1).train()
    compiled = torch.compile(made, backend="eager", fullgraph=True, dynamic=True)
    for length in (9, 5):
        batch = {"input_ids": IDS[:, :length], "use_cache": False}
        torch.manual_seed(1)
        expected = made(**batch).logits
        torch.manual_seed(1)
        torch.testing.assert_close(compiled(**batch).logits, expected, rtol=1e-3, atol=1e-5)


def test_checkpoints_draw_the_mask_again() -> None:
    made, batch = model("BERT", "fastdrop").train(), inputs("BERT")
    expected = [x.clone() for x in loss_and_gradients(made, batch)]
    made.zero_grad()
    made.activation_checkpointing_enable()
    torch.testing.assert_close(loss_and_gradients(made, batch), expected)


def test_the_result_is_laid_out_as_models_merge_heads() -> None:
    q = torch.ones(2, 4, 6, 8)
    attend = transformers.AttentionInterface()["fastdrop"]
    y, weights = attend(torch.nn.Identity(), q, q, q, None, dropout=P)
    assert y.shape == (2, 6, 4, 8)
    assert y.is_contiguous()
    assert weights is None


def test_what_fastdrop_has_no_kernel_for_is_computed_as_by_sdpa() -> None:
    """Heads of 300 features."""
    changes = {"hidden_size": 600, "num_attention_heads": 2, "num_hidden_layers": 1}
    for batch in (inputs("BERT"), {"input_ids": IDS}):
        results = [model("BERT", kind, **changes)(**batch).logits for kind in ("sdpa", "fastdrop")]
        assert torch.equal(*results)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"output_attentions": True}, "output_attentions=True"),
        ({"softcap": 50.0}, "a model with softcap"),
        ({"s_aux": torch.zeros(4)}, "a model with s_aux"),
    ],
)
def test_what_the_kernel_lacks_is_named(options: Any, what: str) -> None:
    q = torch.ones(2, 4, 6, 8)
    attend = transformers.AttentionInterface()["fastdrop"]
    with pytest.raises(ValueError, match=f'attn_implementation must be "eager" for {what}, got'):
        attend(torch.nn.Identity(), q, q, q, None, **options)


@pytest.mark.parametrize("name", ["Bloom", "Mpt", "MPNet", "BigBird"])
def test_models_that_do_not_choose_attention_by_name_refuse_it(name: str) -> None:
    """They would add masks of bools to scores."""
    kind = getattr(transformers, f"{name}Model")
    made = kind._from_config(kind.config_class(**SIZES), attn_implementation="fastdrop")
    with pytest.raises(ValueError, match=r'must be "eager" for .*, whose models do not'):
        made(input_ids=IDS, attention_mask=SEES)


@pytest.mark.parametrize("version", [None, "4.57.1"])
def test_a_missing_library_is_named(version: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("AttentionInterface", "AttentionMaskInterface")
    old = SimpleNamespace(__version__=version, **dict.fromkeys(names))
    monkeypatch.setitem(sys.modules, "transformers", old if version else None)
    with pytest.raises(ImportError, match="needs transformers 5 or newer, which is not installed"):
        register()


@pytest.mark.parametrize("name", ["BERT", "T5"])
def test_fused_models_draw_and_learn_as_before(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their blocks add what they drop; T5's also activate it."""
    monkeypatch.setattr(_fused, "LEAST", 0)  # tensors are small
    made, results = model(name, "eager").train(), []
    with ft.installed():
        results.append(loss_and_gradients(made, inputs(name)))
        made.zero_grad()
        made, report = ft.fuse(made, report=True)
        results.append(loss_and_gradients(made, inputs(name)))
    assert sum(line.fused for line in report) >= 4
    for before, after in zip(*results, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
