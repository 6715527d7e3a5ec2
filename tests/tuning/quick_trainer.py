"""Stands in for a trainer: it records epochs, stops and goes on like one, and learns nothing. It takes --name=value."""

import fcntl
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

flags = dict(word[2:].split("=", 1) for word in sys.argv[1:])
rate, model_dir = float(flags.get("base_lr", 0.15)), Path(flags["model_dir"])
model_dir.mkdir(exist_ok=True)
lock = os.open(model_dir, os.O_RDONLY)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit("found another run at work")
asked = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
if rate > 0.4:
    print(f"step:1\n{Path(sys.argv[0]).name}: --base_lr: found a loss of nan", file=sys.stderr)
    sys.exit(2)
metrics = model_dir / "metrics.jsonl"
done = len(metrics.read_text(encoding="utf-8").splitlines()) if metrics.exists() else 0
for epoch in range(done + 1, int(flags.get("pass_num", 8)) + 1):
    time.sleep(0.01)
    if asked:
        time.sleep(0.2)  # as one that saves itself
        sys.exit(143)
    figure = 0.9 - 0.3 * abs(math.log(rate / 0.15)) - 0.1 / epoch + 0.01 * ("valid_dir" in flags)
    directory = model_dir / f"epoch_{epoch}"
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(bytes(1000))
    with open(metrics, "a", encoding="utf-8") as file:
        file.write(json.dumps({"event": "epoch", "epoch": epoch, "recall@20": figure}) + "\n")
