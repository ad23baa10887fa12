"""The routes, one module for a group of addresses; each gives `router`."""
