"""Models by name: a folder, a GGUF file, a hub id, or the small chat model that comes with RACER."""
