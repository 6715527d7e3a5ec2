"""Items' vectors in the files that TensorBoard's embedding projector reads."""

import io

import numpy as np

from utils.files import write_atomically
from utils.scorer import load_scorer

VECTORS, METADATA, CONFIG = "tensors.tsv", "metadata.tsv", "projector_config.pbtxt"


def export_items(run, directory, count):
    """Write the output vectors of a runs.Run's `count` most frequent items and their ids; returns the directory.

    An item's vector is its row of the output matrix without the bias: items with near vectors follow the same clicks.
    """
    scorer, item_ids = load_scorer(run.model_dir)
    vectors = scorer.item_vectors[:count]
    names = [str(number) for number in range(len(vectors))] if item_ids is None else item_ids[:count]
    text = io.StringIO()
    np.savetxt(text, vectors, fmt="%.6g", delimiter="\t")
    for name, content in [(VECTORS, text.getvalue()), (METADATA, "".join(f"{name}\n" for name in names)),
                          (CONFIG, f'embeddings {{\n  tensor_name: "items"\n  tensor_path: "{VECTORS}"\n'
                                   f'  metadata_path: "{METADATA}"\n}}\n')]:
        with write_atomically(directory / name) as file:
            file.write(content)
    return directory
