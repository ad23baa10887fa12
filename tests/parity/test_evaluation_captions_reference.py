"""The same figures as the reference implementations.

pycocoevalcap 1.2 (github.com/salaniz/pycocoevalcap) was run with its own tokenizer, Stanford CoreNLP 3.4.1 under Java
17; what it answered is written down here. The clipscore example and its figures are published in the README of
github.com/jmhessel/clipscore (MIT).
"""

import hashlib
import json

import numpy as np
import pytest

from conftest import SHARED_DATA
from sightline.lab.evaluation.captions.metrics import score_words
from sightline.lab.evaluation.captions.tokenizing import tokenize_caption

TOKENS = [
    ("A man's dog can't run, but it won't stop.", "a man 's dog ca n't run but it wo n't stop"),
    (
        "I'm sure they've seen what he'd do; she'll say \"it's O.K.\"",
        "i 'm sure they 've seen what he 'd do she 'll say it 's o.k.",
    ),
    (
        "Two girls' bikes (one red) cost $5.00 -- or 50% off!",
        "two girls bikes -lrb- one red -rrb- cost $ 5.00 or 50 % off",
    ),
    (
        "He cannot, she's gonna, they wanna; lemme see, gimme that.",
        "he can not she 's gon na they wan na lem me see gim me that",
    ),
    (
        "'Tis the '90s: rock 'n' roll, y'all ... o'clock & hors d'oeuvres",
        "'t is the '90s rock 'n' roll y' all o'clock & hors d'oeuvres",
    ),
    (
        "A t-shirt, a 5-foot-tall x-ray and a half-eaten hot-dog - really",
        "a t-shirt a 5-foot-tall x-ray and a half-eaten hot-dog really",
    ),
    (
        "Mr. Smith of St. Louis met Dr. Who at 10:30 a.m. on the 2nd. The end.",
        "mr. smith of st. louis met dr. who at 10:30 a.m. on the 2nd the end",
    ),
    (
        "the U.S. flag, the D.C. metro, no. 5 and he says no.",
        "the u.s. flag the d.c. metro no. 5 and he says no",
    ),
    ("and/or black/white w/o 1/2 3-1/2 9/11", "and/or black/white w/o 1/2 3-1/2 9/11"),
    (
        "1,000 people, 3.5 ft. deep, +5 -5 .5 10:30am 1980's",
        "1,000 people 3.5 ft. deep +5 -5 .5 10:30 am 1980 's",
    ),
    ("A man on a street.There is a dog,too!!", "a man on a street.there is a dog too !!"),
    (
        "see www.foo.com or http://a.b/c?d=e, mail me@foo.org #cat @user",
        "see www.foo.com or http://a.b/c?d=e mail me@foo.org #cat @user",
    ),
    (
        "[a] {b} <person> * ** _a_ a_b ~ ^ = + | \\ @",
        "-lsb- a -rsb- -lcb- b -rcb- <person> * ** _ a _ a_b ~ ^ = + | \\ @",
    ),
    (
        "AT&T and R&B, b&b, black &amp; white, M&amp;Ms &lt;3 :) :-(",
        "at&t and r&b b & b black & white m&m s < 3 :-rrb- :--lrb-",
    ),
    (
        "“curly” ‘quotes’ don’t — or – do… café Zürich ½ 90° £5 €5 5¢ 中文",
        "curly quotes do n't or do café zürich 1/2 90 ° # 5 $ 5 5 cents 中文",
    ),
    ("plan B. The man, plan B. there", "plan b the man plan b. there"),
    ('what?!no room?The :P ;) C++ C# 4x4 6\'2" 4"x6"', "what ?! no room?the :p ;-rrb- c++ c# 4x4 6 2 4 x6"),
]

