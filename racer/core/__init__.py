"""One forward pass over a tree, on an unmodified model."""
