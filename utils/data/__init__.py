"""Clicks: tables, session text, batches, the vocabulary."""
