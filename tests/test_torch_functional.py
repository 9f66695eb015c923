"""Functions of tensors against those of arrays; gradients; keys. Needs PyTorch."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest.mock import Mock

import fastdrop as fd
import numpy as np
import pytest
from support import KEY, as_key, assert_same

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdrop.torch as ft  # noqa: E402
from fastdrop import _core  # noqa: E402
from fastdrop.torch import _call  # noqa: E402
from tensors import DTYPES, as_numpy  # noqa: E402

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),  # torch's own
]

F = ft.functional
KEY_ = as_key(KEY)


def layouts(x: Any) -> dict[str, Any]:
    """The same numbers in many layouts."""
    padded = torch.zeros(5, 9, 13, 3, dtype=x.dtype)
    padded[1:4, ::2, :11, 1:2] = x
    return {
        "contiguous": x,
        "permuted": x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
        "sliced": padded[1:4, ::2, :11, 1:2],
        "channels last": x.contiguous(memory_format=torch.channels_last),
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_mask_goes_by_the_index_in_every_layout(dtype: Any) -> None:
    x = torch.randn(3, 5, 11, 1).to(dtype)
    expected = F.dropout(x, 0.3, key=KEY_)
    for name, same in layouts(x).items():
        assert torch.equal(same, x)
        y = F.dropout(same, 0.3, key=KEY_)
        assert torch.equal(y, expected), name
        assert y.stride() == torch.empty_like(same).stride(), name
    expanded = torch.randn(1, 5, 1, 1).to(dtype).expand(3, 5, 11, 1)
    dense = expanded.contiguous()
    assert torch.equal(F.dropout(expanded, 0.3, key=KEY_), F.dropout(dense, 0.3, key=KEY_))


def test_a_negative_that_is_only_marked_as_such_is_read_as_it_is() -> None:
    """The imaginary part of a conjugate shares its memory with the number."""
    x = torch.randn(50, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    y = F.dropout(x, 0.3, key=KEY_)
    assert torch.equal(y, F.dropout(x.resolve_neg(), 0.3, key=KEY_))


@pytest.mark.parametrize("shape", [(), (0,), (4, 0, 3)])
def test_scalars_and_empty_tensors_keep_their_shape(shape: tuple[int, ...]) -> None:
    x = torch.ones(shape, requires_grad=True)
    y = F.dropout(x, 0.5)
    assert y.shape == shape
    y.sum().backward()
    assert x.grad.shape == shape


def test_large_results_have_the_layout_of_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their memory comes from elsewhere."""
    monkeypatch.setattr(_call, "LARGE", 1 << 16)
    x = torch.randn(200, 300).t()
    y = F.dropout(x, 0.3, key=KEY_)
    assert y.stride() == x.stride()
    assert y._base is None
    assert_same(as_numpy(y), fd.dropout(as_numpy(x), 0.3, rng=KEY_))
    z = F.dropout(x.bfloat16().requires_grad_(), 0.3, key=KEY_)
    z += 1
    z.sum().backward()


# Gradients


def test_gradients_reach_all_inputs_of_fused_operations() -> None:
    shapes = [(3, 4), (4,), (3, 1)]
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    for function in (F.bias_dropout_add, lambda x, _, r, **options: F.dropout_add(x, r, **options)):
        needed = inputs if function is F.bias_dropout_add else [inputs[0], inputs[2]]

        def run(*needed: Any, function: Any = function) -> Any:
            x, *others = needed
            return function(x, others[0], others[-1], key=KEY_)

        assert torch.autograd.gradcheck(run, needed, check_forward_ad=True)


SHAPES_ADDED = [(3, 50), (50,), (3, 1), ()]


