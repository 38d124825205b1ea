"""Measurements of the code in this checkout; not installed."""
