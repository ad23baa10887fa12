"""Bringing a library up to date with folders: walk -> compare -> read and decode -> embed -> write.

`indexer.index` is the door and runs the rest. `plan` finds what has to be read, `reading` reads it in threads,
`resolve` says what each file is (new, changed, touched, renamed, a copy) and forgets what is gone.
"""