@pytest.mark.parametrize("shape", SHAPES_ADDED, ids=str)
@pytest.mark.parametrize("of_r", DTYPES, ids=str)
@pytest.mark.parametrize("of_x", DTYPES, ids=str)
def test_sums_have_the_dtype_of_torch_and_are_rounded_once(
    of_x: Any, of_r: Any, shape: Any
) -> None:
    """With a residual without axes as well, which promotes no other tensor."""
    x, r = torch.randn(3, 50, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    x, r = x.to(of_x), r.to(of_r)
    dtype = (r + torch.nn.functional.dropout(x)).dtype
    wide = torch.float64 if torch.float64 in (of_x, of_r) else torch.float32
    for training in (True, False):
        y = F.dropout_add(x, r, 0.3, training, key=KEY_ if training else None)
        assert y.dtype == dtype
        parts = F.dropout_add(x.to(wide), r.to(wide).expand(3, 50), 0.3, training, key=KEY_)
        assert torch.equal(y, parts.to(dtype))
        again = F.bias_dropout_add(x, torch.zeros((), dtype=of_r), r, 0.3, training, key=KEY_)
        assert torch.equal(y, again)
    assert F.dropout_add(x[0, 0], r.flatten()[0], 0.3).dtype == torch.promote_types(of_x, of_r)


@pytest.mark.parametrize("dtypes", [("bfloat16", "float32", "float32"),
                                    ("float16", "float64", "bfloat16"),
                                    ("float32", "float16", "float64")])  # fmt: skip
def test_each_gradient_has_the_dtype_of_its_tensor(dtypes: Any) -> None:
    """As of the sum in the wide precision; also of gradients, which torch differentiates again."""
    shapes = [(40, 6), (6,), (40, 1)]
    inputs = [
        torch.randn(shape).to(getattr(torch, name))
        for shape, name in zip(shapes, dtypes, strict=True)
    ]
    inputs = [x.requires_grad_() for x in inputs]
    y = F.bias_dropout_add(*inputs, 0.3, key=KEY_)
    dy = torch.randn(y.shape, dtype=y.dtype, requires_grad=True)
    gradients = torch.autograd.grad(y, inputs, dy, create_graph=True)
    dx = F.dropout(dy, 0.3, key=KEY_)
    expected = dx, dx.sum(0), dy.sum(1, keepdim=True)
    for x, gradient, whole in zip(inputs, gradients, expected, strict=True):
        assert gradient.dtype == x.dtype
        assert torch.equal(gradient, whole.to(x.dtype))
    (again,) = torch.autograd.grad(gradients[0].sum(), dy, retain_graph=True)
    assert again.dtype == dy.dtype
    ones = torch.ones(shapes[0], dtype=inputs[0].dtype)
    torch.testing.assert_close(
        again, F.dropout(ones.to(dy.dtype), 0.3, key=KEY_), rtol=0.01, atol=0
    )
    x, _, residual = inputs
    y = F.dropout_add(x, residual, 0.3, key=KEY_)
    dx, dr = torch.autograd.grad(y.sum(), (x, residual))
    assert torch.equal(dx, F.dropout(torch.ones_like(y), 0.3, key=KEY_).to(x.dtype))
    assert torch.equal(dr, torch.full_like(residual, 6))
    (dr,) = torch.autograd.grad(F.dropout_add(x, residual, 0.3).sum(), residual)
    assert dr.dtype == residual.dtype


def test_a_residual_stream_stays_in_float32_under_autocast() -> None:
    x, bias = torch.randn(2, 8, requires_grad=True), torch.zeros(8, requires_grad=True)
    linear = torch.nn.Linear(8, 8)
    for module in (ft.DropoutAdd(0.5), ft.BiasDropoutAdd(0.5)):
        for training in (True, False):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                branch = linear(x)
                others = (x,) if isinstance(module, ft.DropoutAdd) else (bias, x)
                y = module.train(training)(branch, *others)
            assert (branch.dtype, y.dtype) == (torch.bfloat16, torch.float32)
            y.sum().backward()
    assert linear.weight.grad.dtype == torch.float32


def test_large_tensors_of_two_dtypes_are_combined_in_reused_memory() -> None:
    x, r = torch.randn(1 << 21).bfloat16(), torch.randn(1 << 21)
    expected = F.dropout_add(x.float(), r, 0.3, key=KEY_)
    for _ in range(2):
        assert torch.equal(F.dropout_add(x, r, 0.3, key=KEY_), expected)


ACTIVATIONS: dict[str, dict[str, float]] = {
    "leaky_relu": {"negative_slope": 0.2}, "elu": {"alpha": 0.7}, "tanh": {}, "sigmoid": {},
    "relu6": {}, "hardswish": {},
}  # fmt: skip


def test_the_fused_gradient_is_that_of_its_parts() -> None:
    """With `create_graph` torch's own operations take over."""
    named = [
        partial(F.activation_dropout, activation=name, **options)
        for name, options in ACTIVATIONS.items()
    ]
    for function in (F.relu_dropout, F.gelu_dropout, F.silu_dropout, *named):
        x = (4 * torch.randn(1000)).requires_grad_()
        y = function(x, 0.3, key=KEY_)
        (fused,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        (parts,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        assert torch.allclose(fused, parts, atol=1e-6)


THEIRS: dict[str, Any] = {
    name: partial(getattr(torch.nn.functional, name), **ACTIVATIONS.get(name, {}))
    for name in ("silu", *ACTIVATIONS)
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", THEIRS)
def test_activations_and_slopes_are_those_of_torch_also_at_corners_and_far_out(
    name: str, dtype: Any
) -> None:
    far = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 700.0, -700.0])
    x = torch.cat([torch.linspace(-60.0, 60.0, 40_001), torch.arange(-8.0, 9.0), -torch.zeros(1)])
    x = torch.cat([x, 1e-3 * x, far]).to(dtype).requires_grad_()
    theirs, options = THEIRS[name](x), ACTIVATIONS.get(name, {})
    for training in (True, False):
        ours = F.activation_dropout(x, 0.0, training, activation=name, **options)
        torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=2e-6, atol=1e-37)
        assert torch.equal(ours.signbit(), theirs.signbit())
    (dx,) = torch.autograd.grad(ours.sum(), x)
    (expected,) = torch.autograd.grad(theirs.sum(), x)
    finite = ~(expected.isnan() | x.isnan())  # torch's slope of SiLU at infinity is NaN
    torch.testing.assert_close(dx[finite], expected[finite], rtol=1e-5, atol=1e-6)
    assert not dx[x.isinf()].isnan().any()


LINEAR: dict[str, tuple[Any, tuple[int, ...]]] = {
    "dropout": (F.dropout, (3, 5, 7)),
    "feature_dropout": (F.feature_dropout, (3, 5, 7)),
    "locked_dropout": (F.locked_dropout, (3, 5, 7)),
    "alpha_dropout": (partial(F.alpha_dropout, training=True), (3, 50)),
    "drop_block2d": (partial(F.drop_block2d, block_size=(2, 3)), (2, 3, 6, 7)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_the_gradient_of_a_linear_call_is_the_call(name: str) -> None:
    function, shape = LINEAR[name]
    x = torch.randn(shape, requires_grad=True)
    y, mask = function(x, 0.3, return_mask=True)
    dy = torch.randn(()).expand(shape)  # as from sum()
    y.backward(dy)
    dropped = x.grad == 0
    kept = torch.from_numpy(np.broadcast_to(mask.to_numpy(), shape).copy())
    assert torch.equal(dropped, ~kept)
    swapped = torch.randn(shape[::-1]).permute(*range(len(shape))[::-1])
    x.grad = None
    function(x, 0.3, mask=mask).backward(swapped)
    first = x.grad
    x.grad = None
    function(x, 0.3, mask=mask).backward(swapped.contiguous())
    assert torch.equal(first, x.grad)


def test_gradients_that_are_sparse_are_taken() -> None:
    """Such as that of an embedding whose words are dropped."""
    weight = torch.randn(6, 4, requires_grad=True)
    rows = F.dropout(weight, 0.5, key=KEY_)
    torch.nn.functional.embedding(torch.tensor([1, 2]), rows, sparse=True).sum().backward()
    expected = F.dropout(torch.ones(6, 4), 0.5, key=KEY_)
    expected[[0, 3, 4, 5]] = 0
    assert torch.equal(weight.grad, expected)


def test_a_layer_keeps_nothing_but_its_key_for_the_gradient() -> None:
    kept: list[int] = []
    x = torch.randn(1 << 16, requires_grad=True)

    def pack(saved: Any) -> Any:
        kept.append(saved.numel() * saved.element_size())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        y = F.dropout(x, 0.3)
        F.drop_path(x[None], 0.3)
        with torch.autograd.forward_ad.dual_level():  # through the operator
            F.dropout(x, 0.3)
    assert sum(kept) < 200
    assert len(pickle.dumps(y.grad_fn.call)) < 256  # names of classes included


def test_calls_in_place_are_recorded_and_counted() -> None:
    x = torch.ones(100, requires_grad=True)
    z = x * 1
    version = z._version
    y = F.dropout(z, 0.5, inplace=True)
    assert y is z
    assert z._version == version + 1
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    plain = torch.ones(100)
    assert F.alpha_dropout(plain, 0.5, True, inplace=True) is plain
    assert plain._version == 1
    needed = x.exp()
    F.dropout(needed, 0.5, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        needed.sum().backward()


class View(torch.autograd.Function):
    """A view that torch did not make."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.view(-1)

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        return dy.view(4, 4)


def _without_grad(base: Any) -> Any:
    with torch.no_grad():
        return base[0]


def _in_inference(make: Callable[[], Any]) -> Callable[[], Any]:
    return torch.inference_mode()(make)


def _leaf() -> Any:
    return torch.ones(4, 4, requires_grad=True)


TARGETS: dict[str, Callable[[], Any]] = {
    "plain": lambda: torch.ones(4, 4),
    "leaf": _leaf,
    "view of a leaf": lambda: _leaf()[0],
    "view of a view of a leaf": lambda: _leaf()[0][1:],
    "detached leaf": lambda: _leaf().detach(),
    "result": lambda: _leaf() * 1,
    "view of a result": lambda: (_leaf() * 1)[0],
    "view of a leaf without grad": lambda: _without_grad(_leaf()),
    "view of a result without grad": lambda: _without_grad(_leaf() * 1),
    "view of a plain tensor without grad": lambda: _without_grad(torch.ones(4, 4)),
    "chunk": lambda: (_leaf() * 1).chunk(2)[0],
    "split": lambda: (_leaf() * 1).split(3)[1],
    "unbind": lambda: (_leaf() * 1).unbind()[0],
    "chunk of a plain tensor": lambda: torch.ones(4, 4).chunk(2)[0],
    "view of a custom function": lambda: View.apply(_leaf() * 1),
    "expanded": lambda: torch.ones(4, 1).expand(4, 4),
    "zeros": lambda: torch._efficientzerotensor(4),
    "inference": _in_inference(lambda: torch.ones(4, 4)),
    "inference leaf": _in_inference(_leaf),
    "view of an inference tensor": lambda: _in_inference(lambda: torch.ones(4, 4))()[0],
    "inference view of a plain tensor": lambda: _in_inference(torch.ones(4, 4).__getitem__)(0),
    "inference view of a result": lambda: _in_inference((_leaf() * 1).__getitem__)(0),
}
MODES = {
    "grad": torch.enable_grad,
    "no grad": torch.no_grad,
    "inference": torch.inference_mode,
}
CALLS: dict[str, Callable[[Any], Any]] = {
    "dropout": lambda x: F.dropout(x, 0.5, inplace=True),
    "alpha": lambda x: F.alpha_dropout(x, 0.5, True, inplace=True),
    "module": lambda x: ft.Dropout(0.5, inplace=True)(x),
    "installed": lambda x: torch.dropout_(x, 0.5, True),
    "installed alpha": lambda x: torch.alpha_dropout_(x, 0.5, True),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", TARGETS)
def test_a_call_in_place_refuses_what_torch_refuses(target: str, mode: str, call: str) -> None:
    """And then changes neither the tensor nor the generator.

    What torch refuses outside of inference mode, it has changed by then.
    """
    x = TARGETS[target]()
    with MODES[mode]():
        try:
            x.mul_(2)
            refused = False
        except RuntimeError:
            refused = True
    x = TARGETS[target]()
    before, state = x.detach().clone(), torch.get_rng_state()
    with ft.installed() if call.startswith("installed") else nullcontext(), MODES[mode]():
        if not refused:
            assert CALLS[call](x) is x
            return
        with pytest.raises(RuntimeError):
            CALLS[call](x)
    assert torch.equal(x.detach(), before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("mode", MODES)
def test_a_call_in_place_counts_as_a_change(mode: str) -> None:
    x = torch.ones(4)
    with MODES[mode]():
        F.dropout(x, 0.5, inplace=True)
    assert x._version == 1


# Keys


def test_a_seed_repeats_a_run() -> None:
    x = torch.ones(100)
    torch.manual_seed(1)
    first, second = F.dropout(x, 0.5), F.dropout(x, 0.5)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    module = ft.Dropout(0.5)
    assert torch.equal(module(x), first)
    with torch.random.fork_rng():
        assert torch.equal(module(x), second)
    assert torch.equal(module(x), second)


def test_a_generator_is_used_instead_of_the_default_one() -> None:
    x = torch.ones(100)
    before = torch.get_rng_state()
    y = F.dropout(x, 0.5, generator=torch.Generator().manual_seed(3))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(3)
    assert torch.equal(F.dropout(x, 0.5), y)


def test_a_generator_of_a_subclass_is_a_generator() -> None:
    class Own(torch.Generator):
        pass

    x = torch.ones(100)
    own, plain = Own().manual_seed(3), torch.Generator().manual_seed(3)
    assert torch.equal(F.dropout(x, generator=own), F.dropout(x, generator=plain))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_of_installed_dropout_draw_the_same_masks_again(reentrant: bool) -> None:
    """Dropout that counted its calls would have wrong gradients here."""
    from torch.utils.checkpoint import checkpoint

    module = torch.nn.Dropout(0.5)
    x = torch.ones(1000, requires_grad=True)
    with ft.installed():
        module(x)  # another draw before
        y = checkpoint(lambda x: module(module(x) * x), x, use_reentrant=reentrant)
        y.sum().backward()
    assert torch.equal(x.grad, 2 * y.detach())


def test_keys_by_step_and_site_do_not_depend_on_the_order_of_calls() -> None:
    def model() -> Any:
        return ft.replace(torch.nn.ModuleDict({"a": torch.nn.Dropout(), "b": torch.nn.Dropout()}))

    x, key = torch.ones(100), fd.Key(0)
    one, other = model(), model()
    ft.set_keys(one, key.fold_in(7))
    first = one["a"](x), one["b"](x)
    ft.set_keys(other, key)
    other["b"](x)
    ft.set_keys(other, key.fold_in(7))
    assert torch.equal(other["b"](x), first[1])
    assert torch.equal(other["a"](x), first[0])
    assert not torch.equal(*first)
    torch.manual_seed(0)
    ft.set_keys(one, None)
    y = one["a"](x)
    torch.manual_seed(0)
    assert torch.equal(y, F.dropout(x, 0.5))


def test_a_shard_gets_its_region_of_the_mask_of_the_whole() -> None:
    whole = fd.Mask((6, 10), 0.4, KEY_)
    x = torch.randn(6, 10, requires_grad=True)
    y = F.dropout(x, mask=whole)
    shards = [x[:, 4 * n : 4 * n + 4] for n in range(3)]
    parts = [
        F.dropout(shard, mask=whole.region((0, 4 * n), tuple(shard.shape)))
        for n, shard in enumerate(shards)
    ]
    assert torch.equal(torch.cat(parts, 1), y)
    (whole_gradient,) = torch.autograd.grad(y.sum(), x)
    (gradient,) = torch.autograd.grad(torch.cat(parts, 1).sum(), x)
    assert torch.equal(gradient, whole_gradient)
    part = torch.func.grad(lambda s: F.dropout(s, mask=whole.region((0, 4), (6, 4))).sum())(
        shards[1].detach()
    )
    assert torch.equal(part, whole_gradient[:, 4:8])


def test_threads_follow_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = _call._forward

    def recorded(*arguments: Any) -> Any:
        seen.append(arguments[-1])
        return forward(*arguments)

    monkeypatch.setattr(_call, "_forward", recorded)
    x, before = torch.randn(1 << 20), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(F.dropout(x, 0.1, key=KEY_))
    finally:
        torch.set_num_threads(before)
    assert list(dict.fromkeys(seen)) == [1, 3]
    assert torch.equal(*results)


# Bad input


def test_what_only_claims_to_be_a_tensor_is_refused() -> None:
    """Would catch a call of torch's own code on another object, which is a crash."""
    pretender = Mock(spec=torch.Tensor)
    assert isinstance(pretender, torch.Tensor)
    with pytest.raises(TypeError, match="key must be a tensor, got Mock"):
        _core.tensor_key(pretender)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((torch.ones(2), "0.5"), {}, TypeError, r"p must be a number in \[0, 1\], got '0.5'"),
        ((torch.ones(2), None), {}, TypeError, r"p must be a number in \[0, 1\], got None"),
        ((torch.ones(2, dtype=torch.complex64),), {}, TypeError, "got torch.complex64"),
        ((torch.ones(2),), {"key": torch.ones(2)}, TypeError, "2 int64 on the CPU, got one of"),
        ((torch.ones(2),), {"generator": np.random.default_rng(0)}, TypeError,
         "generator must be a torch.Generator, got Generator"),
        ((torch.ones(2),), {"mask": torch.ones(2)}, TypeError, "mask must be a Mask"),
        ((torch.ones(2),), {"mask": fd.Mask(3, 0.5, fd.Key(0))}, ValueError, "mask .*broadcast"),
    ],
)  # fmt: skip
def test_bad_input_is_named(
    arguments: Any, options: Any, error: type[Exception], message: str
) -> None:
    state = torch.get_rng_state()
    with pytest.raises(error, match=message) as caught:
        F.dropout(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ((None, torch.ones(2)), "bias must be a tensor, got None; .* call dropout_add$"),
        ((torch.ones(2), None), "residual must be a tensor, got None; .* call dropout$"),
        ((torch.ones(2), np.ones(2)), "residual must be a tensor, got ndarray"),
        ((torch.ones(2).int(), torch.ones(2)), "bias must have dtype .*, got torch.int32"),
        ((torch.ones(2).to_sparse(), torch.ones(2)), "bias must be dense, got .*sparse_coo"),
    ],
)
def test_a_bad_bias_or_residual_is_named(others: Any, message: str) -> None:
    state = torch.get_rng_state()
    for function in (F.bias_dropout_add, ft.BiasDropoutAdd()):
        with pytest.raises((TypeError, ValueError), match=message):
            function(torch.ones(2), *others)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation")
def test_quantised_tensors_are_refused() -> None:
    x = torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.quint8)
    with pytest.raises(TypeError, match=r"input must have dtype .*, got torch.quint8"):
        F.dropout(x)


def test_tensors_on_other_devices_are_refused() -> None:
    with pytest.raises(RuntimeError, match="one device"):
        F.dropout_add(torch.ones(2), torch.ones(2, device="meta"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("logit", [-1.0, 3.0, 800.0, torch.inf, -torch.inf])
def test_concrete_gradients_that_can_be_differentiated_are_the_same(dtype: Any, logit: Any) -> None:
    """They take two draws, the others one; of layouts and gradients of every kind."""
    a = torch.tensor(logit, requires_grad=True)
    for x in (torch.randn(70, 30).t(), torch.randn(()), torch.randn(0, 4)):
        x = x.to(dtype).requires_grad_()
        y = F.concrete_dropout(x, a, key=fd.Key(3))
        for dy in (torch.randn(y.shape).to(dtype), torch.ones((), dtype=dtype).expand(y.shape)):
            one, other = (
                torch.autograd.grad(y, [x, a], dy, retain_graph=True, create_graph=create)
                for create in (False, True)
            )
            assert torch.equal(one[0], other[0])
            torch.testing.assert_close(one[1], other[1])
