"""An HTTP caching proxy in front of LLM provider APIs."""

__version__ = "0.1.0"
