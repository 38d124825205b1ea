"""Fine-tunes land in a running stack, and the platform does the rest."""
