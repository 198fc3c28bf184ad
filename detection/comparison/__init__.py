"""Comparison of finished runs, by metric and by image."""
