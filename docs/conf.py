"""Sphinx configuration; `make docs` builds without a network, and every warning is an error."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import generate  # beside this file

from bayesprior.version import __version__

project = "bayesprior"
author = "The bayesprior developers"
copyright = "2026, The bayesprior developers"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_codeautolink",
]
exclude_patterns = ["_build", "examples", "jupyter_execute"]
default_role = "code"  # single backticks, as docstrings write names
html_theme = "furo"
html_title = f"bayesprior {__version__}"

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are executed by the tests

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
suppress_warnings = [
    "ref.python",  # attributes of several classes that share a name
    "codeautolink.match_block",  # an example that prints <...> has no links
]
napoleon_attr_annotations = False  # shapes such as "*N" in annotations are no markup
codeautolink_global_preface = "import bayesprior as bp"


_ESCAPES = (
    (r"(?<![\w*\\`])\*(?=\w)(?![^*]*\w\*(?![\w*]))", r"\\*"),  # (*B,), no emphasis
    (r"\|(?=\S)([^|`]*\S)\|", r"\\|\1\\|"),  # |a - b|, no substitution
    (r"(``[^`]+``)(?=[\w^])", r"\1\\ "),  # ``cov``^-1
    (r"(?<!`)(`[^`]+`)(?=[A-Za-z])", r"\1\\ "),  # `DataBundle`s
)


def escape(app, what, name, obj, options, lines):
    """Let docstrings write shapes, absolute values and plurals as a reader of code expects them."""
    in_example = False
    for i, line in enumerate(lines):
        in_example = bool(line.strip()) and (in_example or line.lstrip().startswith(">>>"))
        if not in_example:
            for pattern, written in _ESCAPES:
                line = re.sub(pattern, written, line)
            lines[i] = line


def setup(app):
    """Write the generated pages before Sphinx looks for sources."""
    app.connect("builder-inited", lambda app: generate.write(Path(app.srcdir)))
    app.connect("autodoc-process-docstring", escape, priority=400)
