"""A model inspected by a person: chat with it, and its generation explained token by token, as text and as a page."""
