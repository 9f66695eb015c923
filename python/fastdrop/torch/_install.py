"""Kernels for torch's own dropout operators on the CPU, so that models need no change."""

import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
import torch.compiler.config
from torch import Tensor

from fastdrop import _core
from fastdrop._base.arguments import as_flag
from fastdrop._base.masks import inverse_keep
from fastdrop._base.members import Member, Numbers
from fastdrop._family.alpha import ALPHA, CHANNELS_ALPHA
from fastdrop._family.dropout import DROPOUT
from fastdrop._family.shared import CHANNELS
from fastdrop.torch import _random
from fastdrop.torch._attention import WIDEST, attention
from fastdrop.torch._autograd import by_operator, native
from fastdrop.torch._call import How, in_core, is_distributed, takes
from fastdrop.torch._compiled import add_pass, remove_pass
from fastdrop.torch._dispatch import dispatch, dispatch_with_mask
from fastdrop.torch._keys import draw_key, key_tensor
from fastdrop.torch._operator import LIBRARY

_aten = torch.ops.aten
_log = logging.getLogger("fastdrop.torch")


class Installed(NamedTuple):
    """The kernels that torch has, and the options of `install`."""

    library: torch.library.Library
    attention: bool
    random: bool


_installed: Installed | None = None

_lock = threading.RLock()
"""Held by what changes `_installed`, and by forks: no child inherits half of a change."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )

_KEYS = ("CPU", "AutogradCPU", "FuncTorchDynamicLayerFrontMode")
"""Dispatch keys: below autograd, with it, and under the transforms of `torch.func`."""

_IN_PYTHON = torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchDynamicLayerFrontMode).raw_repr()
"""The last of them, as machine code names the kernels in Python."""


def install(*, attention: bool = False, random: bool = False) -> None:
    """Take over torch's dropout on the CPU, in this process, until `uninstall`.

    This covers `torch.nn.functional`, `torch.nn`, attention and everything else that calls torch's
    operators ``dropout``, ``feature_dropout``, ``alpha_dropout``, ``feature_alpha_dropout``, their
    forms in place, or ``native_dropout``. ``scaled_dot_product_attention`` with dropout no longer
    stores its weights. Other devices and dtypes keep torch's own kernels. Masks follow
    `torch.manual_seed`, but differ from torch's. Compiled functions are compiled again on their
    next call; inductor then joins dropout with the activation before it or the residual after it.
    Exported programs contain torch's operators, and draw with what is installed where they run.
    The logger "fastdrop.torch" names, at level INFO, the operators that were taken over. Threads
    may install and uninstall at once.

    Forked children inherit this, spawned processes do not. With the environment variable
    FASTDROP_TORCH_INSTALL, processes that import torch install by themselves: "1", "attention",
    "random", or "attention,random". ``python -m fastdrop.torch program.py`` sets it for a program.

    Parameters
    ----------
    attention : bool, default False
        Whether to compute ``scaled_dot_product_attention`` without dropout as well. Results then
        differ from torch's by rounding.
    random : bool, default False
        Whether to draw torch's random numbers as well: ``bernoulli`` of a number or a tensor,
        ``rand``, ``randn``, ``normal``, their forms in place, and ``exponential_``, which
        ``multinomial`` uses. Each call draws a key from its generator, and these numbers from the
        key. They differ from torch's.

    Examples
    --------
    >>> fastdrop.torch.install()
    >>> _ = torch.manual_seed(0)
    >>> y = torch.nn.functional.dropout(torch.ones(4), 0.5)
    >>> fastdrop.torch.uninstall()
    >>> _ = torch.manual_seed(0)
    >>> torch.equal(fastdrop.torch.functional.dropout(torch.ones(4), 0.5), y)
    True
    """
    attention, random = as_flag(attention, "attention"), as_flag(random, "random")
    with _lock:
        if _installed is not None:
            attention, random = attention or _installed.attention, random or _installed.random
            if _installed[1:] == (attention, random):
                return
            uninstall()
        _register(attention, random)
    _log.info("fastdrop computes on the CPU: %s", ", ".join(_names(attention, random)))


def _register(attention: bool, random: bool) -> None:
    """Give torch the kernels."""
    global _installed
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*[Oo]verriding a previously registered")
        for name, kernel in _KERNELS.items():
            library.impl(name, kernel, _KEYS[-1])
        _install_native(library)
        # torch takes attention apart under transforms only, before it looks for other kernels.
        others = {_ATTENTION} if not attention else set()
        if native.ready:
            others |= _NATIVE
        for name in _KERNELS.keys() - others:
            for key in _KEYS[:-1]:
                library.impl(name, _KERNELS[name], key)
        if random:
            _random.register(library)
    _installed = Installed(library, attention, random)
    type(torch.compiler.config).cache_key_tag = property(_tag)
    add_pass()
    _forget()


def _names(attention: bool, random: bool) -> list[str]:
    """Return the operators that fastdrop computes, without their forms in place."""
    names = [member.name for member in _MEMBERS]
    names += ["native_dropout", _ATTENTION + ("" if attention else " with dropout")]
    return names + (["bernoulli", "rand", "randn", "normal", "exponential_"] if random else [])


def is_installed() -> bool:
    """Return whether fastdrop computes torch's dropout in this process.

    >>> with fastdrop.torch.installed():
    ...     fastdrop.torch.is_installed()
    True
    """
    return _installed is not None


VARIABLE = "FASTDROP_TORCH_INSTALL"
"""Environment variable with which processes install by themselves."""


def from_environment() -> dict[str, bool] | None:
    """Return the options of `install` that the environment asks for; None if it does not."""
    text = os.environ.get(VARIABLE, "")
    options = {"attention": False, "random": False}
    words = {word.strip() for word in text.split(",")}
    if words <= {"", "0"}:
        return None
    if not words <= {"1", *options}:
        raise ValueError(
            f'the environment variable {VARIABLE} must be "0", "1", "attention", "random" or '
            f'"attention,random", got {text!r}'
        )
    return {name: name in words for name in options}


def uninstall() -> None:
    """Undo `install`; do nothing if fastdrop is not installed."""
    global _installed
    with _lock:
        if _installed is None:
            return
        native.ready = _core.native_kernels(None)
        _random.unregister()
        _installed.library._destroy()
        _installed = None
        del type(torch.compiler.config).cache_key_tag
        torch.compiler.config.cache_key_tag = _MARK.sub("", torch.compiler.config.cache_key_tag)
        remove_pass()
        _forget()


@contextmanager
def installed(*, attention: bool = False, random: bool = False) -> Iterator[None]:
    """Install for a with block. What was installed before is installed afterwards.

    Where blocks of several threads overlap, the last to end restores that.

    >>> with fastdrop.torch.installed():
    ...     y = torch.nn.functional.dropout(torch.ones(4), 0.5)
    """
    with _lock:
        found = [_installed]
        install(attention=attention, random=random)
        _blocks.append(found)
    try:
        yield
    finally:
        with _lock:
            place = next(number for number, one in enumerate(_blocks) if one is found)
            del _blocks[place]
            if place < len(_blocks):
                _blocks[place][:] = found
            else:
                _restore(found[0])


_blocks: list[list[Installed | None]] = []
"""What each block of `installed` found, of all threads, in the order in which they began."""


def _restore(before: Installed | None) -> None:
    """Install what was installed before."""
    if _installed is not before:
        uninstall()
    if before is not None:
        install(attention=before.attention, random=before.random)


def _with_attention() -> bool:
    """Return whether fastdrop computes attention without dropout as well."""
    settings = _installed  # read once, because another thread may uninstall
    return settings is not None and settings.attention


_MARK = re.compile(r" with fastdrop \S+$")


def _tag(config: Any) -> str:
    """Return the user's tag for torch's caches of compiled code on disk, with a mark of ours.

    The caches identify a function by its graph, which says "dropout" whatever kernel computes it.
    Code that was compiled with our kernels must not run in a program without them, or vice versa.
    The tag is a property, because the user may set it at any time.
    """
    tag = _MARK.sub("", config.__getattr__("cache_key_tag"))
    kernels = "attention" if _with_attention() else "dropout"
    return f"{tag} with fastdrop {_core.__version__}/{kernels}"


def _forget() -> None:
    """Clear torch's cached dispatch for the operators we replace, and its compiled code."""
    for name in (*_KERNELS, "native_dropout", "native_dropout_backward", "type_as"):
        getattr(_aten, name).default._dispatch_cache.clear()
    _random.forget()
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset_code_caches()


