"""Measured figures: each case passes a correctness gate before anything is timed."""
