"""Interactive parts of a notebook: sliders, galleries and live figures."""
