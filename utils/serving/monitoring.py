"""Prometheus metrics of all workers together.

They meet in files in PROMETHEUS_MULTIPROC_DIR, which must be set before this module is imported.
"""

import os
from functools import lru_cache
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

latency = Histogram("gru4rec_request_seconds", "Time from request to reply", ["method", "route"], buckets=SECONDS)
requests = Counter("gru4rec_requests", "Requests by their status", ["method", "route", "status"])
unknown_items = Counter("gru4rec_unknown_items", "Clicks on items that the model doesn't know")
batch_size = Histogram("gru4rec_batch_size", "Sessions answered by one product", buckets=(1, 2, 4, 8, 16, 32, 64))
stored_sessions = Gauge("gru4rec_stored_sessions", "Live sessions in the store", multiprocess_mode="livemostrecent")
workers_with_model = Gauge("gru4rec_model_workers", "Workers that serve this model", ["name", "sha256"],
                           multiprocess_mode="livesum")
reloads = Counter("gru4rec_reloads", "Models that were loaded or refused", ["result"])


@lru_cache(maxsize=1000)
def _series(method, route, status):
    return latency.labels(method, route), requests.labels(method, route, status)


def count_request(method, route, status, seconds):
    histogram, counter = _series(method, route, status)
    histogram.observe(seconds)
    counter.inc()


def count_model(model, before):
    """Count that a model took the place of another, or that one was refused (model None)."""
    reloads.labels("loaded" if model else "refused").inc()
    if model:
        if before:
            workers_with_model.labels(before.name, before.checksum).set(0)
        workers_with_model.labels(model.name, model.checksum).set(1)


def exposition():
    """The text that Prometheus reads, and its content type."""
    if DIRECTORY not in os.environ:
        return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
    for path in Path(os.environ[DIRECTORY]).glob("gauge_live*_*.db"):
        process = int(path.stem.rpartition("_")[2])
        if not Path(f"/proc/{process}").exists() and Path("/proc").exists():
            multiprocess.mark_process_dead(process)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return generate_latest(registry), CONTENT_TYPE_LATEST
