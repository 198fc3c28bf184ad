"""Sphinx configuration: `sphinx-build -n -W docs OUT` builds the site, without a network.

The page of the command line is made of the commands' own help, a notebook's page of its cells, and names in
docstrings' types are found wherever the API page has them.
"""

import contextlib
import importlib
import io
import json
import os
import re
from pathlib import Path

from detection import __version__
from detection.cli.main import commands

ROOT = Path(__file__).parent.parent

project, author, release = "context-detection", "The detection authors", __version__
copyright = f"2026, {author}"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx-mathjax-offline"]
source_suffix = {".md": "markdown", ".ipynb": "markdown"}
html_theme = "furo"
html_title = f"context-detection {release}"
default_role = "code"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
nitpicky = True
# Names of other packages have no page here.
nitpick_ignore_regex = [(r"py:.*", r"(?!detection\.).*")]
exclude_patterns = ["_build"]


def compose(app, docname: str, source: list[str]) -> None:
    """Put sections of the READMEs where a page names them, commands' help on its page, and cells on a notebook's.

    A paragraph that begins with "On GitHub this page" is for readers of the source alone and is left out.
    """
    if app.env.doc2path(docname).suffix == ".ipynb":
        source[0] = cells(source[0])
    source[0] = re.sub(r"^On GitHub this page .*?(\n\n|\Z)", "", source[0], flags=re.MULTILINE | re.DOTALL)
    source[0] = re.sub(r"^<!-- (\S+): (.*) -->$", lambda found: section(*found.groups()), source[0], flags=re.MULTILINE)
    if docname == "command_line":
        source[0] += "".join(map(help_text, commands()))


def cells(notebook: str) -> str:
    """Return the text and the code of a notebook, which has no stored outputs; nothing is run."""
    parts = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(notebook)["cells"]]
    return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in parts)


def section(file: str, heading: str) -> str:
    """Return what stands under a heading of a file of the checkout, all of it without one, with links from here."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if heading:
        text = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    else:
        text = re.sub("^#", "##", text, flags=re.MULTILINE)
    return re.sub(r"\]\((\.\./)?docs/", "](", text).replace("](datasets/README.md)", "](#data)")


def help_text(name: str) -> str:
    """Return a section with what `detection NAME --help` prints."""
    os.environ["COLUMNS"] = "100"
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        importlib.import_module(f"detection.cli.{name}").main(["--help"])
    return f"\n## detection {name}\n\n```text\n{text.getvalue().strip()}\n```\n"


def find_public(app, env, node, contnode):
    """Link a name that is defined in one module and documented where a package exports it."""
    if node.get("refdomain") != "py":
        return None
    documented = env.domaindata["py"]["objects"]
    name = node["reftarget"].rsplit(".", 1)[-1]
    found = [full for full in documented if full.rsplit(".", 1)[-1] == name and full.startswith("detection.")]
    if node["reftarget"].startswith("detection.") and not found:
        return contnode  # an internal type, which has no page
    if len(found) != 1:
        return None
    entry = documented[found[0]]
    from sphinx.util.nodes import make_refnode

    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, found[0])


def setup(app) -> None:
    """Register the two."""
    app.connect("source-read", compose)
    app.connect("missing-reference", find_public)
