"""The run: setup, journal, and the runner that asks everybody about everything."""
