"""Fusion of dropout with its neighbours in code that inductor compiles, while it is installed.

A pass over the graph that dynamo has traced joins an activation and the dropout after it, or else
dropout and the residual it is added to. torch differentiates the graph later, so gradients are
fused as well. Pairs have nothing between them, so the order of draws and of changes in place stays.

torch runs the pass that `torch._inductor.config.pre_grad_custom_pass` names. Where torch no longer
has this option, nothing is fused.
"""

import operator
from typing import Any

import torch
import torch._inductor.config
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.fx import Graph, Node
from torch.nn import functional as theirs

from fastdrop import _core
from fastdrop._base.masks import inverse_keep
from fastdrop._base.members import Numbers
from fastdrop.torch._call import How, is_distributed, takes
from fastdrop.torch._dispatch import _in_their_operators, dispatch
from fastdrop.torch._operator import LIBRARY

_OPTION = "pre_grad_custom_pass"

# --- The option -----------------------------------------------------------------------------------


class _Passes(CustomGraphPass):
    """The user's passes, and then ours."""

    def __init__(self, users: Any) -> None:
        self.users = users

    def __call__(self, graph: Graph) -> None:
        for each in self._all():
            each(graph)
        fuse(graph)

    def uuid(self) -> Any:
        """Return what identifies the passes in torch's caches; None if one has no such id."""
        ids = [each.uuid() if isinstance(each, CustomGraphPass) else None for each in self._all()]
        return None if None in ids else (f"fastdrop {_core.__version__}", *ids)

    def _all(self) -> tuple[Any, ...]:
        if self.users is None:
            return ()
        return tuple(self.users) if isinstance(self.users, (list, tuple)) else (self.users,)


def add_pass() -> None:
    """Let inductor run our pass after the user's, whatever the user sets now or later."""
    if hasattr(torch._inductor.config, _OPTION):
        option = property(lambda config: _Passes(_users(config)))
        setattr(type(torch._inductor.config), _OPTION, option)


def remove_pass() -> None:
    """Undo `add_pass`."""
    config: Any = torch._inductor.config
    if _OPTION in vars(type(config)):
        delattr(type(config), _OPTION)
        setattr(config, _OPTION, _users(config))


def _users(config: Any) -> Any:
    """Return the value that the user set, or that code set which saves and restores options."""
    value = config.__getattr__(_OPTION)
    return value.users if isinstance(value, _Passes) else value


# --- The pass -------------------------------------------------------------------------------------

_DROPOUTS: dict[Any, dict[str, Any]] = {
    theirs.dropout: {"p": 0.5, "training": True, "inplace": False},
    torch.dropout: {"p": None, "train": None},
}
"""Functions that drop, and their options with defaults."""

_IN_PLACE = {"inplace": False}

_FORMS: dict[Any, tuple[str, dict[str, Any]]] = {
    function: (operation, options)
    for operation, options, *functions in (
        ("relu", _IN_PLACE, theirs.relu),
        ("relu", {}, torch.relu, "relu"),
        ("gelu", {"approximate": "none"}, theirs.gelu),
        ("silu", _IN_PLACE, theirs.silu),
        ("leaky_relu", {"negative_slope": 0.01, **_IN_PLACE}, theirs.leaky_relu),
        ("elu", {"alpha": 1.0, **_IN_PLACE}, theirs.elu),
        ("tanh", {}, theirs.tanh, torch.tanh, "tanh"),
        ("sigmoid", {}, theirs.sigmoid, torch.sigmoid, "sigmoid"),
        ("relu6", _IN_PLACE, theirs.relu6),
        ("hardswish", _IN_PLACE, theirs.hardswish),
    )
    for function in functions
}
"""Activations: functions, and names of methods. With each its operation, and its options with
defaults; a number among them is the operation's `shift`."""

_SUMS = (operator.add, torch.add, "add")

_PRODUCERS = (
    theirs.linear, theirs.conv1d, theirs.conv2d, theirs.conv3d, theirs.batch_norm,
    theirs.layer_norm, theirs.group_norm,
)  # fmt: skip
"""Functions whose result is a new tensor. An activation in place changes nothing else there."""


