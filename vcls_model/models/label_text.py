"""Vectors of the classes by what is said of them, so that rare classes can learn from similar ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vcls_model.records.vocabulary import FEWEST_NAMED, ClassInfo

WIDTH = 256
# How much each kind of feature counts in a class's vector. Descriptions say the same with less chance than parts of
# names do: with them, models of 23,000 videos had 0.008 mAP more than by names and topics alone.
_WEIGHTS = {"parts": 1.0, "words": 1.0, "topics": 0.7, "descriptions": 1.5}
_PARTS_BESIDE_DESCRIPTIONS = 0.5


def find_label_vectors(classes: Sequence[ClassInfo], width: int = WIDTH) -> np.ndarray | None:
    """Latent semantic analysis of the classes' names, topics and descriptions.

    Deerwester et al. 1990, "Indexing by Latent Semantic Analysis": the leading singular vectors of the table of classes
    by words, parts of the names' words (three to five letters) and topics, weighted by tf-idf, times the singular
    values.

    Args:
        classes: C classes, by index.
        width: largest number of values per class.

    Returns:
        float32 (C, E), rows of unit length around the origin, or zero for a class that shares nothing with others; None
        where the names say nothing: too few classes, or classes without names.
    """
    # scikit-learn takes a second to import, and most models need no text.
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.utils.extmath import randomized_svd

    names = ["" if info.unnamed else info.name for info in classes]
    topics = [" ".join(each.replace(" ", "_") for each in info.verticals) for info in classes]
    if sum(map(bool, names)) < FEWEST_NAMED:
        return None
    descriptions = [info.description for info in classes]
    sources: dict[str, tuple[list[str], dict[str, Any]]] = {
        "parts": (names, {"analyzer": "char_wb", "ngram_range": (3, 5)}),
        "words": (names, {}),
        "topics": (topics, {"token_pattern": r"\S+"}),
        "descriptions": (descriptions, {"stop_words": "english"}),
    }
    weights = _WEIGHTS | ({"parts": _PARTS_BESIDE_DESCRIPTIONS} if any(descriptions) else {})
    blocks = []
    for source, (texts, options) in sources.items():
        try:
            table = TfidfVectorizer(sublinear_tf=True, min_df=2, **options).fit_transform(texts)
            blocks.append(table * weights[source])
        except ValueError:  # scikit-learn's word for texts that have no word in common
            continue
    if not blocks:
        return None
    table = hstack(blocks).tocsr()
    rank = min(width, *(size - 1 for size in table.shape))
    if rank < 1:
        return None
    left, strengths, _ = randomized_svd(table, rank, n_iter=7, random_state=0)
    vectors = left * strengths
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.maximum(lengths, 1e-12)
    vectors -= vectors.mean(axis=0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return np.where(lengths > 1e-9, vectors, 0).astype(np.float32)
