"""Training CLIP: losses, one visible loop, checkpoints, recipes. Needs the extra `train`."""
