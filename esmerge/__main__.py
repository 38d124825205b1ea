"""Runs the command as ``python -m esmerge``."""

from esmerge.cli import main

main()
