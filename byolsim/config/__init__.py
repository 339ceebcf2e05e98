"""Configurations: every hyperparameter declared once, with its type, bounds, help and place."""
