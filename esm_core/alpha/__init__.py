"""The merging coefficient α and its search: what is tried, how it is scored, what is taken."""
