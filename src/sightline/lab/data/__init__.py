"""Sets of image-caption pairs: one module for each format, splits, downloads, checks, and pixels decoded once."""
