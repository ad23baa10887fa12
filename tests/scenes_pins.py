"""What a test says that pins words, structure or pixels of scenes."""

SCENES_CHANGED = (
    "What scenes are has changed. Raise GRAMMAR_VERSION, the only thing that pixel caches and checkpoints tell old scenes "
    "from new ones by (it is part of the fingerprint); then bring docs/scenes.md in line and pin anew."
)