CAPTIONS = [
    "A brown dog runs on the grass.",
    "two children aren't playing (with a ball)",
    "a man rides a bike",
    "A woman's red hat!!",
    "snow",
    " . ",
    "the the the the the the the",
]
REFERENCES = [
    ["A brown dog is running through the grass.", "The dog runs in a green field.", "a dog runs on the grass"],
    [
        "Two kids don't play with the ball.",
        "Two children play with a ball in a park, outdoors.",
        "children playing",
    ],
    ["A man riding a bicycle down a street.", "The man rides his bike on the road."],
    ["A woman wears a red hat!!", "A lady's hat is red; she smiles at 10:30 a.m. on the 2nd of May."],
    ["A mountain covered with snow under a blue sky.", "Snow on a mountain", "snow"],
    ["A cat.", "Nothing but a cat on a U.S. flag, by O'Hare."],
    ["the cat is on the mat", "there is a cat on the mat"],
]
FIGURES = {
    "Bleu_1": 0.6583746748783459,
    "Bleu_2": 0.5099748302722946,
    "Bleu_3": 0.3752396919306842,
    "Bleu_4": 0.25860443856358206,
    "ROUGE_L": 0.5941699868975799,
    "CIDEr": 1.496456562394348,
}
ROUGE_OF_EACH = [
    0.9360613810741688,
    0.7093023255813954,
    0.44309927360774815,
    0.7587064676616916,
    1.0,
    0.0,
    0.31202046035805625,
]
CIDER_OF_EACH = [
    3.958907243868421,
    1.2993547229565807,
    1.560850092988707,
    2.056667545333965,
    1.4878048787717049,
    0.0,
    0.11161145284105628,
]
BLEU_4_OF_EACH = [
    0.7952707285024341,
    4.51801001705643e-05,
    9.324552513250357e-09,
    7.118034477506114e-05,
    3.162277656215536e-05,
    0.0,
    1.2421889947162098e-12,
]

CLIPSCORE_REFERENCES = [
    [
        "two cats are sleeping next to each other.",
        "a grey cat is cuddling with an orange cat on a blanket.",
        "the orange cat is happy that the black cat is close to it.",
    ],
    [
        "a dog is wearing ear muffs as it lies on a carpet.",
        "a black dog and an orange cat are looking at the photographer.",
        "headphones are placed on a dogs ears.",
    ],
]
CLIPSCORE_EXAMPLES = [
    (
        [
            "an orange cat and a grey cat are lying together.",
            "a black dog wearing headphones looks at the camera as an orange cat walks in the background.",
        ],
        {"Bleu_1": 0.6667, "Bleu_2": 0.4899, "Bleu_3": 0.3469, "Bleu_4": 0.0, "ROUGE_L": 0.4280, "CIDEr": 0.5637},
    ),
    (
        [
            "a calico cat and a white cat are lying together.",
            "a black dog wearing a hat looks at the camera as a tabby walks in the background.",
        ],
        {"Bleu_1": 0.4815, "Bleu_2": 0.2404, "Bleu_3": 0.1359, "Bleu_4": 0.0, "ROUGE_L": 0.3121, "CIDEr": 0.2790},
    ),
]


@pytest.mark.parametrize(("text", "expected"), TOKENS)
def test_words_are_those_of_stanford_s_tokenizer(text, expected):
    assert " ".join(tokenize_caption(text)) == expected


def test_figures_are_those_of_pycocoevalcap():
    assert score_words(CAPTIONS, REFERENCES).metrics() == pytest.approx(FIGURES, rel=1e-12)


def test_figures_of_each_caption_are_those_of_pycocoevalcap():
    alone = np.eye(len(CAPTIONS))  # CIDEr's document frequencies stay those of all
    figures = {name: of(alone) for name, of in score_words(CAPTIONS, REFERENCES).statistics.items()}
    assert figures["ROUGE_L"] == pytest.approx(np.array(ROUGE_OF_EACH), rel=1e-12)
    assert figures["CIDEr"] == pytest.approx(np.array(CIDER_OF_EACH), rel=1e-12)
    assert figures["Bleu_4"] == pytest.approx(np.array(BLEU_4_OF_EACH), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(("captions", "published"), CLIPSCORE_EXAMPLES)
def test_figures_are_those_that_clipscore_publishes_for_its_example(captions, published):
    figures = score_words(captions, CLIPSCORE_REFERENCES).metrics()
    assert {name: round(value, 4) for name, value in figures.items()} == published


@pytest.mark.shared
def test_flickr8k_val_has_the_words_and_figures_of_the_references():
    """The first caption of each picture against the other four; the hash is of Stanford's words, a caption a line."""
    content = json.loads((SHARED_DATA / "flickr8k" / "dataset_flickr8k.json").read_text())
    texts = [[each["raw"] for each in image["sentences"]] for image in content["images"] if image["split"] == "val"]
    lines = "\n".join(" ".join(tokenize_caption(text)) for image in texts for text in image)
    assert hashlib.sha256(lines.encode()).hexdigest() == (
        "aee82f5e617785c209777fcacfc1d00a9b1a9857e55077932630b4135013f239"
    )
    figures = score_words([first for first, *_ in texts], [others for _, *others in texts]).metrics()
    assert figures == pytest.approx(
        {
            "Bleu_1": 0.6275129488191882,
            "Bleu_2": 0.44342979576264063,
            "Bleu_3": 0.30708129327795985,
            "Bleu_4": 0.21160098501492874,
            "ROUGE_L": 0.49173408652537204,
            "CIDEr": 0.8036617887303764,
        },
        rel=1e-12,
    )
