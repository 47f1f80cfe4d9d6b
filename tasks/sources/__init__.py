"""Readers of what a team brings: JSONL and CSV files, folders of them, data sets of the Hub.

Every malformed row is collected with its place, so that one run names all that has to be mended.
"""
