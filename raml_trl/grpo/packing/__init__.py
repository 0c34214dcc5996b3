"""Runs each prompt once per group: packed rows, attention over them, and the model that is called with them."""
