"""Directives of the reference.

`objects` describes names of a module by autodoc. `from-source` describes them without importing the
module, because `fastdrop.torch` and `fastdrop.jax` need PyTorch and JAX, which the site is built
without:

    .. from-source:: fastdrop.torch

       install
       Dropout(p=0.5, inplace=False)

A signature is needed only where a class inherits its constructor from another library. `names`
lists the names of `objects` on another page of the folder, with the first line of each.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.ext.autosummary import Autosummary
from sphinx.ext.napoleon.docstring import NumpyDocstring
from sphinx.util.docutils import SphinxDirective

PACKAGE = Path(__file__).parent.parent / "python"

Definition = ast.FunctionDef | ast.ClassDef


def tree(module: str) -> ast.Module:
    """Parse a module of the package."""
    path = PACKAGE.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def find(module: str, name: str) -> tuple[str, Definition] | None:
    """Find the definition of a name, and the module it stands in."""
    for node in reversed(tree(module).body):  # overloads precede the function they describe
        if isinstance(node, Definition) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastdrop"):
            for imported in node.names:
                if (imported.asname or imported.name) == name:
                    return find(str(node.module), imported.name)
    return None


def lineage(module: str, node: ast.ClassDef) -> Iterator[ast.ClassDef]:
    """Yield a class and those of its bases that the package defines."""
    yield node
    for base in node.bases:
        found = find(module, ast.unparse(base))
        if found is not None and isinstance(found[1], ast.ClassDef):
            yield from lineage(found[0], found[1])


def signature(function: ast.FunctionDef, method: bool = False) -> str:
    """Write a signature without annotations."""
    copy = ast.parse(ast.unparse(function)).body[0]
    assert isinstance(copy, ast.FunctionDef)
    arguments = copy.args
    if method:
        del arguments.args[0]
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
        argument.annotation = None
    shared = arguments.kwarg is not None and arguments.kwarg.arg == "call"
    if arguments.kwarg is not None and arguments.kwarg.arg in ("unknown", "call"):
        arguments.kwarg = None
    text = ast.unparse(arguments)
    if shared:  # keywords of all functions of JAX
        star = "" if arguments.kwonlyargs else ", *"
        text += f"{star}, key=None, deterministic=False, whole=None, start=None"
    return f"({text})"


class FromSource(SphinxDirective):
    """Describe names of a module from its source."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the descriptions."""
        module = self.arguments[0]
        lines = [f".. py:currentmodule:: {module}", ""]
        for entry in self.content:
            if entry.strip():
                name, bracket, rest = entry.strip().partition("(")
                lines += self.described(module, name, bracket + rest)
        return self.parse_text_to_nodes("\n".join(lines))

    def described(self, module: str, name: str, given: str) -> list[str]:
        """Return the description of a name."""
        found = find(module, name)
        if found is None:
            raise self.error(f"{module} has no {name}")
        home, node = found
        if isinstance(node, ast.FunctionDef):
            return self.entry("function", name + signature(node), node)
        classes = list(lineage(home, node))
        members = {
            member.name: member
            for owner in reversed(classes)
            for member in owner.body
            if isinstance(member, ast.FunctionDef)
        }
        constructor = members.pop("__init__", None)
        if constructor is not None and not given:
            given = signature(constructor, method=True)
        described = self.entry("class", name + given, node)
        for member in node.body:
            if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                described += self.indented(self.member(member))
        return described

    def member(self, node: ast.FunctionDef) -> list[str]:
        """Return the description of a method or property; none of a setter."""
        decorators = [ast.unparse(one) for one in node.decorator_list]
        if f"{node.name}.setter" in decorators:
            return []
        if "property" in decorators:
            return self.entry("property", node.name, node)
        return self.entry("method", node.name + signature(node, method=True), node)

    def entry(
        self, kind: Literal["class", "function", "method", "property"], title: str, node: Definition
    ) -> list[str]:
        """Return a description with its docstring."""
        text = NumpyDocstring(ast.get_docstring(node) or "", self.config, what=kind).lines()
        return [f".. py:{kind}:: {title}", "", *self.indented(text), ""]

    def indented(self, lines: list[str]) -> list[str]:
        """Indent lines by a level."""
        return [f"   {line}" if line else "" for line in lines]


class Objects(SphinxDirective):
    """Describe names of a module that can be imported, by autodoc."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the descriptions."""
        lines = [f".. currentmodule:: {self.arguments[0]}", ""]
        for name in filter(None, map(str.strip, self.content)):
            kind = "class" if name[0].isupper() else "function"
            lines.append(f".. auto{kind}:: {name}")
        return self.parse_text_to_nodes("\n".join(lines))


class Names(Autosummary):
    """List the names that a page describes."""

    required_arguments = 1
    has_content = False

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        page = Path(self.env.doc2path(self.env.docname)).with_name(f"{self.arguments[0]}.md")
        names = []
        pattern = r"^\.\. objects:: (\S+)\n\n((?:   .*\n)+)"
        for module, listed in re.findall(pattern, page.read_text("utf-8"), re.MULTILINE):
            prefix = f"{module}.".removeprefix("fastdrop.")
            names += [prefix + name for name in listed.split()]
        self.env.ref_context["py:module"] = "fastdrop"
        self.content = StringList(names, source=str(page))
        self.options["nosignatures"] = None
        return super().run()


def setup(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("from-source", FromSource)
    app.add_directive("objects", Objects)
    app.add_directive("names", Names)
