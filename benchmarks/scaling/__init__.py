"""Speed and scale of a merge beside the published algorithm: the parts of ``benchmarks/scale.py``."""
