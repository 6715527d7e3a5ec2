"""Prometheus metrics of all workers together.

They meet in files in PROMETHEUS_MULTIPROC_DIR, which must be set before this module is imported. A worker that can't
write there counts for itself.
"""

import logging
import os
import tempfile
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
    values,
)
from prometheus_client.mmap_dict import MmapedDict

from utils.serving.shared_directory import restore

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
RESERVED = 512 << 10  # bytes of a file; all series of a worker take fewer
SECONDS = (0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

logger = logging.getLogger("gru4rec")


class ReservedFile(MmapedDict):
    """A worker's file of values. It has its place on the disk before it is mapped to memory.

    Otherwise the process would be killed where it writes a value and the disk, or /dev/shm, is full.
    """

    def __init__(self, path, read_mode=False):
        try:
            if not read_mode:
                restore(os.path.dirname(path))
                _reserve(path)
        except OSError as error:
            logger.error("metrics of this worker stay its own", extra={"path": path, "reason": str(error)})
            path = _own_file()
        super().__init__(path, read_mode)

    def _init_value(self, key):
        if self._used + len(key.encode()) + 32 > self._capacity:  # it is about to be doubled
            _allocate(self._f, 2 * self._capacity)
        super()._init_value(key)


def _reserve(path):
    """Make a file of zeros that takes up its place. If an earlier process of our number left one, take it up for that.
    """
    if os.path.exists(path):
        with open(path, "r+b") as file:
            return _allocate(file, RESERVED)
    new = f"{path}.new"  # so that nobody reads it before it has its size
    try:
        with open(new, "wb") as file:
            _allocate(file, RESERVED)
        os.rename(new, path)
    except OSError:
        Path(new).unlink(missing_ok=True)
        raise


def _allocate(file, size):
    """Have the disk keep place for so many bytes of an open file, which has them then."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:  # macOS
        there = os.fstat(file.fileno()).st_size
        os.pwrite(file.fileno(), bytes(max(0, size - there)), there)


def _own_file():
    """The path of an empty file for this process alone, in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        return f"/proc/self/fd/{os.memfd_create('metrics')}"
    return tempfile.mkstemp(prefix="gru4rec_metrics_")[1]


values.MmapedDict = ReservedFile
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
            workers_with_model.labels(before.name, before.weights_checksum).set(0)
        workers_with_model.labels(model.name, model.weights_checksum).set(1)


def exposition():
    """The text that Prometheus reads, and its content type."""
    if DIRECTORY not in os.environ:
        return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
    try:
        for path in Path(os.environ[DIRECTORY]).glob("gauge_live*_*.db"):
            process = int(path.stem.rpartition("_")[2])
            if not Path(f"/proc/{process}").exists() and Path("/proc").exists():
                multiprocess.mark_process_dead(process)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry), CONTENT_TYPE_LATEST
    except (OSError, ValueError):  # the directory, or a file in it, is gone
        return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
