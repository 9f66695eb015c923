"""Functions whose code is rewritten: calls of dropout become calls that may fuse it.

A few expressions in the syntax tree of a `forward` are changed, and the tree is compiled again. All
else stays as the user wrote it: branches, loops, contexts, names that are looked up when the code
runs. The code is left alone unless its source, compiled, is the code that runs.

Two forms are found, in one expression or in two adjacent statements::

    dropout(activation(x))         ->  activated(before, activation, dropout, x)
    residual + dropout(x)          ->  added(residual, dropout, x)

Nothing that has an effect changes its order: where a call of dropout moves behind other
expressions, these only load names, attributes and constants.
"""

import __future__

import ast
import copy
import inspect
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from tokenize import TokenError
from types import CellType, CodeType, FunctionType
from typing import Any, NamedTuple

ACTIVATED, ADDED, ADDED_LEFT, PARTIAL = (
    f"_fastdrop_{name}" for name in ("activated", "added", "added_left", "partial")
)
"""Names of the functions that rewritten code calls."""

_FUTURE = sum(getattr(__future__, name).compiler_flag for name in set(__future__.all_feature_names))
_SCOPES = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.ListComp, ast.SetComp,
    ast.DictComp, ast.GeneratorExp,
)  # fmt: skip
_LOOKS_AT_FRAMES = ("locals", "vars", "eval", "exec", "super", "dir")


class Site(NamedTuple):
    """A place in the code where dropout can be fused."""

    dropout: str
    """Name of the module's child; empty for a function."""
    partner: ast.expr | None
    """The activation; None for a residual."""
    before: str
    """Name of the child whose result is activated, if known."""
    keywords: list[ast.keyword]
    """The activation's other arguments."""


class Rewritten(NamedTuple):
    """A function that was rewritten, or the reason why it was not."""

    function: FunctionType | None
    sites: list[Site]
    reason: str = ""


def rewrite(
    function: Any, role: Callable[[str, ast.expr], str], helpers: dict[str, Callable[..., Any]]
) -> Rewritten:
    """Return a function in which dropout is fused where `role` finds it.

    `role` tells what the callee of a call does: "dropout", "activation", or nothing. It also takes
    the name of the first argument, the module. `helpers` are the functions that the code calls, by
    name.
    """
    if not isinstance(function, FunctionType):
        return Rewritten(None, [], "its container's forward is not a function of Python")
    code = function.__code__
    try:
        lines, _ = inspect.findsource(function)
        source = inspect.getsource(function)
        # A block takes indented code as it is; strings of several lines keep their indentation.
        block: Any = ast.parse(f"if True:\n{source}" if source[0].isspace() else f"\n{source}")
        tree = block.body[0].body[0] if source[0].isspace() else block.body[0]
        imported = _imported("".join(lines))
    except (OSError, TypeError, SyntaxError, ValueError, TokenError):
        return Rewritten(None, [], "the source of its container's forward is not available")
    if not isinstance(tree, ast.FunctionDef) or tree.decorator_list:
        return Rewritten(None, [], "its container's forward is decorated")
    arguments = [*tree.args.posonlyargs, *tree.args.args]
    if not arguments or not _is_plain(tree, code, arguments[0].arg):
        return Rewritten(None, [], "its container's forward uses scopes that cannot be moved")
    ast.increment_lineno(tree, code.co_firstlineno - 2)
    if not _same(_compiled(copy.deepcopy(tree), code, imported, ()), code):
        return Rewritten(None, [], "its container's forward is not what its source says")
    rewriter = _Rewriter(tree, role, arguments[0].arg)
    rewriter.rewrite()
    if not rewriter.sites:
        return Rewritten(None, [])
    changed = _compiled(tree, code, imported, tuple(helpers))
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    cells |= {name: CellType(helper) for name, helper in helpers.items()}
    new = FunctionType(
        changed, function.__globals__, function.__name__, function.__defaults__,
        tuple(cells[name] for name in changed.co_freevars),
    )  # fmt: skip
    new.__kwdefaults__ = function.__kwdefaults__
    for name in ("__module__", "__qualname__", "__doc__"):
        setattr(new, name, getattr(function, name))
    return Rewritten(new, rewriter.sites)


