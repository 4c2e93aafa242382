"""One interface to everything that decodes: RACER's decoder and transformers' own ``generate``."""
