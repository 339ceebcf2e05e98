"""The draws: keyed streams of random numbers, the same on every backend."""
