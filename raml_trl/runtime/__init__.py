"""Errors, files, the record of a run, and the parsing of YAML and command lines."""
