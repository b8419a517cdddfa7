"""What a reader moves: sliders, galleries and live views."""
