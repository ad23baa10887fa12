"""Model cards, the hub, runtimes, encoders, captioners, and the starter models that ship with the package."""
