"""Pixels of one file: walking folders, decoding, preprocessing, thumbnails, hashes. Import its modules directly."""
