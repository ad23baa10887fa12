"""Images, captions and vectors as they are kept: a store's contract (`base`) and the embedded backend (`sqlite`)."""
