"""What the program needs of the machine: threads, signals, compiled code, files that appear whole."""
