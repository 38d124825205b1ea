"""The commands, one module per subject; :mod:`esmerge.cli` puts them together.

What needs torch, open_clip or Prefect is imported inside of the command that uses it: help, completion and
listings would else wait for seconds.
"""
