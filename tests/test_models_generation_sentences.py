"""Sentences from tokens: what is stripped, what is kept, what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.base import GenerationConfig
from sightline.core.models.cards import ModelCard, TextSpec
from sightline.core.models.generation import SentenceWriter, tidy
from sightline.core.models.inputs import Tokenizer
from sightline.errors import InputError, ModelError

TOKENS = ["[PAD]", "[BOS]", "[SEP]", "a", "picture", "of", "dog", "cat", "runs", "[UNK]"]
PAD, BOS, EOS, A, IMAGE, OF, DOG, CAT, RUNS, UNK = range(len(TOKENS))
CARD = ModelCard(
    name="toy",
    kind="captioner",
    family="blip",
    source="here",
    preprocessing=Preprocessing(size_px=4, resize_mode="squash"),
    text=TextSpec(context_length=6, pad_id=PAD, bos_id=BOS, eos_id=EOS),
)
PLAIN = GenerationConfig(beams=1, min_tokens=1, max_tokens=6, no_repeat_ngram=0)


class ScriptedDecoder:
    """Puts most probability on one given sentence an image, and some on going on with "runs"."""

    scored_rows = 16

    def __init__(self, sentences):
        self.sentences = sentences
        self.longest = 0

    def all_logits(self, ids_NL, images_N):
        self.longest = max(self.longest, ids_NL.shape[1])
        logits = np.zeros((*ids_NL.shape, len(TOKENS)), dtype=np.float32)
        logits[..., RUNS] = 2.0
        for row, image in enumerate(images_N):
            for place, token in enumerate(self.sentences[image][: ids_NL.shape[1]]):
                logits[row, place, token] = 9.0
        return logits

    def next_logits(self, ids_NL, images_N):
        return self.all_logits(ids_NL, images_N)[:, -1]


def make_writer(sentences, card=CARD, described=None):
    backend = Backend(models.WordLevel({token: i for i, token in enumerate(TOKENS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_special_tokens(["[PAD]", "[BOS]", "[SEP]", "[UNK]"])
    decoder = ScriptedDecoder(sentences)

    class Scripted(SentenceWriter):
        def _see(self, pixels_B3SS):
            if described is not None:
                described.append(pixels_B3SS.shape)
            return pixels_B3SS

        def _describe(self, memory):
            return decoder

    return Scripted(card, Tokenizer(backend, card.text)), decoder


def pixels(count):
    return np.arange(count * 48, dtype=np.uint8).reshape(count, 4, 4, 3)


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("an image of a dog on grass", "a dog on grass"),
        ("A picture of two cats", "two cats"),
        ("a photo of a photograph of a car", "a car"),
        ("this is a picture of snow", "snow"),
        ("picture of a tree", "a tree"),
        ("a dog looking at a picture of a cat", "a dog looking at a picture of a cat"),
        ("a black and white photo of a boat", "a black and white photo of a boat"),
        ("an imaged of nothing", "an imaged of nothing"),
        ("a dog , a cat  and a bird .", "a dog, a cat and a bird."),
        ("a picture of", "a picture of"),
        ("", ""),
    ],
)
def test_only_leading_boilerplate_and_stray_spaces_are_removed(text, tidied):
    assert tidy(text) == tidied


def test_captions_name_their_writer_and_their_probability():
    writer, _ = make_writer([(A, DOG, RUNS, EOS), (A, IMAGE, OF, A, CAT, EOS)])
    ((dog,), (cat,)) = writer.generate(pixels(2), PLAIN)
    assert (dog.text, dog.source, dog.model) == ("a dog runs", "generated", "toy")
    assert cat.text == "a cat"
    (((scored,), (with_boilerplate,))) = writer.score(pixels(2), [["a dog runs"], ["a picture of a cat"]])
    assert dog.log_prob == pytest.approx(scored, abs=1e-6)
    assert cat.log_prob == pytest.approx(with_boilerplate, abs=1e-6)


def test_sentences_that_read_alike_are_given_once_and_empty_ones_never():
    # "a picture of a dog" and "a dog" differ in tokens only; "[UNK]" has no words.
    writer, _ = make_writer([(A, IMAGE, OF, A, DOG, EOS)])
    config = replace(PLAIN, beams=8, num_candidates=8)
    (captions,) = writer.generate(pixels(1), config)
    texts = [caption.text for caption in captions]
    assert texts[0] == "a dog"
    assert len(set(texts)) == len(texts)
    unknown, _ = make_writer([(UNK, EOS)])
    assert unknown.generate(pixels(1), PLAIN) == [[]]


def test_the_prompt_comes_first_and_the_context_is_the_limit():
    writer, decoder = make_writer([(CAT, CAT, CAT, CAT, CAT, CAT, CAT)])
    ((caption,),) = writer.generate(pixels(1), replace(PLAIN, prompt="a dog", max_tokens=30))
    assert caption.text == "a dog cat cat cat cat"
    assert decoder.longest == CARD.text.context_length
    with pytest.raises(InputError, match="The prompt has 6 tokens; with max_tokens=6 at most 5 fit"):
        writer.generate(pixels(1), replace(PLAIN, prompt="a dog runs a cat runs"))


def test_texts_beyond_the_context_are_scored_by_their_beginning():
    writer, decoder = make_writer([(A, DOG, EOS)])
    ((long, cut),) = writer.score(pixels(1), [["a dog runs a dog runs a dog", "a dog runs a dog"]])
    assert long == cut
    assert decoder.longest == CARD.text.context_length


def test_large_batches_are_described_in_parts():
    described = []
    writer, _ = make_writer([(A, DOG, EOS)] * 40, described=described)
    many = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    captions = writer.generate(many, PLAIN)
    assert [[caption.text for caption in several] for several in captions] == [["a dog"]] * 40
    assert [shape[0] for shape in described] == [16, 16, 8]
    scores = writer.score(many, [["a dog"] * (image % 3) for image in range(40)])
    assert [len(several) for several in scores] == [image % 3 for image in range(40)]


def test_images_are_looked_at_once_for_writing_and_scoring():
    described = []
    writer, _ = make_writer([(A, DOG, EOS)] * 2, described=described)
    writer.generate(pixels(2), PLAIN)
    writer.score(pixels(2), [["a dog"], ["a cat"]])
    assert described == [(2, 3, 4, 4)]
    writer.score(pixels(2) + np.uint8(1), [["a dog"], ["a cat"]])
    writer.score(pixels(1), [["a dog"]])
    assert described == [(2, 3, 4, 4), (2, 3, 4, 4), (1, 3, 4, 4)]


def test_no_images_give_no_captions():
    writer, _ = make_writer([])
    assert writer.generate(pixels(0), PLAIN) == []
    assert writer.score(pixels(0), []) == []


def test_what_does_not_fit_is_refused():
    writer, _ = make_writer([(A, EOS)])
    with pytest.raises(ModelError, match=r"takes uint8 pixels of shape \(B, 4, 4, 3\)"):
        writer.generate(np.zeros((1, 8, 8, 3), dtype=np.uint8), PLAIN)
    with pytest.raises(InputError, match="There are 1 images and texts for 2"):
        writer.score(pixels(1), [["a"], ["a"]])
    unfinished, _ = make_writer([(A, EOS)], replace(CARD, text=TextSpec(context_length=6, pad_id=0)))
    with pytest.raises(ModelError, match="lacks bos_id or eos_id"):
        unfinished.generate(pixels(1), PLAIN)