def _check_probability(p: float) -> None:
    """Raise torch's error unless p is a probability."""
    if not 0.0 <= p <= 1.0:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {p}")


def _kernel(name: str, member: Member) -> Callable[[Tensor, float, bool], Any]:
    """Return the kernel of an operator that takes a tensor, p and whether to drop."""
    inplace = name.endswith("_")
    of_channels = member.options == ("channel_axis",)

    def kernel(input: Tensor, p: float, train: bool) -> Any:
        _check_probability(p)
        if not train or p == 0.0 or input.numel() == 0:
            return input
        if not takes(input) or torch.compiler.is_exporting():
            return _theirs(name, input, p, train)
        if of_channels and input.dim() < 2:
            raise RuntimeError("Feature dropout requires at least 2 dimensions in the input")
        shared = member.axes(tuple(input.shape), 1) if of_channels else ()
        return dispatch(How.of(member, p, shared), (input,), inplace=inplace)

    return kernel


# --- native_dropout, whose calls torch differentiates itself -------------------------------------


def _install_native(library: torch.library.Library) -> None:
    """Take over ``native_dropout``, in machine code if torch lets us and it proves right."""
    global _gradients
    if _gradients is None:
        _gradients = torch.library.Library("aten", "IMPL")
        _gradients.impl("native_dropout_backward", _backward_of_sparse, "SparseCPU")
        _gradients.impl("native_dropout_backward", _backward_under_transforms, _KEYS[-1])
        _gradients.impl("type_as", _type_as_under_transforms, _KEYS[-1])
    native.ready = _core.native_kernels(_IN_PYTHON)
    library.impl("native_dropout", _native_dropout, _KEYS[-1], with_keyset=True)
    if native.ready and not _is_right():
        native.ready = _core.native_kernels(None)
    if not native.ready:
        for key in _KEYS[:-1]:
            library.impl("native_dropout", _native_dropout, key, with_keyset=True)
        library.impl("native_dropout_backward", _native_dropout_backward, "CPU")


