"""Readers of a team's data: JSONL and CSV files, folders of them, data sets of the Hub.

Every malformed row is collected with its location, so that one run names all that are to be fixed.
"""
