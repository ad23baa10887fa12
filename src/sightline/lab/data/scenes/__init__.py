"""Images that we render, with sentences that are true of them and sentences that are almost so: `docs/scenes.md`."""
