"""The pictures of the documentation that are drawn: by whom, and of what. See `__main__`."""
