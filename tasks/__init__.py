"""Prefect tasks: load a plan by reference, call one function of esm_core, return a reference."""
