"""Two-dimensional recurrences: a location takes its state from a vertical and a horizontal neighbor."""
