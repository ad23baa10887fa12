"""What every face does with open libraries: sessions, search, images, captions, jobs. It knows no HTTP."""
