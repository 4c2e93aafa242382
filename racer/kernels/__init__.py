"""Machine code from Python, each kernel with its torch twin: what a step does besides the forward pass."""
