"""Samples completions outside of training, with transformers, vLLM or an OpenAI-compatible server."""
