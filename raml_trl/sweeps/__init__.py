"""Sweeps: read a sweep file, run its trials, and test claims on their results."""
