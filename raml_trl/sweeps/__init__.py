"""Reads sweep files, runs their trials, and tests claims on the results."""
