"""A model asked by a person: talked to, and its generation explained token by token, as text and as a page."""
