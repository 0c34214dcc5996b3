"""Pushes to the Hugging Face Hub, and the cards of models and datasets."""
