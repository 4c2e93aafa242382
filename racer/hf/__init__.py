"""The face to transformers: all of it takes and gives what ``model.generate`` does."""
