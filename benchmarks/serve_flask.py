"""The same answers by Flask, for benchmarks/serve_load.py --server flask: what serve.py is measured against.

    gunicorn --chdir benchmarks --worker-class gthread --threads 8 --workers 2 'serve_flask:application("model_output")'
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flask import Flask, jsonify, request  # noqa: E402

from utils.serving.micro_batches import Question, answer  # noqa: E402
from utils.serving.model_reload import ServedModel  # noqa: E402


def application(model_dir):
    model = ServedModel(model_dir)
    flask = Flask(__name__)

    @flask.get("/readyz")
    def is_ready():
        return {"status": "ready"}

    @flask.post("/v1/recommend")
    def recommend():
        asked = request.get_json()
        answers = answer(model, [Question(session, asked["k"]) for session in asked["sessions"]])
        return jsonify(model={"name": model.name, "sha256": model.weights_checksum}, answers=[
            {"items": found.item_ids, "scores": [round(score, 6) for score in found.scores],
             "unknown_items": found.unknown} for found in answers])

    return flask
