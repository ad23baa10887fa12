"""What a fixed expansion does to retrieval, on real captions."""

import numpy as np
import pytest

from conftest import SHARED_DATA
from sightline.core.models.loading import load_encoder
from sightline.faces.integrations.query_expansion import ExpandingEncoder, FixedExpander
from sightline.lab.data.addressing import load_dataset
from sightline.lab.evaluation.embedding import embed_dataset, embed_texts
from sightline.lab.evaluation.retrieval import rank_retrieval


@pytest.mark.slow
@pytest.mark.shared
def test_the_standard_expansion_does_not_lower_recall_on_flickr8k_val():
    encoder = load_encoder("starter")
    embedded = embed_dataset(encoder, load_dataset(f"flickr8k:{SHARED_DATA / 'flickr8k'}", split="val"))
    assert (len(embedded.image_BD), len(embedded.texts)) == (1000, 5000)
    expanded_TD = embed_texts(ExpandingEncoder(encoder, FixedExpander()), embedded.texts)
    found = [
        rank_retrieval(embedded.image_BD, text_TD, embedded.owner_T).image_retrieval.found_at(10)
        for text_TD in (embedded.text_TD, expanded_TD)
    ]
    plain, expanded = (float(np.mean(one)) for one in found)
    print(f"text to image R@10: {plain:.4f} plain, {expanded:.4f} expanded")
    assert plain > 0.2
    assert expanded >= plain
