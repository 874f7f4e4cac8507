"""Headwater's engine and its peers, timed side by side: `make bench`, or `python -m benchmarks.engine`."""
