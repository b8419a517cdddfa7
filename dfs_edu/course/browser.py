"""Find the browser that draws the figures' PNGs and runs the browser tests."""

from __future__ import annotations

import os
import shutil


def chromium() -> str | None:
    """Return the path of Chrome or Chromium, first of all ``$BROWSER_PATH``; None if neither is installed."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    candidates = [os.environ.get("BROWSER_PATH"), *names]
    return next((path for name in candidates if name and (path := shutil.which(name))), None)