def _is_right() -> bool:
    """Return whether torch's own node computes what ours does: result, gradient, and once more."""
    how, state = How.of(DROPOUT, 0.5), torch.get_rng_state()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            keys = draw_key(None), draw_key(None)
            torch.set_rng_state(state)
            x = torch.arange(1.0, 9.0, requires_grad=True)
            scaled, again = (in_core(how, key, (torch.ones(8),)) for key in keys)
            y = torch.dropout(x, 0.5, True)
            z = torch.dropout_(x * 1, 0.5, True)
            (dx,) = torch.autograd.grad(y * x, x, torch.ones(8), create_graph=True)
            (ddx,) = torch.autograd.grad(dx, x, torch.ones(8))
            (dz,) = torch.autograd.grad(z, x, torch.ones(8))
            return (
                torch.dropout(x, 0.5, False) is x
                and "NativeDropout" in type(y.grad_fn).__name__
                and torch.equal(y, x * scaled)
                and torch.equal(dx, 2 * x * scaled)
                and torch.equal(ddx, 2 * scaled)
                and torch.equal(z, x * again)
                and torch.equal(dz, again)
            )
    except RuntimeError:
        return False
    finally:
        torch.set_rng_state(state)


def _native_dropout(
    keyset: Any, input: Tensor, p: float, train: bool | None
) -> tuple[Tensor, Tensor]:
    """Return the result and the boolean mask."""
    _check_probability(p)
    if train is False or p == 0.0 or input.numel() == 0:
        return input.clone(), torch.ones_like(input, dtype=torch.bool)
    if torch.compiler.is_exporting():
        below = keyset & torch._C._after_autograd_keyset
        with torch._C._AutoDispatchBelowAutograd():
            return _aten.native_dropout.default.redispatch(below, input, p, train)
    if not takes(input):
        mask = torch.empty_like(input, dtype=torch.bool).bernoulli_(1.0 - p)
        return input.mul(mask).mul_(inverse_keep(p)), mask
    return dispatch_with_mask(How.of(DROPOUT, p), input)


def _native_dropout_backward(grad_output: Tensor, mask: Tensor, scale: float) -> Tensor:
    if _installed is None or not takes(grad_output) or mask.dtype is not torch.bool:
        return grad_output * mask * scale
    return in_core(How(DROPOUT.operation, 0.0, (), Numbers(scale)), mask, (grad_output,))


def _backward_of_sparse(grad_output: Tensor, mask: Tensor, scale: float) -> Tensor:
    gradient: Tensor = _aten.native_dropout_backward(grad_output.to_dense(), mask, scale)
    return gradient


def _backward_under_transforms(grad_output: Tensor, mask: Tensor, scale: float) -> Tensor:
    drop = _drop_of(mask)
    return grad_output * mask * scale if drop is None else drop(grad_output) * scale


def _type_as_under_transforms(self: Tensor, other: Tensor) -> Tensor:
    drop = _drop_of(self)
    return self.to(other) if drop is None else drop(torch.ones_like(other))


