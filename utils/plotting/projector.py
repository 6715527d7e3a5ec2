"""Items' vectors in the files that TensorBoard's embedding projector reads."""

import io
import json

import numpy as np

from utils.data.item_ids import escape
from utils.model.directory import named_by
from utils.model.load import load_scorer

DIRECTORY = "projector"
VECTORS, METADATA, CONFIG = "tensors.tsv", "metadata.tsv", "projector_config.pbtxt"


def exported_items(runs, count):
    """Ids and output vectors of the `count` most frequent items of each runs.Run, for `tensorboard --logdir`.

    An item's vector is its row of the output matrix without the bias. Items with similar vectors follow the same
    clicks.

    Returns
    -------
    dict
        The contents of the files to write, as bytes, by their names in the directory that has report.html.
    """
    files, blocks = {}, []
    for run in runs:
        with named_by("MODEL_DIR"):
            scorer, item_ids = load_scorer(run.model_dir)
        vectors = scorer.item_vectors[:count]
        names = [str(number) for number in range(len(vectors))] if item_ids is None else item_ids[:count]
        text = io.StringIO()
        np.savetxt(text, vectors, fmt="%.6g", delimiter="\t")
        files[f"{DIRECTORY}/{run.name}/{VECTORS}"] = text.getvalue()
        files[f"{DIRECTORY}/{run.name}/{METADATA}"] = "".join(
            (name if name.isprintable() else escape(name)) + "\n" for name in names)
        entries = {"tensor_name": run.name, "tensor_path": f"{run.name}/{VECTORS}",
                   "metadata_path": f"{run.name}/{METADATA}"}
        lines = [f"  {key}: {json.dumps(value)}\n" for key, value in entries.items()]
        blocks.append("embeddings {\n" + "".join(lines) + "}\n")
    files[f"{DIRECTORY}/{CONFIG}"] = "".join(blocks)
    return {name: text.encode() for name, text in files.items()}
