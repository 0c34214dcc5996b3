"""Sweep files, their trials, and what the trials say about claims."""
