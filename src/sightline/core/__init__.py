"""The library: images, the models that see and describe them, the store, indexing, searching and captioning."""
