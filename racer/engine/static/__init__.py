"""Steps in static shapes, captured as CUDA graphs or compiled."""
