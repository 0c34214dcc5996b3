"""Servers, trainers and launch scripts that several tests use."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
