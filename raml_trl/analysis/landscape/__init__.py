"""The loss landscape around a model."""