def fuse(graph: Graph) -> None:
    """Fuse each dropout of a graph with its activation, or else with its residual."""
    for node in list(graph.nodes):
        drop = _options(node, _DROPOUTS.get(node.target))
        if drop is None or drop.get("training", drop.get("train")) is not True:
            continue
        x, p = drop["input"], drop["p"]
        if not isinstance(x, Node) or (not isinstance(p, Node) and p == 0.0):
            continue
        form = _activation(x)
        if form is not None and _are_neighbours(x, node):
            _replace(graph, (x, node), *form, p)
        elif not drop.get("inplace", False):
            total = next(iter(node.users), None)
            residual = _residual(node, total)
            if residual is not None and _are_neighbours(node, total):
                _replace(graph, (node, total), "add", x, residual, 0.0, p)


def _options(node: Any, defaults: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the arguments of a call by name, or None for another call."""
    if defaults is None or node.op not in ("call_function", "call_method"):
        return None
    names = ("input", *defaults)
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    if len(node.args) > len(names) or not set(given) <= set(names):
        return None
    return {**defaults, **given}


def _activation(node: Node) -> tuple[str, Node, None, float] | None:
    """Return operation, input, no second input, and `shift` of an activation that can be fused."""
    operation, defaults = _FORMS.get(node.target, ("", None))
    options = _options(node, defaults)
    if options is None:
        return None
    x = options.pop("input")
    if not isinstance(x, Node):
        return None
    if options.pop("inplace", False) and not (x.target in _PRODUCERS and len(x.users) == 1):
        return None
    if options.pop("approximate", "none") == "tanh":
        operation += "_tanh"
    shift = next(iter(options.values()), 0.0)
    return (operation, x, None, shift) if isinstance(shift, (int, float)) else None


def _residual(drop: Node, total: Any) -> Node | None:
    """Return what is added to a dropout, if it has the same layout."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    if total is None or total.target not in _SUMS or len(total.args) != 2 or total.kwargs:
        return None
    others = [x for x in total.args if x is not drop]
    if len(others) != 1 or not isinstance(others[0], Node):
        return None
    one, other = (node.meta.get("example_value") for node in (drop, others[0]))
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)) or one.dim() != other.dim():
        return None
    lengths = zip((*one.shape, *one.stride()), (*other.shape, *other.stride()), strict=True)
    return others[0] if all(statically_known_true(m == n) for m, n in lengths) else None


def _are_neighbours(first: Node, second: Any) -> bool:
    """Return whether only `second` uses `first`, with nothing between them but numbers."""
    if len(first.users) != 1:
        return False
    node = first.next
    while node is not second:
        number = node.meta.get("example_value")
        if not isinstance(number, (int, float, torch.SymInt, torch.SymFloat)):
            return False
        node = node.next
    return True


def _replace(graph: Graph, pair: tuple[Node, Any], *arguments: Any) -> None:
    first, second = pair
    with graph.inserting_before(second):
        fused = graph.call_function(torch.ops.fastdrop.fused.default, arguments)
    fused.meta = dict(second.meta)
    second.replace_all_uses_with(fused)
    graph.erase_node(second)
    graph.erase_node(first)


# --- What takes the place of a pair ---------------------------------------------------------------


def _fused(operation: str, input: Tensor, second: Tensor | None, shift: float, p: float) -> Tensor:
    how = How(operation, p, (), Numbers(inverse_keep(p), shift))
    inputs = (input,) if second is None else (input, second)
    known = all(takes(x) and not is_distributed(x) for x in inputs)
    y: Tensor
    if known and p > 0.0 and input.numel() > 0:
        y = dispatch(how, inputs)
    else:
        y = _in_their_operators(how, *inputs)
    return y


LIBRARY.define(
    "fused(str operation, Tensor input, Tensor? second, float shift, float p) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
LIBRARY.impl("fused", _fused, "CompositeImplicitAutograd")
LIBRARY.impl("fused", _fused, "FuncTorchDynamicLayerFrontMode")