def _drop_of(mask: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Return what drops as a call did, if its mask is a receipt of the kernels."""
    if type(mask) is not Tensor or mask.dtype is not torch.int64 or mask.dim() != 1:
        return None
    receipt = None
    with suppress(BufferError):  # a tensor without memory of its own, such as a batch
        receipt = _core.read_receipt(mask)
    if receipt is None:
        return None
    key, p, scale, shared = receipt
    how = How(DROPOUT.operation, p, tuple(shared), Numbers(scale))
    return lambda x: by_operator(how, key_tensor(key), None, (x,))


LIBRARY.define("native_dropout(Tensor input, float p, bool? train) -> (Tensor, Tensor)")
LIBRARY.define("native_dropout_backward(Tensor grad_output, Tensor mask, float scale) -> Tensor")
LIBRARY.impl("native_dropout", _native_dropout, "CPU", with_keyset=True)
LIBRARY.impl("native_dropout_backward", _native_dropout_backward, "CPU")

_gradients: torch.library.Library | None = None
"""Kernels that stay, for the gradients of calls from before `uninstall`."""

# --- Attention -----------------------------------------------------------------------------------


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Compute attention of any p."""
    inputs = query, key, value, attn_mask
    wanted = dropout_p > 0.0 or _with_attention()
    if not (wanted and _takes_attention(inputs, is_causal, enable_gqa)):
        arguments = *inputs, dropout_p, is_causal
        return _theirs(_ATTENTION, *arguments, scale=scale, enable_gqa=enable_gqa)
    return _attend(inputs, dropout_p, is_causal, scale, enable_gqa)


def _attention_with_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    dropout_mask: Tensor | None = None,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Compute attention where torch would store its weights, if it drops some.

    torch calls this operator only from ``scaled_dot_product_attention``, and ignores the second
    result, the weights. A program that calls it by name gets them from torch. Attention that torch
    fuses, which has no dropout, does not come here, and costs what it did.
    """
    inputs = query, key, value, attn_mask
    if (
        dropout_p == 0.0
        or dropout_mask is not None
        or not _takes_attention(inputs, is_causal, enable_gqa)
        or _is_called_by_name(sys._getframe(1))
    ):
        arguments = *inputs, dropout_p, is_causal, dropout_mask
        return _theirs(_WITH_WEIGHTS, *arguments, scale=scale, enable_gqa=enable_gqa)
    y = _attend(inputs, dropout_p, is_causal, scale, enable_gqa)
    return y, y.new_empty(0)


def _attend(inputs: Any, p: float, is_causal: bool, scale: float | None, grouped: bool) -> Any:
    _check_probability(p)
    try:
        return attention(inputs, p, is_causal, scale, grouped)
    except ValueError as error:
        raise RuntimeError(str(error)) from None  # torch's type


def _theirs(name: str, *arguments: Any, **options: Any) -> Any:
    """Call torch's own implementation of an operator."""
    operator = getattr(_aten, name).default
    return operator._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *arguments, **options)


def _takes_attention(inputs: tuple[Any, ...], is_causal: bool, grouped: bool) -> bool:
    """Return whether the fused kernel computes a call. torch computes or refuses the others."""
    query, key, value, bias = inputs
    if torch.compiler.is_exporting() or (is_causal and bias is not None):
        return False
    for x in (query, key, value):
        if not takes(x) or is_distributed(x) or x.dtype is not query.dtype:
            return False
        if x.dim() < 2 + grouped or x.numel() == 0 or x.shape[-1] > WIDEST:
            return False
    if key.shape[-1] != query.shape[-1] or value.shape[-2] != key.shape[-2]:
        return False
    if grouped and value.shape[-3] != key.shape[-3]:
        return False
    return bias is None or (bias.is_cpu and (bias.dtype is torch.bool or takes(bias)))


def _is_called_by_name(frame: Any) -> bool:
    """Return whether a Python frame calls the operator by its own name."""
    if frame.f_code not in _CALLS:
        return False
    packet = getattr(_aten, _WITH_WEIGHTS)
    return frame.f_locals["self"] in (packet, packet.default)


_ATTENTION, _WITH_WEIGHTS = "scaled_dot_product_attention", "_scaled_dot_product_attention_math"
_CALLS = (torch._ops.OpOverload.__call__.__code__, torch._ops.OpOverloadPacket.__call__.__code__)

_MEMBERS = (DROPOUT, CHANNELS, ALPHA, CHANNELS_ALPHA)
"""The members that share their name with an operator of torch."""

_NATIVE = {member.name + form for member in (DROPOUT, CHANNELS) for form in ("", "_")}
"""Those of their operators that machine code computes, unless something watches a call."""

_KERNELS: dict[str, Callable[..., Any]] = {
    **{
        member.name + form: _kernel(member.name + form, member)
        for member in _MEMBERS
        for form in ("", "_")
    },
    _ATTENTION: _attention,
    _WITH_WEIGHTS: _attention_with_weights,
}
