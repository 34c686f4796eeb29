"""Sphinx configuration; `make docs` builds without a network."""

from bayesprior.version import __version__

project = "bayesprior"
author = "The bayesprior developers"
copyright = "2026, The bayesprior developers"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = "code"  # single backticks, as docstrings write names
html_theme = "furo"
html_title = f"bayesprior {__version__}"

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are executed by the tests

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
