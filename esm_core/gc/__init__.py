"""Garbage collection: which parts of a store nothing needs, and their deletion beside running merges."""
