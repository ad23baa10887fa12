"""Captions against references: BLEU, ROUGE-L and CIDEr as pycocoevalcap computes them, CLIPScore, result files."""
