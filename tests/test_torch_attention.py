"""Attention of tensors: against that of arrays, in torch's graphs, and installed. Needs PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
from support import KEY, as_key

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdrop.torch as ft  # noqa: E402
from tensors import DTYPES, as_numpy, as_tensor  # noqa: E402
from torch import nn  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.nn import functional as theirs  # noqa: E402
from torch.nn.attention import SDPBackend, bias, sdpa_kernel  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),  # torch's own
]

F = ft.functional
attend = F.scaled_dot_product_attention
KEY_ = as_key(KEY)
P = 0.3


def tensors(*shapes: tuple[int, ...], dtype: Any = torch.float64, grad: bool = True) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [x.to(dtype).requires_grad_(grad) for x in made]


def seeded(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return function(*arguments, **options)


def stored(q: Any, k: Any, v: Any, attn_mask: Any = None, causal: int | None = None) -> Any:
    """Return attention with the weights of KEY_ in memory, from dropout of their softmax."""
    k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], -3) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if causal is not None:
        sees = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(causal)
        scores = scores.masked_fill(~sees, -torch.inf)
    if attn_mask is not None:
        scores = scores + attn_mask
    return F.dropout(scores.softmax(-1), P, key=KEY_) @ v


CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "lower right": {"is_causal": "lower_right"},
    "bias": {"attn_mask": (1, 6, 9)},
    "bias of a row": {"attn_mask": (9,), "is_causal": True},
    "grouped": {"enable_gqa": True},
    "scaled": {"scale": 0.2},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", CALLS.values(), ids=CALLS)
def test_tensors_and_arrays_give_the_same_bits(options: Any, dtype: Any) -> None:
    options = dict(options)
    heads = 2 if options.pop("enable_gqa", False) else 4
    shapes = [(2, 4, 6, 5), (2, heads, 9, 5), (2, heads, 9, 3), (2, 4, 6, 3)]
    bias_shape = options.pop("attn_mask", None)
    q, k, v, dy, *rest = tensors(*shapes, *[bias_shape] * (bias_shape is not None), dtype=dtype)
    grouped = heads == 2
    y = attend(q, k, v, *rest or [None], P, **options, enable_gqa=grouped, dropout_key=KEY_)
    gradients = torch.autograd.grad(y, [q, k, v, *rest], dy)
    arrays = [as_numpy(x) for x in (q, k, v)]
    if rest:
        options["attn_mask"] = as_numpy(rest[0])
    expected, lse = fd.scaled_dot_product_attention(
        *arrays, P, **options, rng=KEY_, return_lse=True
    )
    wanted = fd.scaled_dot_product_attention_backward(
        as_numpy(dy), *arrays, expected, lse, P, **options, rng=KEY_, return_dattn_mask=bool(rest)
    )
    for actual, array in zip((y, *gradients), (expected, *wanted), strict=True):
        assert torch.equal(actual, as_tensor(np.ascontiguousarray(array)))
    assert y.transpose(-3, -2).is_contiguous()


def test_the_mask_is_that_of_dropout_of_stored_weights() -> None:
    q, k, v, attn_mask, dy = tensors((2, 4, 6, 5), (2, 2, 9, 5), (2, 2, 9, 3), (9,), (2, 4, 6, 3))
    y = attend(q, k, v, attn_mask, P, True, enable_gqa=True, dropout_key=KEY_)
    expected = stored(q, k, v, attn_mask, 0)
    torch.testing.assert_close(y, expected)
    inputs = (q, k, v, attn_mask)
    torch.testing.assert_close(
        torch.autograd.grad(y, inputs, dy), torch.autograd.grad(expected, inputs, dy)
    )


@pytest.mark.parametrize(
    ("q", "k", "v", "options"),
    [
        ((6, 5), (9, 5), (9, 3), {}),
        ((6, 5), (9, 5), (9, 3), {"attn_mask": (6, 9)}),
        ((4, 6, 5), (4, 9, 5), (4, 9, 3), {"attn_mask": (6, 9)}),
        ((2, 3, 4, 6, 5), (2, 3, 4, 9, 5), (2, 3, 4, 9, 3), {"attn_mask": (2, 1, 4, 1, 9)}),
        ((2, 4, 6, 5), (1, 1, 9, 5), (2, 1, 9, 3), {}),
        ((4, 6, 5), (2, 1, 9, 5), (9, 3), {}),
    ],
    ids=str,
)
def test_shapes_are_those_that_torch_takes(q: Any, k: Any, v: Any, options: Any) -> None:
    *inputs, attn_mask = tensors(q, k, v, options.get("attn_mask", (1,)))
    more = (attn_mask,) if options else ()
    expected = theirs.scaled_dot_product_attention(*inputs, *more)
    y = attend(*inputs, *more)
    assert y.shape == expected.shape
    torch.testing.assert_close(y, expected)
    dy = torch.ones_like(y)
    everything = [*inputs, *more]
    torch.testing.assert_close(
        torch.autograd.grad(y, everything, dy), torch.autograd.grad(expected, everything, dy)
    )
    # The weights are numbered in C order, however many axes they have.
    y = attend(*inputs, *more, dropout_p=P, dropout_key=KEY_)
    weights = (inputs[0] @ inputs[1].transpose(-1, -2)).shape
    flat = [x.expand(*weights[:-2], *x.shape[-2:]).reshape(-1, *x.shape[-2:]) for x in inputs]
    bias = [x.expand(weights).reshape(-1, *weights[-2:]) for x in more]
    again = attend(*flat, *bias, dropout_p=P, dropout_key=KEY_)
    torch.testing.assert_close(y.reshape(again.shape), again)


def test_neither_strides_nor_views_change_a_bit() -> None:
    q, k, v = tensors((2, 6, 4, 5), (2, 9, 4, 5), (2, 9, 4, 3), grad=False)
    expected = attend(
        *(x.transpose(1, 2).contiguous() for x in (q, k, v)), None, P, dropout_key=KEY_
    )
    assert torch.equal(
        attend(*(x.transpose(1, 2) for x in (q, k, v)), None, P, dropout_key=KEY_), expected
    )
    spread = [torch.stack([x, x], -1)[..., 0].transpose(1, 2) for x in (q, k, v)]
    assert torch.equal(attend(*spread, None, P, dropout_key=KEY_), expected)
    negative = torch._neg_view(-q.transpose(1, 2))
    assert torch.equal(attend(negative, *spread[1:], None, P, dropout_key=KEY_), expected)


def test_a_part_draws_its_part_of_the_whole() -> None:
    q, k, v = tensors((3, 4, 6, 5), (3, 4, 9, 5), (3, 4, 9, 3))
    y, mask = attend(q, k, v, None, P, dropout_key=KEY_, return_mask=True)
    assert mask == fd.Mask((3, 4, 6, 9), P, KEY_)
    part = mask.region((1, 2, 3, 0), (1, 2, 2, 9))
    inside = [x.detach() for x in (q[1:2, 2:, 3:5], k[1:2, 2:], v[1:2, 2:])]
    for call in (attend, torch.compile(attend, backend="aot_eager")):
        torch.testing.assert_close(call(*inside, dropout_mask=part), y[1:2, 2:, 3:5])


def test_masks_may_be_of_bool_or_another_dtype_or_a_causal_bias() -> None:
    q, k, v = tensors((2, 4, 6, 5), (2, 4, 9, 5), (2, 4, 9, 3))
    sees = torch.arange(54).reshape(6, 9) % 3 != 0
    expected = stored(q, k, v, torch.zeros(6, 9).masked_fill(~sees, -torch.inf).double())
    torch.testing.assert_close(attend(q, k, v, sees, P, dropout_key=KEY_), expected)
    added = torch.zeros(6, 9).masked_fill(~sees, -torch.inf)
    torch.testing.assert_close(attend(q, k, v, added, P, dropout_key=KEY_), expected)
    for make, causal in ((bias.causal_upper_left, 0), (bias.causal_lower_right, 3)):
        y = attend(q, k, v, make(6, 9), P, dropout_key=KEY_)
        torch.testing.assert_close(y, stored(q, k, v, causal=causal))


def test_rows_that_see_nothing_or_keep_nothing_give_0() -> None:
    q, k, v = tensors((1, 2, 3, 5), (1, 2, 4, 5), (1, 2, 4, 5))
    sees = torch.ones(3, 4, dtype=torch.bool)
    sees[1] = False
    for p, rows in ((P, [1]), (1.0, [0, 1, 2])):
        y = attend(q, k, v, sees, p, dropout_key=KEY_)
        assert not y[:, :, rows].any()
        dq, _, dv = torch.autograd.grad(y.sum(), (q, k, v))
        assert not dq[:, :, rows].any()
        assert bool(torch.isfinite(dv).all())
    assert attend(*(x[:, :, :0] for x in (q, k, v)), None, P).shape == (1, 2, 0, 5)
    empty = attend(q, k[:, :, :0], v[:, :, :0], None, P)
    assert empty.shape == (1, 2, 3, 5)
    assert not empty.any()


# --- Gradients -----------------------------------------------------------------------------------


def test_gradients_of_every_order_and_direction() -> None:
    inputs = tensors((1, 2, 3, 2), (1, 1, 4, 2), (1, 1, 4, 3), (3, 1))

    def call(*inputs: Any) -> Any:
        return attend(*inputs, P, "lower_right", enable_gqa=True, dropout_key=KEY_)

    forward = {"check_forward_ad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(call, inputs, check_batched_grad=True, **forward)
    again = {"check_fwd_over_rev": True, "check_rev_over_rev": True}
    assert torch.autograd.gradgradcheck(call, inputs, check_batched_grad=True, **again)


def test_only_wanted_gradients_are_recorded() -> None:
    q, k, v, attn_mask = tensors((1, 2, 3, 5), (1, 2, 4, 5), (1, 2, 4, 5), (3, 4))
    y = attend(q.detach(), k.detach(), v, attn_mask.detach(), P, dropout_key=KEY_)
    y.sum().backward()
    assert v.grad is not None
    with torch.no_grad():
        assert not attend(q, k, v, None, P).requires_grad
    with torch.inference_mode():
        assert attend(q, k, v, None, P).is_inference()
    y = attend(q, k, v, None, P)
    with torch.no_grad():
        k.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_what_is_kept_for_the_gradient_does_not_grow_with_the_weights() -> None:
    q, k, v = tensors((1, 1, 512, 4), (1, 1, 512, 4), (1, 1, 512, 4))
    kept: list[int] = []

    def keep(x: Any) -> Any:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        attend(q, k, v, None, P).sum().backward()
    assert sum(kept) == 4 * 512 * 4 + 512


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpoint_draws_the_mask_again(use_reentrant: bool) -> None:
    q, k, v = tensors((1, 2, 6, 5), (1, 2, 9, 5), (1, 2, 9, 3))

    def call(q: Any) -> Any:
        return attend(q, k.detach(), v.detach(), None, P)

    seeded(call, q).sum().backward()
    expected, q.grad = q.grad, None
    seeded(checkpoint, call, q, use_reentrant=use_reentrant).sum().backward()
    assert torch.equal(q.grad, expected)


# --- Graphs and transforms -----------------------------------------------------------------------


def test_compiled_calls_draw_and_compute_what_eager_ones_do() -> None:
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (6, 9):
        q, k, v, attn_mask, dy = tensors(
            (2, 4, length, 5), (2, 2, 9, 5), (2, 2, 9, 3), (length, 1), (2, 4, length, 3)
        )
        inputs = (q, k, v, attn_mask)
        results = []
        for call in (attend, compiled):
            y = seeded(call, *inputs, P, True, enable_gqa=True)
            results.append((y, *torch.autograd.grad(y, inputs, dy)))
        assert all(map(torch.equal, *results))
        assert results[0][0].stride() == results[1][0].stride()


def test_inductor_computes_what_eager_mode_does() -> None:
    q, k, v = tensors((2, 4, 6, 8), (2, 4, 9, 8), (2, 4, 9, 8), dtype=torch.float32)
    compiled = torch.compile(lambda *x: attend(*x, None, P).transpose(1, 2).flatten(2) * 2)
    y = seeded(compiled, q, k, v)
    assert torch.equal(y, seeded(attend, q, k, v, None, P).transpose(1, 2).flatten(2) * 2)


def test_operators_are_what_torch_asks_of_them() -> None:
    q, k, v, attn_mask, dy = tensors((2, 4, 6, 5), (2, 2, 9, 5), (2, 2, 9, 3), (6, 1), (2, 4, 6, 3))
    words = ft.key_tensor(KEY_)
    of_part = (words, P, 0.5, 3, [2, 4, 8, 9], [0] * 4, [2, 4, 6, 9])
    inputs = (q, k, v, attn_mask)
    torch.library.opcheck(torch.ops.fastdrop.attention, (*inputs, *of_part))
    y, lse = (x.detach() for x in torch.ops.fastdrop.attention(*inputs, *of_part))
    arguments = (dy, *inputs, y, lse, True, *of_part)
    torch.library.opcheck(torch.ops.fastdrop.attention_backward, arguments)


def test_vmap_and_grad_of_functions() -> None:
    q, k, v = tensors((3, 2, 4, 6, 5), (2, 4, 9, 5), (3, 2, 4, 9, 3), grad=False)

    def call(q: Any, v: Any, key: Any = KEY_) -> Any:
        return attend(q, k, v, None, P, dropout_key=key)

    expected = torch.stack([call(*pair) for pair in zip(q, v, strict=True)])
    assert torch.equal(torch.vmap(call)(q, v), expected)
    keys = torch.stack([ft.key_tensor(KEY_.fold_in(n)) for n in range(3)])
    expected = torch.stack([call(*row) for row in zip(q, v, keys, strict=True)])
    assert torch.equal(torch.vmap(call)(q, v, keys), expected)

    def loss(q: Any, v: Any) -> Any:
        return call(q, v).square().sum()

    expected = torch.stack([torch.func.grad(loss)(*pair) for pair in zip(q, v, strict=True)])
    assert torch.equal(torch.vmap(torch.func.grad(loss))(q, v), expected)
    leaf = q[0].clone().requires_grad_()
    loss(leaf, v[0]).backward()
    torch.testing.assert_close(leaf.grad, expected[0])
    y = torch.vmap(lambda q: attend(q, k, v[0], None, P), randomness="different")(
        q[:1].expand(2, 2, 4, 6, 5)
    )
    assert not torch.equal(y[0], y[1])
    y = torch.vmap(lambda q: attend(q, k, v[0], None, P), randomness="same")(
        q[:1].expand(2, 2, 4, 6, 5)
    )
    assert torch.equal(y[0], y[1])


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_installed_attention_under_vmap_is_the_function(randomness: Any) -> None:
    q, k, v = tensors((3, 2, 4, 6, 5), (2, 4, 9, 5), (2, 4, 9, 3), grad=False)
    theirs_ = torch.vmap(
        lambda q: theirs.scaled_dot_product_attention(q, k, v, None, P), randomness=randomness
    )
    ours = torch.vmap(lambda q: attend(q, k, v, None, P), randomness=randomness)
    evaluated = torch.vmap(lambda q: theirs.scaled_dot_product_attention(q, k, v))
    before = evaluated(q)
    with ft.installed():
        assert torch.equal(seeded(theirs_, q), seeded(ours, q))
        assert torch.equal(evaluated(q), before)


@pytest.mark.parametrize("installed", [False, True])
def test_exported_programs_contain_torchs_operator(installed: bool) -> None:
    class Model(nn.Module):
        def forward(self, q: Any, k: Any) -> Any:
            if installed:
                return theirs.scaled_dot_product_attention(q, k, k, None, P, True)
            return attend(q, k, k, torch.ones(9, dtype=torch.bool), P, "lower_right")

    q, k = tensors((2, 4, 6, 5), (2, 4, 9, 5), grad=False)
    with ft.installed():
        program = torch.export.export(Model(), (q, k))
        used = [str(node.target) for node in program.graph.nodes]
        assert "aten.scaled_dot_product_attention.default" in used
        assert not any("fastdrop" in one for one in used)
        expected = seeded(attend, q, k, k, None, P, True if installed else "lower_right")
        torch.testing.assert_close(seeded(program.module(), q, k), expected)


def test_autocast_casts_as_torch_does() -> None:
    q, k, v = tensors((2, 4, 6, 5), (2, 4, 9, 5), (2, 4, 9, 3), dtype=torch.float32)
    low = [x.detach().bfloat16() for x in (q, k, v)]
    with torch.autocast("cpu"):
        y = attend(q, k, v, None, P, dropout_key=KEY_)
        assert theirs.scaled_dot_product_attention(q, k, v).dtype is y.dtype
    assert torch.equal(y, attend(*low, None, P, dropout_key=KEY_))
    y.sum().backward()
    assert q.grad.dtype is torch.float32


# --- Installed -----------------------------------------------------------------------------------


def test_installed_attention_is_the_function() -> None:
    q, k, v, attn_mask, dy = tensors(
        (2, 4, 6, 5), (2, 2, 9, 5), (2, 2, 9, 3), (6, 9), (2, 4, 6, 3), dtype=torch.float32
    )
    inputs = (q, k, v, attn_mask)
    expected = seeded(attend, *inputs, P, enable_gqa=True)
    with ft.installed():
        for call in (
            theirs.scaled_dot_product_attention,
            torch.compile(theirs.scaled_dot_product_attention, backend="aot_eager", fullgraph=True),
        ):
            y = seeded(call, *inputs, P, enable_gqa=True)
            assert torch.equal(y, expected)
            actual = torch.autograd.grad(y, inputs, dy)
            wanted = torch.autograd.grad(expected, inputs, dy, retain_graph=True)
            assert all(map(torch.equal, actual, wanted))


def operations(function: Callable[..., Any], *arguments: Any) -> set[str]:
    """Return the names of the operators that a call reaches."""
    with torch.profiler.profile() as profile:
        function(*arguments)
    return {event.key for event in profile.key_averages()}


def test_installed_attention_stores_no_weights_and_leaves_evaluation_alone() -> None:
    q, k, v = tensors((2, 4, 6, 8), (2, 4, 9, 8), (2, 4, 9, 8), dtype=torch.float32)
    expected = theirs.scaled_dot_product_attention(q, k, v)
    before = operations(theirs.scaled_dot_product_attention, q, k, v)
    with ft.installed():
        assert torch.equal(theirs.scaled_dot_product_attention(q, k, v), expected)
        assert operations(theirs.scaled_dot_product_attention, q, k, v) == before
        used = operations(theirs.scaled_dot_product_attention, q, k, v, None, P)
        assert not used & {"aten::_safe_softmax", "aten::_softmax", "aten::bmm", "aten::matmul"}
        with ft.installed(attention=True):
            assert torch.equal(theirs.scaled_dot_product_attention(q, k, v), attend(q, k, v))
            ft.install()  # keeps what is there
            assert torch.equal(theirs.scaled_dot_product_attention(q, k, v), attend(q, k, v))
        assert torch.equal(theirs.scaled_dot_product_attention(q, k, v), expected)
        assert torch.equal(
            seeded(theirs.scaled_dot_product_attention, q, k, v, None, P),
            seeded(attend, q, k, v, None, P),
        )


def test_weights_are_there_for_a_program_that_asks_torch_for_them() -> None:
    q, k, v = tensors((2, 4, 6, 5), (2, 4, 9, 5), (2, 4, 9, 3), dtype=torch.float32)
    operator = torch.ops.aten._scaled_dot_product_attention_math
    with ft.installed():
        for call in (operator, operator.default):
            y, weights = seeded(call, q, k, v, None, P)
            torch.testing.assert_close(y, seeded(attend, q, k, v, None, P))
            torch.testing.assert_close(weights @ v, y)


def test_what_the_fused_kernel_lacks_stays_torchs() -> None:
    q, k, v = tensors((1, 2, 6, 300), (1, 2, 9, 300), (1, 2, 9, 3))
    layers = nn.MultiheadAttention(8, 2, dropout=P, batch_first=True)
    x = torch.randn(2, 5, 8)
    with ft.installed():
        weights = (q @ k.transpose(-1, -2) * 300**-0.5).softmax(-1)
        y = seeded(theirs.scaled_dot_product_attention, q, k, v, None, P)
        torch.testing.assert_close(y, seeded(F.dropout, weights, P) @ v)
        with pytest.raises(RuntimeError, match="is_causal"):
            theirs.scaled_dot_product_attention(q, k, v, torch.ones(6, 9), P, True)
        fused, none = seeded(layers, x, x, x, need_weights=False)
        stored, given = seeded(layers, x, x, x)
        assert none is None
        torch.testing.assert_close(fused, stored)
        assert given.shape == (2, 5, 5)
        with sdpa_kernel(SDPBackend.MATH):
            assert torch.equal(seeded(layers, x, x, x, need_weights=False)[0], fused)


def outcome(*inputs: Any, **options: Any) -> Any:
    """Return the result of a call, or the type of its error, and whether it drew."""
    torch.manual_seed(0)
    state = torch.get_rng_state()
    try:
        result: Any = theirs.scaled_dot_product_attention(*inputs, **options)
    except Exception as error:
        result = type(error)
    return result, torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("p", [0.0, P])
@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        (((), (), ()), {}),
        (((5,), (5,), (5,)), {}),
        (((2, 6, 5), (2, 9, 4), (2, 9, 5)), {}),
        (((3, 6, 5), (2, 9, 5), (2, 9, 5)), {}),
        (((2, 4, 6, 5), (2, 3, 9, 5), (2, 3, 9, 5)), {"enable_gqa": True}),
        (((6, 5), (9, 5), (9, 5)), {"enable_gqa": True}),
        (((2, 6, 5), (2, 9, 5), (2, 9, 5)), {"attn_mask": torch.ones(6, 8)}),
        (((2, 6, 5), (2, 9, 5), (2, 9, 5)), {"attn_mask": torch.ones(6, 9), "is_causal": True}),
        (((2, 6, 5), (2, 9, 5), None), {}),
    ],
)
def test_installed_attention_refuses_what_torch_refuses(
    shapes: Any, options: Any, p: float
) -> None:
    inputs = [torch.ones(2, 9, 5).half() if one is None else torch.ones(one) for one in shapes]
    expected = outcome(*inputs, dropout_p=p, **options)
    assert expected[0] in (RuntimeError, IndexError)
    with ft.installed(attention=True):
        assert outcome(*inputs, dropout_p=p, **options) == expected


def test_keys_and_values_may_have_different_numbers_of_heads() -> None:
    """torch repeats each for itself."""
    q, k, v = tensors((2, 4, 6, 5), (2, 1, 9, 5), (2, 2, 9, 3))
    expected = theirs.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    with ft.installed(attention=True):
        y = theirs.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        torch.testing.assert_close(y, expected)
        y = seeded(theirs.scaled_dot_product_attention, q, k, v, None, P, enable_gqa=True)
    weights = (q @ k.mT * 5**-0.5).softmax(-1)
    torch.testing.assert_close(y, seeded(F.dropout, weights, P) @ v.repeat_interleave(2, 1))


def test_an_encoder_learns_with_fused_attention_as_with_stored_weights() -> None:
    def losses(stores: bool) -> list[float]:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=P, batch_first=True)
        model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        if stores:
            for one in model.layers:
                one.self_attn.register_forward_pre_hook(
                    lambda module, arguments, options: (
                        arguments,
                        options | {"need_weights": True},
                    ),
                    with_kwargs=True,
                )
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        x, mask = torch.randn(4, 10, 16), nn.Transformer.generate_square_subsequent_mask(10)
        found = []
        for _ in range(8):
            loss = (model(x, mask=mask) - x.roll(1, 1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    with ft.installed():
        fused, stored = losses(False), losses(True)
    assert fused == pytest.approx(stored, rel=1e-4)
    assert fused[-1] < fused[0]


# --- Bad input -----------------------------------------------------------------------------------

X = torch.ones(2, 4, 6, 5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"query": np.ones((2, 4, 6, 5))}, "query must be a tensor, got ndarray"),
        ({"query": X.int()}, "query must have dtype float32, .*, got torch.int32"),
        ({"key": X.double()}, "key must have the dtype of query, torch.float32, got torch.float64"),
        ({"value": X.to_sparse()}, "value must be dense, got a tensor of layout torch.sparse_coo"),
        ({"query": X[0, 0, 0]}, "query must have at least 2 axes, got 1"),
        ({"key": X[..., :4]}, r"key must have the shape \(2, heads, keys, 5\), got \(2, 4, 6, 4\)"),
        ({"value": X[:, :, :5]}, r"value must have the shape \(2, 4, 6, features\), got"),
        (
            {"key": X[:, :3], "value": X[:, :3], "enable_gqa": True},
            "key must have a number of heads",
        ),
        ({"attn_mask": torch.ones(5, 6)}, r"attn_mask must broadcast to shape \(2, 4, 6, 6\), got"),
        ({"attn_mask": torch.ones(6, 6).int()}, "attn_mask must have dtype float32, .*, got"),
        ({"attn_mask": 1.0}, "attn_mask must be a tensor, got float"),
        ({"dropout_p": 1.5}, r"dropout_p must be a number in \[0, 1\], got 1.5"),
        ({"dropout_key": 3}, "dropout_key must be a Key or a tensor of 2 int64, got 3"),
        ({"dropout_mask": X}, "dropout_mask must be a Mask, got"),
        (
            {"dropout_mask": fd.Mask((2, 4, 6, 5), 0.5, KEY_)},
            r"mask must be of shape \(2, 4, 6, 6\)",
        ),
        ({"is_causal": "middle"}, "is_causal must be True, False, 'upper_left' or 'lower_right'"),
        ({"scale": "x"}, "scale must be a finite number, got 'x'"),
        (
            {"dropout_key": KEY_, "generator": torch.Generator()},
            "at most one of dropout_key, generator and dropout_mask must be given",
        ),
        ({"query": X[0, 0], "return_mask": True}, "must have the same 3 or 4 axes"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)
def test_bad_input_is_named(changes: Any, sentence: str) -> None:
    arguments = {"query": X, "key": X, "value": X, "dropout_p": P} | changes
    state = torch.get_rng_state()
    with pytest.raises((ValueError, TypeError, RuntimeError), match=sentence):
        attend(**arguments)
    assert torch.equal(torch.get_rng_state(), state)


def test_dual_numbers_go_with_graphs() -> None:
    q, k, v = tensors((1, 2, 3, 2), (1, 2, 4, 2), (1, 2, 4, 3))
    with ft.installed(), forward_ad.dual_level():
        dual = forward_ad.make_dual(q, torch.ones_like(q))
        y = theirs.scaled_dot_product_attention(dual, k, v, None, P)
        tangent = forward_ad.unpack_dual(y).tangent
        assert tangent is not None
        assert torch.autograd.grad(tangent.sum(), v)[0].abs().sum() > 0
