"""Pushes to the Hugging Face Hub, and writes the cards (README.md) of models and datasets."""
