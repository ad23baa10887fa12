"""The demo: real photographs that installed libraries carry, indexed, captioned and searched, on one HTML page."""
