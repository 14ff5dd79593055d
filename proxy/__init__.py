"""An HTTP caching proxy in front of LLM provider APIs."""