def _is_plain(tree: ast.FunctionDef, code: CodeType, module: str) -> bool:
    """Return whether names mean the same in rewritten code, and its variables are its own."""
    for node in ast.walk(tree):
        names = (getattr(node, field, None) or "" for field in ("id", "attr", "arg"))
        name = next((one for one in names if isinstance(one, str) and one), "")
        private = name.startswith("__") and not name.endswith("__")
        if private or (isinstance(node, ast.Name) and name in _LOOKS_AT_FRAMES):
            return False
        if isinstance(node, (ast.NamedExpr, ast.Global, ast.Nonlocal, ast.Yield, ast.YieldFrom)):
            return False
        if isinstance(node, ast.Name) and name == module and not isinstance(node.ctx, ast.Load):
            return False
    return "__class__" not in code.co_freevars and not getattr(tree, "type_params", ())


@lru_cache(4)
def _imported(source: str) -> tuple[str, ...]:
    """Return the names that a module imports; calls of their attributes have code of their own."""
    names: set[str] = set()
    rest: list[ast.AST] = [*ast.parse(source).body]
    while rest:
        node: Any = rest.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update(one.asname or one.name.partition(".")[0] for one in node.names)
        elif not isinstance(node, _SCOPES):
            rest += ast.iter_child_nodes(node)
    return tuple(sorted(names - {"*"}))


def _compiled(
    tree: ast.FunctionDef, code: CodeType, imported: tuple[str, ...], helpers: tuple[str, ...]
) -> CodeType:
    """Compile a function inside another, whose variables it takes from outside."""
    names = (*code.co_freevars, *helpers)
    imports = "".join(f"import _ as {name}\n" for name in imported)
    outer = ast.parse(f"{imports}def outer({', '.join(names)}): pass")
    body: Any = outer.body[-1]
    body.body = [tree]
    ast.fix_missing_locations(outer)
    flags = code.co_flags & _FUTURE
    found: Any = compile(outer, code.co_filename, "exec", flags=flags, dont_inherit=True)
    for name in ("outer", tree.name):
        found = next(
            one for one in found.co_consts if isinstance(one, CodeType) and one.co_name == name
        )
    compiled: CodeType = found
    return compiled


def _same(one: CodeType, other: CodeType) -> bool:
    """Return whether two codes do the same, wherever they were compiled."""
    names = (
        "co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_argcount",
        "co_posonlyargcount", "co_kwonlyargcount",
    )  # fmt: skip
    if any(getattr(one, name) != getattr(other, name) for name in names):
        return False
    pairs = list(zip(one.co_consts, other.co_consts, strict=False))
    return len(one.co_consts) == len(other.co_consts) and all(
        _same(a, b) if isinstance(a, CodeType) and isinstance(b, CodeType)
        else type(a) is type(b) and repr(a) == repr(b)
        for a, b in pairs
    )  # fmt: skip


def is_simple(node: ast.AST | None) -> bool:
    """Return whether an expression only loads a name, an attribute or a constant."""
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Not) and is_simple(node.operand)
    if isinstance(node, ast.Attribute):
        return is_simple(node.value)
    return isinstance(node, (ast.Name, ast.Constant))


