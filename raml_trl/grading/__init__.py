"""Grades a completion against a reference answer, in this process or in a pool of child processes."""
