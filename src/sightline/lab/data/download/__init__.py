"""Fetching data sets: archives of publishers, with resume, and lists of addresses anybody may have written."""
