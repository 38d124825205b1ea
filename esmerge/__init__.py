"""The esmerge command."""
