"""The query language, ranking under filters, similar pictures and duplicates."""
