"""Training of the feed-forward engines: losses, mixtures of samples, simulated sensors, the loop and its recipes."""
