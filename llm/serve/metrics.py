"""What a server counts, in the format that Prometheus reads."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from llm.inference.scheduler import Scheduler

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "llm_requests", "Requests answered, by path and status.", ["path", "status"], registry=self.registry
        )
        self._prompt_tokens = self._counter("llm_prompt_tokens", "Tokens of prompts.")
        self._cached_tokens = self._counter("llm_prompt_tokens_cached", "Those of them that were in the cache.")
        self._new_tokens = self._counter("llm_generated_tokens", "Tokens generated.")
        self._first_token = self._histogram("llm_time_to_first_token_seconds", "From a request to its first token.")
        self._seconds = self._histogram("llm_request_seconds", "From a request to the end of its answer.")

    def _counter(self, name: str, what: str) -> Counter:
        return Counter(name, what, registry=self.registry)

    def _histogram(self, name: str, what: str) -> Histogram:
        return Histogram(name, what, buckets=_SECONDS, registry=self.registry)

    def watch(self, scheduler: Scheduler) -> None:
        """Show what a scheduler holds at the time of asking."""
        cache = scheduler.cache
        for name, what, value in (
            ("llm_sequences_running", "Sequences in the batch.", lambda: len(scheduler.running)),
            ("llm_sequences_waiting", "Sequences in the queue.", lambda: len(scheduler.waiting)),
            ("llm_cache_tokens", "Tokens that the key-value cache has room for.", lambda: cache.n_tokens),
            (
                "llm_cache_tokens_used",
                "Room in the key-value cache that running sequences take; the rest holds known prefixes or nothing.",
                lambda: cache.n_tokens - cache.n_available * cache.block_size,
            ),
        ):
            Gauge(name, what, registry=self.registry).set_function(value)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count an answer; `path` must be one of a few, or memory would grow."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.observe(seconds)

    def first_token(self, seconds: float) -> None:
        """Note how long a sequence's first token took."""
        self._first_token.observe(seconds)

    def prompt(self, n_tokens: int, n_cached: int) -> None:
        """Count the tokens of a prompt."""
        self._prompt_tokens.inc(n_tokens)
        self._cached_tokens.inc(n_cached)

    def generated(self, n_tokens: int) -> None:
        """Count new tokens."""
        self._new_tokens.inc(n_tokens)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)
