"""Train the byte-pair vocabulary on the captions; the result loads with `CLIPTokenizer.from_pretrained`."""

import argparse
import json
from pathlib import Path

from sources import STYLES, Emoji, load, styled
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_LENGTH = 20
WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # CLIP's rule for what a word is
WORDS = [
    "a",
    "an",
    "the",
    "of",
    "and",
    "with",
    "on",
    "in",
    "at",
    "to",
    "for",
    "from",
    "by",
    "is",
    "are",
    "no",
    "not",
    "very",
    "big",
    "small",
    "little",
    "large",
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
    "grey",
    "gray",
    "gold",
    "silver",
    "dark",
    "light",
    "photo",
    "picture",
    "drawing",
    "image",
    "emoji",
    "icon",
    "cute",
    "happy",
    "sad",
    "old",
    "young",
    "new",
    "open",
    "closed",
    "wearing",
    "holding",
    "eating",
    "riding",
    "flying",
    "under",
    "over",
    "next",
    "front",
    "back",
    "left",
    "right",
    "top",
    "bottom",
    "two",
    "three",
    "four",
    "five",
    "one",
    "background",
    "flat",
    "three-dimensional",
    "3d",
    "style",
]


def captions(emojis: list[Emoji]) -> list[str]:
    """Everything that the vocabulary has to spell well."""
    words = [word for emoji in emojis for word in (emoji.name, *emoji.synonyms, *emoji.keywords)]
    return words + [styled(emoji.name, style) for emoji in emojis for style in STYLES] + WORDS * 5


def train(texts: list[str], vocabulary: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges in CLIP's byte-level form (end-of-word suffix `</w>`)."""
    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [
        tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]
    ]
    tokens = dict.fromkeys(alphabet + [letter + "</w>" for letter in alphabet])
    for left, right in merges:
        tokens.setdefault(left + right)
    words = [*tokens, START, END]
    return {word: position for position, word in enumerate(words)}, merges


def main() -> None:
    """Write `work`/tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=3000)
    options = parser.parse_args()
    emojis = load(options.work)
    vocabulary, merges = train(captions(emojis), options.vocabulary)
    tokenizer = CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=MAX_LENGTH,
    )
    tokenizer.save_pretrained(options.work / "tokenizer")
    (options.work / "tokenizer/vocab.json").write_text(
        json.dumps(vocabulary)
    )  # for transformers before version 5
    (options.work / "tokenizer/merges.txt").write_text(
        "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges)
    )
    loaded = CLIPTokenizer.from_pretrained(options.work / "tokenizer")
    lengths = [len(loaded(styled(emoji.name, "twemoji")).input_ids) for emoji in emojis]
    print(f"{len(loaded)} tokens, longest caption {max(lengths)}, mean {sum(lengths) / len(lengths):.1f}")
    print(
        loaded.tokenize("Dog face, fluent style"),
        loaded("dog face").input_ids,
        loaded.decode(loaded("dog's face!").input_ids),
    )


if __name__ == "__main__":
    main()
