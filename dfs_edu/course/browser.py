"""The browser that draws figures and drives tests."""

from __future__ import annotations

import os
import shutil


def chromium() -> str | None:
    """Path of the installed Chrome or Chromium, $BROWSER_PATH first; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    candidates = [os.environ.get("BROWSER_PATH"), *names]
    return next((path for name in candidates if name and (path := shutil.which(name))), None)
