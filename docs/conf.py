"""How Sphinx builds this documentation: `make docs`, into docs/_build. Needs fastdrop installed."""

import inspect
import sys
from pathlib import Path
from typing import Any, cast

import fastdrop
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

sys.path.insert(0, str(Path(__file__).parent))
import notebook

project = "fastdrop"
author = "The fastdrop developers"
project_copyright = f"2026 {author}. MIT or Apache-2.0"
version = release = fastdrop.__version__

extensions = [
    "directives",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
nitpicky = True  # `make docs` makes an error of every link that goes nowhere
nitpick_ignore_regex = [(r"py:.*", r"(numpy|np|sklearn)\..*")]  # no inventory of theirs is fetched
nitpick_ignore = [("py:obj", "inplace")]  # an attribute that several classes describe

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

# `name` in a docstring links to what has this name, and is set in italics if nothing has.
default_role = "autolink"
toc_object_entries_show_parents = "hide"
autosummary_generate = False  # the pages of reference/ are written by hand
autodoc_mock_imports = [
    "dask",
    "sklearn",
    "xarray",
]  # only to be imported, so that they are not needed
autodoc_typehints = "none"  # the docstrings say it in words
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "special-members": "__call__"}
napoleon_google_docstring = False
napoleon_use_param = False  # types are words such as "array_like of float32", and no links
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]

# Prompts are not copied, and neither is what an example prints.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "fastdrop"
html_static_path = ["_static"]
html_css_files = ["fastdrop.css"]
html_copy_source = False
html_show_sourcelink = False
# No pages stand beside these that a sidebar could show.
ALONE = ["index", "install", "tutorial", "torch", "jax", "genindex", "py-modindex", "search"]
html_sidebars: dict[str, list[str]] = {page: [] for page in ALONE}
html_theme_options = {
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


# Formulas become MathML, which browsers show by themselves: no script, and nothing to load.
def visit_inline(self: Any, node: nodes.math) -> None:
    """Write a formula in a line of text."""
    self.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.math_block) -> None:
    """Write a formula on a line of its own."""
    formula = cast(str, tex2mathml(" ".join(node.astext().split()), as_block=True))
    self.body.append(f'<div class="formula">{formula}</div>')
    raise nodes.SkipNode


def link_inherited(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Element
) -> nodes.reference | None:
    """Link a method that a layer inherits, such as `backward`, to the class that describes it."""
    owner, _, name = node["reftarget"].rpartition(".")
    python = env.domains.python_domain
    for base in inspect.getmro(getattr(fastdrop, owner or node.get("py:class") or "", object)):
        target = f"{base.__module__}.{base.__qualname__}.{name}"
        if target in python.objects:
            return python.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, text)
    return None


def setup(app: Sphinx) -> None:
    """Register what is defined here, and write the notebook that the tutorial offers."""
    notebook.write(Path(app.srcdir) / "_build" / "tutorial.ipynb")
    app.connect("missing-reference", link_inherited)
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))


html_math_renderer = "mathml"
