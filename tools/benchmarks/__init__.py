"""What `benchmark.py` measures, where it takes more than a page."""
