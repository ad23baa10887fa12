"""The query language, ranking under filters, similar images and duplicates."""
