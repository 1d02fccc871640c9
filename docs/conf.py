"""Settings of Sphinx. The build needs no network; every warning is an error (see the Makefile)."""

from __future__ import annotations

import flowdist

project = "flowdist"
author = "The flowdist authors"
project_copyright = author
release = version = flowdist.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
default_role = "code"  # single backquotes in a docstring are code

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"flowdist {release}"