class _Rewriter:
    """One pass over a function for activations, and one for residuals."""

    def __init__(
        self, tree: ast.FunctionDef, role: Callable[[str, ast.expr], str], module: str
    ) -> None:
        self._tree, self._module, self._role = tree, module, partial(role, module)
        self.sites: list[Site] = []
        self._pending: ast.expr | None = None
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        self._loads = [node.id for node in names if isinstance(node.ctx, ast.Load)]
        self._loads += [
            node.target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)
        ]
        self._captured = {
            node.id
            for scope in ast.walk(tree)
            if isinstance(scope, _SCOPES) and scope is not tree
            for node in ast.walk(scope)
            if isinstance(node, ast.Name)
        }

    def rewrite(self) -> None:
        """Rewrite the function."""
        for find in (self._activation, self._residual):
            self._block(self._tree.body, find, True)

    def _block(self, block: list[ast.stmt], find: Any, joins: bool) -> None:
        """Rewrite statements, each by itself, and together with the next if it `joins` them."""
        for n, statement in enumerate(block):
            if isinstance(statement, _SCOPES):
                continue
            # After an exception, code behind these blocks may read the variable.
            catches = ast.Try, ast.TryStar, ast.With
            inside = joins and not isinstance(statement, catches)
            for field, value in ast.iter_fields(statement):
                if isinstance(value, ast.expr):
                    setattr(statement, field, self._expression(value, find))
                elif isinstance(value, list):
                    for k, each in enumerate(value):
                        if isinstance(each, ast.expr):
                            value[k] = self._expression(each, find)
                        elif isinstance(each, (ast.ExceptHandler, ast.match_case)):
                            self._block(each.body, find, inside)
                        elif isinstance(each, ast.withitem):
                            each.context_expr = self._expression(each.context_expr, find)
                    if value and isinstance(value[0], ast.stmt):
                        self._block(value, find, inside)
            if joins and n:
                self._join(block[n - 1], statement, find)

    def _expression(self, node: Any, find: Any) -> Any:
        """Return an expression with the calls in it rewritten."""
        if isinstance(node, _SCOPES):
            return node
        for field, value in ast.iter_fields(node):
            if isinstance(value, ast.expr):
                setattr(node, field, self._expression(value, find))
            elif isinstance(value, list):
                for k, each in enumerate(value):
                    if isinstance(each, ast.keyword):
                        each.value = self._expression(each.value, find)
                    elif isinstance(each, ast.expr):
                        value[k] = self._expression(each, find)
        return find(node, {}) or node

    def _join(self, first: ast.stmt, second: ast.stmt, find: Any) -> None:
        """Fuse a call whose result the next statement uses, and nothing else."""
        if not (isinstance(first, ast.Assign) and isinstance(second, (ast.Assign, ast.Return))):
            return
        target = first.targets[0]
        if len(first.targets) != 1 or not isinstance(target, ast.Name) or second.value is None:
            return
        name = target.id
        inside = [one for one in ast.walk(second) if isinstance(one, ast.Name) and one.id == name]
        loads = [one for one in inside if isinstance(one.ctx, ast.Load)]
        ends = isinstance(second, ast.Return) or any(
            isinstance(one, ast.Name) and one.id == name for one in second.targets
        )
        if len(loads) != 1 or name in self._captured:
            return
        if not (ends or self._loads.count(name) == 1):
            return
        for parent, field, index, node in _first_evaluated(second, "value", second.value):
            new = find(node, {name: first.value})
            if new is not None:
                if index is None:
                    setattr(parent, field, new)
                else:
                    getattr(parent, field)[index] = new
                assert self._pending is not None
                first.value = self._pending
                return

    def _activation(self, node: Any, known: dict[str, ast.expr]) -> ast.expr | None:
        """Return the fused form of ``dropout(activation(x))``, or None.

        `known` is a variable that holds ``activation(x)``; it will hold x.
        """
        dropper = self._dropper(node)
        if dropper is None:
            return None
        inner = node.args[0]
        call = known.get(inner.id) if isinstance(inner, ast.Name) else None if known else inner
        if not isinstance(call, ast.Call) or self._role(call.func) != "activation":
            return None
        keywords = [one for one in call.keywords if one.arg is not None and is_simple(one.value)]
        if len(call.args) != 1 or isinstance(call.args[0], ast.Starred):
            return None
        if len(keywords) != len(call.keywords) or (known and not is_simple(call.func)):
            return None
        (x,) = call.args
        before = x.func if isinstance(x, ast.Call) and self._child(x.func) else None
        activation = call.func
        if keywords:
            activation = ast.Call(_name(PARTIAL), [activation], keywords)
        child, producer = self._child(node.func), self._child(before)
        self.sites.append(Site(child, call.func, producer, keywords))
        self._pending = x
        loaded = copy.deepcopy(before) if before is not None else ast.Constant(None)
        value = inner if known else x
        new = ast.Call(_name(ACTIVATED), [loaded, activation, dropper, value], [])
        return ast.copy_location(new, node)

    def _residual(self, node: Any, known: dict[str, ast.expr]) -> ast.expr | None:
        """Return the fused form of ``residual + dropout(x)``, in either order, or None.

        `known` is a variable that holds ``dropout(x)``; it will hold x.
        """
        if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)):
            return None
        for part, other, after in (
            (node.right, node.left, False), (node.left, node.right, True),
        ):  # fmt: skip
            call = known.get(part.id) if isinstance(part, ast.Name) else None if known else part
            dropper = self._dropper(call)
            if dropper is None or ((after or known) and not is_simple(other)):
                continue
            assert isinstance(call, ast.Call)
            self.sites.append(Site(self._child(call.func), None, "", []))
            self._pending = call.args[0]
            x = part if known else call.args[0]
            if after:
                new = ast.Call(_name(ADDED_LEFT), [dropper, x, other], [])
            else:
                new = ast.Call(_name(ADDED), [other, dropper, x], [])
            return ast.copy_location(new, node)
        return None

    def _dropper(self, call: Any) -> ast.expr | None:
        """Return an expression for a call of dropout without its input, or None.

        It is the module, or a tuple of a function and its other arguments.
        """
        if not isinstance(call, ast.Call) or self._role(call.func) != "dropout" or not call.args:
            return None
        others = [*call.args[1:], *(one.value for one in call.keywords)]
        if isinstance(call.args[0], ast.Starred) or not all(map(is_simple, others)):
            return None
        if any(one.arg is None for one in call.keywords):
            return None
        given = dict(zip(("p", "training", "inplace"), call.args[1:], strict=False))
        inplace = (given | {one.arg: one.value for one in call.keywords}).get("inplace")
        if inplace is not None and getattr(inplace, "value", True) is not False:
            return None
        if self._child(call.func):
            return None if others else call.func
        options = ast.Dict(
            [ast.Constant(one.arg) for one in call.keywords], [one.value for one in call.keywords]
        )
        arguments = ast.Tuple(call.args[1:], ast.Load())
        return ast.Tuple([call.func, arguments, options], ast.Load())

    def _child(self, node: Any) -> str:
        """Return the name of the module's attribute that an expression loads, or nothing."""
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == self._module
        ):
            return node.attr
        return ""


def _name(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _first_evaluated(
    parent: ast.AST, field: str, node: ast.AST, index: int | None = None
) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Yield expressions before which only simple ones are evaluated, with their places."""
    yield parent, field, index, node
    if isinstance(node, ast.Call):
        if not is_simple(node.func):
            yield from _first_evaluated(node, "func", node.func)
            return
        yield from _in_order(node, "args", node.args)
    elif isinstance(node, ast.BinOp):
        yield from _first_evaluated(node, "left", node.left)
        if is_simple(node.left):
            yield from _first_evaluated(node, "right", node.right)
    elif isinstance(node, ast.Tuple):
        yield from _in_order(node, "elts", node.elts)
    elif isinstance(node, (ast.Attribute, ast.Subscript)):
        yield from _first_evaluated(node, "value", node.value)


def _in_order(parent: ast.AST, field: str, nodes: list[ast.expr]) -> Any:
    for index, node in enumerate(nodes):
        if isinstance(node, ast.Starred):
            return
        yield from _first_evaluated(parent, field, node, index)
        if not is_simple(node):
            return
