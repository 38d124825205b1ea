"""Prefect flows: the graph, nothing else."""
