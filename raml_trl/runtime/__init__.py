"""Errors, files, the record of a run, and parsing of YAML and command lines."""
