"""Sweeps over settings, reports, heatmaps: what is studied about models."""
