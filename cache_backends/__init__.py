"""Caches for the answers of language models, usable without the proxy."""
