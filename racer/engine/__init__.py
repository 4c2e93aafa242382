"""The decode loop: who plays, what a batch is, and how a step runs."""
