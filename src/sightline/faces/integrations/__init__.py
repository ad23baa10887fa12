"""A library of images in the hands of assistants and services."""
