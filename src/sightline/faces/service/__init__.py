"""Work with open libraries for every face: sessions, search, images, captions, jobs. It knows no HTTP."""
