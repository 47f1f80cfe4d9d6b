"""Erasure on request: a person's, a prompt's or a row's data removed, and what learnt from them retired."""
