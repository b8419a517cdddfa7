"""What a wheel brings along beside the package; everything else is in pyproject.toml.

An editable installation finds the same folders in the checkout.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

BROUGHT = {"data/recorded": "recorded", "notebooks": "notebooks"}  # folder of the checkout -> of the package's wheel


class BuildWithFolders(build_py):
    """Also copies the folders of BROUGHT into the built package."""

    def run(self):
        super().run()
        for source, target in BROUGHT.items() if not self.editable_mode else ():
            built = Path(self.build_lib, "dfs_edu", target)
            shutil.rmtree(built, ignore_errors=True)  # of a build before
            shutil.copytree(source, built, ignore=shutil.ignore_patterns(".*", "runs"))


setup(cmdclass={"build_py": BuildWithFolders})
