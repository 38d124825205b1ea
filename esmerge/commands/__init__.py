"""The commands, one module per subject; :mod:`esmerge.cli` puts them together."""
