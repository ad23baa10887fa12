"""One search by words as rclip does it, a process for itself: the text tower, then every row, then a full sort.

python benchmarks/search_plain.py ROWS.db TOKENIZER.json TEXT.onnx WORDS...
"""

from __future__ import annotations

import sqlite3
import sys

import numpy as np

TOP = 10


def plain_query(db: sqlite3.Connection, query_D: np.ndarray) -> list[tuple[float, str]]:
    """The best paths with their cosines: every row is read for each query."""
    rows = db.execute("select filepath, vector from images").fetchall()
    matrix_ND = np.stack([np.frombuffer(vector, np.float32) for _, vector in rows])
    return sorted(zip((matrix_ND @ query_D).tolist(), (path for path, _ in rows), strict=True), reverse=True)[:TOP]


def main(database: str, tokenizer: str, graph: str, *words: str) -> None:
    import onnxruntime as ort
    from tokenizers import Tokenizer

    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    ids_1L = np.array([Tokenizer.from_file(tokenizer).encode(" ".join(words)).ids], dtype=np.int64)
    feeds = {"input_ids": ids_1L, "attention_mask": np.ones_like(ids_1L)}
    vector_D = session.run(None, {node.name: feeds[node.name] for node in session.get_inputs()})[0][0]
    for cosine, path in plain_query(sqlite3.connect(database), vector_D / np.linalg.norm(vector_D)):
        print(f"{cosine:.3f} {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
