"""Words of a caption as the Penn Treebank splits them, for metrics that count words.

Published caption figures are counted on the tokens of Stanford's PTBTokenizer (CoreNLP 3.4.1, with `-preserveLines
-lowerCase`), of which pycocoevalcap then drops punctuation. This module gives the same words without Java. It was
written from the outside: from what that tokenizer answers to captions and to probes. On 171,000 captions of Flickr8k,
Flickr30k and COCO it gives the same words for all but three; docs/caption-metrics.md says where it doesn't follow.
"""

from __future__ import annotations

import re
import tomllib
from importlib import resources

PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "---", "----", "...", ";"])
"""Tokens that don't count. pycocoevalcap's list has brackets too, as `-LRB-`; but after lowercasing they are `-lrb-`,
which its list misses, so in published figures a bracket counts as a word. `!!` isn't in the list either. Three and four
hyphens are here because PTBTokenizer makes two of them."""

_TREEBANK = tomllib.loads(
    resources.files("sightline.lab.evaluation.captions").joinpath("treebank.toml").read_text(encoding="utf-8")
)
_CHARACTERS: dict[str, str] = _TREEBANK["characters"]
_SPLITS: dict[str, list[str]] = _TREEBANK["splits"]
_ENTITIES: dict[str, str] = _TREEBANK["entities"]


def _any_of(words: str) -> str:
    """A pattern of the words of a list in `treebank.toml`."""
    return "|".join(_TREEBANK[words].split())


# No digits other than decimal ones: Python counts ½ and ² as word characters, the Treebank doesn't.
_LETTER = r"[^\W\d_²³¹¼-¾⁰-ₜ⅐-↋①-⓿]"
_ALNUM = r"[^\W_²³¹¼-¾⁰-ₜ⅐-↋①-⓿]"
_END = rf"(?!{_ALNUM})"
_PLAIN = rf"{_ALNUM}+(?:_+{_ALNUM}+)*"
_NUMBER = r"\d+(?:[.,:]\d+)+"
_ELIDED = (
    rf"(?:(?:{_any_of('elisions')}){_END}|[dlno]'{_LETTER}{{2,}}|n't{_END}|{_LETTER}+[aeiou]'[aeiou]{_LETTER}*)"
).replace("'", "['’]")
_WORD = rf"(?:{_ELIDED}|{_NUMBER}|{_PLAIN})"
_TAIL = rf"(?:[-‑]{_WORD})*"
_PART = r"[a-z0-9]+(?:-[a-z]+)*"

_TOKEN = re.compile(
    rf"""
      [a-z]+(?=\s)                                                              # most words, and fast
    | (?:https?://|www\.)[a-z0-9][^\s"<>)]*[^\s"<>).,:;!?']                    # addresses
    | </?[a-z][\w.:@-]*(?:\s+[\w:-]+(?:\s*=\s*(?:"[^"]*"|'[^']*'))?)*\s*/?> | <[!?][^>]*>    # tags
    | &\#\d+; | &[a-z](?:acute|grave|uml|circ|tilde|cedil|ring|slash);{_LETTER}* | &[lg]t;
    | @+(?:[a-z_]\w*)? | [a-z0-9][\w.+-]*@[a-z0-9]+(?:[.-][a-z0-9]+)*           # user names, mail
    | \#{_LETTER}+ | (?:c\+\+|[cf]\#)(?!\w)
    | (?-i:[A-Z]+(?:&[A-Z]+)+) | (?-i:(?:US|HK|NZ|[ACR])\$)                     # AT&T, US$
    | \d+-\d+/\d+{_END} | {_PART}(?:/{_PART}){{1,2}}(?!{_ALNUM}|['’](?!s))      # 3-1/2, and/or, red/black-white
    | (?:{_any_of("abbreviations")}|(?-i:(?:{_any_of("capitalised")})))\.(?!{_LETTER}){_TAIL}
    | (?:{_any_of("before_numbers")})\.(?=\s?\d)
    | [a-z]\.(?!{_LETTER}|\s*$|\s+(?-i:{_any_of("sentence_starts")})\b){_TAIL}     # mr. t. boards
    | [a-z](?:\.[a-z])+\.(?!{_LETTER}){_TAIL}                                   # a.m.
    | [a-z][a-z0-9]+(?:\.[a-z0-9]+)*\.(?:com|net|org|edu)/[^\s"<>]*[^\s"<>.,:;!?')]
    | {_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)+{_TAIL}                     # foo.com, end.The
    | ['’]n['’] | ['’](?:[smd]|ll|re|ve|em|till?|cause|n){_END} | ['’]t(?=(?:is|was)(?:n['’]t)?{_END})
    | n['’‘`]t{_END} | ''
    | ['’]\d\d(?:s{_END}(?!['’]s)|(?=\s|-|$))                                   # '90s
    | (?:{_any_of("clipped")})['’](?!{_LETTER})
    | {_LETTER}+?(?=n['’‘`]t{_END})                                             # do n't
    | {_ELIDED}(?!['’]n['’]) | [dl]['’] | [jy]['’](?={_LETTER})
    | (?:[+-][.,:]?|[.,:])\d+(?:[.,:]\d+)*{_TAIL} | {_NUMBER}{_TAIL}            # 1,000.50  -5  20-30  3.5-inch
    | {_WORD}{_TAIL}
    | [<>]?[:;=][-o'’]?(?:[dp]{_END}|[()\[\]\\](?!{_ALNUM}))                    # :-)
    | \.{{3,}} | [?!]+ | -+ | \*+ | _+ | << | >>
    | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)
_ENTITY = re.compile("|".join(_ENTITIES))
_UNSEEN = re.compile(r"[\u200b-\u200f\u2010\u2012\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U00010000-\U0010ffff]")
"""Characters that the tokenizer can't read and drops: emoji, marks without a shape, two rare hyphens."""


def tokenize_caption(text: str) -> tuple[str, ...]:
    """The words of a caption, lowercased, contractions split (`do n't`, `dog 's`), punctuation left out."""
    text = _UNSEEN.sub(" ", _ENTITY.sub(lambda match: _ENTITIES[match[0].lower()], text))
    words: list[str] = []
    for match in _TOKEN.finditer(text):
        token = _CHARACTERS.get(match[0]) or _normalise(match[0])
        words += _SPLITS.get(token, [token])
    return tuple(word for word in words if word not in PUNCTUATION)


def _normalise(token: str) -> str:
    """Lowercased, with straight apostrophes and brackets by their names in faces and the like."""
    token = token.lower()
    if token.startswith("..."):
        return "..."
    if token[0] == "’" and token[1:3].isdigit():
        return token
    for character in "‘’()":
        if character in token:
            token = token.replace(character, _CHARACTERS[character])
    return token
