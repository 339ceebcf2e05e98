"""Stored runs: their columns and files, reading a folder, listing, exporting."""
