"""What a test says that pins words, structure or pixels of scenes."""

SCENES_CHANGED = (
    "Scenes have changed. Raise GRAMMAR_VERSION: it is part of the fingerprint, by which alone pixel caches and "
    "checkpoints tell old scenes from new ones. Then bring docs/scenes.md in line and pin anew."
)
