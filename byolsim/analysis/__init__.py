"""Reading result folders and drawing them; nothing here runs a simulation."""
