"""Other cuts than the published one, to compare with it and with joint training on an equal recipe.

Each changes one thing about Deep Feature Surgery (surgery.py). Notebook 12 and docs/measured.md have the results.

A junction is one file; importing it here, one line, makes its name known to recipes and the command line.
"""

from dfs_edu.cuts.damped import Damped  # noqa: F401
from dfs_edu.cuts.graded import Graded  # noqa: F401
from dfs_edu.cuts.interleaved import Interleaved  # noqa: F401
from dfs_edu.cuts.projection import Projection  # noqa: F401
