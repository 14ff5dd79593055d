"""The providers that are known by name: where they are, and what they tolerate.

`include_usage` is true only where `stream_options.include_usage` is documented as accepted and is
needed: Mistral and Cohere's compatibility API refuse the field; Fireworks, Together, OpenRouter
and Perplexity tell usage without being asked; Databricks hands it on to models that refuse it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from proxy.models import Provider

_PROVIDERS = (
    Provider("openai", "https://api.openai.com/v1"),
    Provider("anthropic", "https://api.anthropic.com/v1"),
    Provider("groq", "https://api.groq.com/openai/v1"),
    Provider("nvidia", "https://integrate.api.nvidia.com/v1"),
    Provider("fireworks", "https://api.fireworks.ai/inference/v1", include_usage=False),
    Provider("mistral", "https://api.mistral.ai/v1", include_usage=False),
    Provider("together", "https://api.together.ai/v1", include_usage=False),
    Provider("deepseek", "https://api.deepseek.com/v1"),
    Provider("xai", "https://api.x.ai/v1"),
    Provider("openrouter", "https://openrouter.ai/api/v1", include_usage=False),
    Provider("perplexity", "https://api.perplexity.ai", include_usage=False),
    Provider("cohere", "https://api.cohere.ai/compatibility/v1", include_usage=False),
    Provider(
        "gemini",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        include_usage=False,
    ),
    Provider("ollama", "http://localhost:11434/v1", local=True),
    Provider("vllm", "http://localhost:8000/v1", local=True),
    Provider("llamacpp", "http://localhost:8080/v1", local=True),
    # The host of these depends on the account or the region.
    Provider("azure", ""),
    Provider("databricks", "", include_usage=False),
    Provider("vertex", "", include_usage=False),
    Provider("bedrock", "", include_usage=False),
    Provider("watsonx", ""),
)

KNOWN: Mapping[str, Provider] = MappingProxyType({each.name: each for each in _PROVIDERS})

# What to fill in for those without a base URL of their own.
EXAMPLE_BASE_URL: Mapping[str, str] = MappingProxyType(
    {
        "azure": "https://RESOURCE.openai.azure.com/openai/v1",
        "databricks": "https://WORKSPACE/serving-endpoints",
        "vertex": (
            "https://REGION-aiplatform.googleapis.com"
            "/v1/projects/PROJECT/locations/REGION/endpoints/openapi"
        ),
        "bedrock": "https://bedrock-runtime.REGION.amazonaws.com/openai/v1",
        "watsonx": "https://REGION.ml.cloud.ibm.com/ml/gateway/v1",
    }
)

# Whose own clients add the `/v1` of the base URL by themselves.
CLIENTS_WANT_ORIGIN = frozenset({"anthropic"})

# First segments of the proxy's own paths: no provider can be called so.
RESERVED_NAMES = frozenset({"v1", "admin", "healthz", "readyz", "metrics"})
