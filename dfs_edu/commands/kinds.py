"""Kinds of options that several commands have. Imports nothing else of the package, so that help comes at once."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import FlagCreatePairsOff, arg

Folder = Annotated[str, arg(metavar="DIR")]
AnyFolder = Annotated[str | None, arg(metavar="DIR")]
File = Annotated[str | None, arg(metavar="FILE")]
Flag = FlagCreatePairsOff[bool]  # --resume, without --no-resume
