"""Comparison of finished runs, by image."""
