"""What travels through one step: the tree, the view of the state, the verdict, and what it cost."""
