"""The model in plain NumPy, no loops over runs: start reading here."""
