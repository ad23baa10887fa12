"""What keeps images, captions and vectors: the contract of a store (`base`) and the embedded backend (`sqlite`)."""
