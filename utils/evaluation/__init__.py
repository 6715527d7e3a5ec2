"""Ranks of the next clicks, and the figures made of them."""
