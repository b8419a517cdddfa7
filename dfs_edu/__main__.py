"""python -m dfs_edu, the same as the command dfs-edu."""

import sys

from dfs_edu.cli import main

sys.exit(main())
