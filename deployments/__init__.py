"""Where and how the flows run."""
