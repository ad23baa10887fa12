"""Bringing a library up to date with folders: walk -> compare -> read and decode -> embed -> write.

`indexer.index` is the door. `plan` finds what has to be read, `reader` reads it in threads, `resolve` says what each
file is (new, changed, touched, renamed, a copy), `embedding` batches, `writing` commits, `pipeline` ties them together,
`lost` forgets what is gone.
"""
