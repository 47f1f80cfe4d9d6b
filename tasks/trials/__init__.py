"""Policies held against each other: candidates of one night, several seeds, and challenger against champion."""
