"""Settings of the pages: Markdown sources, one HTML page each."""

from recsys import __version__

project = "recsys"
copyright = "the recsys authors"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
