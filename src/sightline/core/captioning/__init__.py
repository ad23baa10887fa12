"""Captions of images: ranked from a bank by CLIP, written by a generator, fused, kept in files."""
