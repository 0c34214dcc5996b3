"""Completions outside of training: transformers, vLLM and OpenAI-compatible servers."""
