"""What a MetricsFrame carries: one record for each thing measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsData:
    """Whose measurement it is."""

    processor: str
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TTFBMetricsData(MetricsData):
    """Seconds from a request to the first byte of its answer."""

    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessingMetricsData(MetricsData):
    """Seconds from a request to the end of its answer."""

    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMTokenUsage:
    """Tokens of one answer, as the vendor counts them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMUsageMetricsData(MetricsData):
    value: LLMTokenUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class TTSUsageMetricsData(MetricsData):
    """Characters that were synthesised."""

    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TextAggregationMetricsData(MetricsData):
    """Seconds from a model's first token to its first whole sentence."""

    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnMetricsData(MetricsData):
    """What a turn model said of the caller's turn; the time is from the end of speech to its word."""

    is_complete: bool
    probability: float  # 0 to 1
    e2e_processing_time_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SmartTurnMetricsData(TurnMetricsData):
    inference_time_ms: float
    server_total_time_ms: float
