"""Measuring models on sets of pairs: retrieval, zero-shot, compositions, captions, comparisons. Metrics are numpy."""
