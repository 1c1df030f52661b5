"""The tokens of a model, read from the files of its tokenizer and written to them."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mda_jax.converters.companions import copy_files
from mda_jax.pipeline.errors import MergeError
from mda_jax.pipeline.sidecars import (
    holding,
    optional_json,
    read_json,
    tokenizer_files,
    write_json,
)


FAST, PIECES, MERGES, WORDS = "tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"
OPTIONS, ROLES, ADDED = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
OPAQUE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_SLOW = {PIECES, MERGES, WORDS, *OPAQUE}
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_DECODER = "added_tokens_decoder"

Flags = Mapping[str, bool]  # how an added token is found in text
_NAMES = ("single_word", "lstrip", "rstrip", "normalized", "special")
PLAIN: Flags = dict.fromkeys(_NAMES, False) | {"normalized": True}
_SPECIAL: Flags = dict.fromkeys(_NAMES, False) | {"special": True}


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a tokenizer.

    Attributes:
      folder: whose files the tokenizer has.
      pieces: token -> id, of the pieces that text is broken into.
      added: token -> flags, of those found in text before that; in their order.
    """

    folder: Path
    pieces: Mapping[str, int]
    added: Mapping[str, Flags]

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token -> id. An added token that is no piece has the next free id."""
        ids = dict(self.pieces)
        for token in self.added:
            ids.setdefault(token, len(ids))
        return ids

    @property
    def size(self) -> int:
        """One more than the highest id."""
        return 1 + max(self.ids.values(), default=-1)

    def extended(self, added: Mapping[str, Flags]) -> "Vocabulary":
        """With the tokens that it lacks, added in their order."""
        new = {t: s for t, s in added.items() if t not in self.ids}
        return replace(self, added={**self.added, **new})

    def below(self, rows: int) -> "Vocabulary":
        """Without the tokens that a table of so many rows has none for.

        Raises:
          MergeError: the others would not keep their ids.
        """
        kept = {token: i for token, i in self.ids.items() if i < rows}
        if len(kept) == len(self.ids):
            return self
        pieces = {t: i for t, i in self.pieces.items() if i < rows}
        added = {t: s for t, s in self.added.items() if t in kept}
        found = replace(self, pieces=pieces, added=added)
        if found.ids != kept:
            raise MergeError(
                f"{self.folder}: its tokenizer has ids beyond the {rows} rows of its"
                " table, and gaps below; give another tokenizer source."
            )
        return found


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read the tokens of a model.

    Args:
      folder: with `tokenizer.json`, or with `vocab.json` and `merges.txt`, or with
        `vocab.txt`; and with the JSON files that add tokens to these.

    Returns:
      The vocabulary, with the ids that the tokenizer gives when it is loaded.

    Raises:
      MergeError: there are no such files, one is damaged, or two tokens share an id.
    """
    if (folder / FAST).is_file():
        content = read_json(folder / FAST)
        with holding(folder / FAST, "a tokenizer: 'model.vocab' and 'added_tokens'"):
            pieces = _pieces(content["model"]["vocab"])
            listed = {_text(t): _flags(t) for t in content["added_tokens"]}
    else:
        pieces, listed = _slow_pieces(folder), {}
    added = dict(listed)
    for token, flags in _added_later(folder):
        added.setdefault(token, flags)
    found = Vocabulary(folder, pieces, added)
    if len(set(found.ids.values())) < len(found.ids):
        problem = "its tokenizer gives two tokens one id; repair it, or leave it out."
        raise MergeError(f"{folder}: {problem}")
    return found


def fingerprint(folder: Path) -> Mapping[str, object]:
    """Something that is equal for tokenizers that give the same ids.

    Args:
      folder: of a model.

    Returns:
      Its tokens, where they can be read; else the files that hold them.

    Raises:
      MergeError: it has no tokenizer.
    """
    opaque = [folder / name for name in OPAQUE if (folder / name).is_file()]
    if not opaque or (folder / FAST).is_file():
        return read_vocabulary(folder).ids
    added = _added_later(folder)
    return {file.name: file.read_bytes() for file in opaque} | {"added": added}


def write_tokenizer(vocabulary: Vocabulary, to: Path) -> list[Path]:
    """Write the files of a tokenizer; those of its folder, with other tokens.

    Args:
      vocabulary: its tokens.
      to: an existing folder.

    Returns:
      The names of the files.

    Raises:
      MergeError: the files of its folder cannot hold these tokens.
    """
    folder, old = vocabulary.folder, read_vocabulary(vocabulary.folder)
    files = tokenizer_files(folder)
    if lost := old.pieces.keys() - vocabulary.pieces.keys():
        files = [f for f in files if f.name not in _SLOW]
    copy_files(folder, files, to)
    if old.ids == vocabulary.ids:
        return files
    if (to / FAST).is_file():
        content = read_json(to / FAST)
        write_json(to / FAST, _edited(content, vocabulary, lost))
    elif lost:
        raise _not_fast(folder, "to leave out tokens that its table has no rows for")
    gone = old.ids.keys() - vocabulary.ids.keys()
    for name in (OPTIONS, ROLES):
        if (to / name).is_file():
            write_json(to / name, _without_roles(read_json(to / name), gone))
    files = list(dict.fromkeys([*files, *_note_added(vocabulary, to)]))
    if read_vocabulary(to).ids != vocabulary.ids:
        raise _not_fast(folder, "to give its new tokens their ids")
    return files


def _pieces(vocab: Any) -> dict[str, int]:
    """Token -> id, from a mapping or from a list of tokens with their scores."""
    if isinstance(vocab, list):
        return {token: i for i, (token, _) in enumerate(vocab)}
    return {str(token): int(i) for token, i in vocab.items()}


def _slow_pieces(folder: Path) -> dict[str, int]:
    if (folder / PIECES).is_file() and (folder / MERGES).is_file():
        with holding(folder / PIECES, "a mapping from tokens to ids"):
            return _pieces(read_json(folder / PIECES))
    if (folder / WORDS).is_file():
        words = (folder / WORDS).read_text(encoding="utf-8").removesuffix("\n")
        return {word: i for i, word in enumerate(words.split("\n"))}
    raise _not_fast(folder, "to read its tokens")


def _not_fast(folder: Path, what: str) -> MergeError:
    return MergeError(
        f"{folder}: a {FAST} is needed {what}; copy it from the model that this one was"
        " tuned from, or let transformers write it:"
        " AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)."
    )


def _text(token: Mapping[str, Any]) -> str:
    if not isinstance(token["content"], str):
        raise TypeError(f"{token['content']!r} is no text")
    return token["content"]


def _flags(token: Mapping[str, Any], default: Flags = PLAIN) -> Flags:
    return {flag: bool(token.get(flag, default[flag])) for flag in _NAMES}


def _added_later(folder: Path) -> list[tuple[str, Flags]]:
    """What the JSON files beside a tokenizer add to it."""
    files = (OPTIONS, ADDED, ROLES)
    with holding(folder, f"tokens and their ids in {', '.join(files)}"):
        return list(_later(*(optional_json(folder / name) for name in files)))


def _later(
    options: dict[str, Any], legacy: dict[str, int], roles: dict[str, Any]
) -> Iterator[tuple[str, Flags]]:
    """The tokens that are added when a tokenizer is loaded, in their order."""
    noted = options.get(_DECODER, {})
    for number in sorted(noted, key=int):
        yield _text(noted[number]), _flags(noted[number])
    for token in sorted(legacy, key=legacy.__getitem__):
        yield token, PLAIN
    for given in (options, roles):
        for key, value in given.items():
            for token in _special(key, value):
                if isinstance(token, dict) and "content" in token:
                    yield _text(token), _flags(token, _SPECIAL)
                elif isinstance(token, str):
                    yield token, _SPECIAL


def _special(key: str, value: Any) -> list[Any]:
    """The tokens of one key of the options: of a role, or of a list."""
    if key in _LISTS:
        return list(value.values() if isinstance(value, dict) else value or [])
    return [value] if key.endswith("_token") else []


def _edited(
    content: dict[str, Any], vocabulary: Vocabulary, lost: Collection[str]
) -> dict[str, Any]:
    """The content of `tokenizer.json` with other tokens."""
    ids, held = vocabulary.ids, {t["content"]: t for t in content["added_tokens"]}
    added = [
        {"id": ids[token], "content": token, **held.get(token, {}), **flags}
        for token, flags in vocabulary.added.items()
    ]
    model = dict(content["model"])
    if lost and isinstance(model["vocab"], list):
        model["vocab"] = model["vocab"][: len(vocabulary.pieces)]
    elif lost:
        model["vocab"] = dict(vocabulary.pieces)
    if lost and "merges" in model:
        model["merges"] = [m for m in model["merges"] if not _makes(m, lost)]
    return content | {"added_tokens": added, "model": model}


def _makes(merge: str | list[str], lost: Collection[str]) -> bool:
    """Whether a merge needs or gives one of the tokens."""
    left, right = merge.partition(" ")[::2] if isinstance(merge, str) else merge
    return any(token in lost for token in (left, right, left + right))


def _without_roles(content: dict[str, Any], gone: Collection[str]) -> dict[str, Any]:
    """The options without the tokens that are gone."""

    def is_gone(token: Any) -> bool:
        text = token.get("content") if isinstance(token, dict) else token
        return isinstance(text, str) and text in gone

    kept = {k: v for k, v in content.items() if not (_special(k, v) and is_gone(v))}
    for key in _LISTS:
        if isinstance(kept.get(key), list):
            kept[key] = [token for token in kept[key] if not is_gone(token)]
    return kept


def _note_added(vocabulary: Vocabulary, to: Path) -> list[Path]:
    """Note the added tokens wherever else they stand; the names of the files."""
    ids, is_fast = vocabulary.ids, (to / FAST).is_file()
    files = []
    options = optional_json(to / OPTIONS)
    if _DECODER in options or not is_fast:
        options[_DECODER] = {
            str(ids[token]): {"content": token, **flags}
            for token, flags in vocabulary.added.items()
        }
        write_json(to / OPTIONS, options)
        files.append(Path(OPTIONS))
    if (to / ADDED).is_file() or not is_fast:
        new = [token for token in vocabulary.added if token not in vocabulary.pieces]
        write_json(to / ADDED, {token: ids[token] for token in new})
        files.append(Path(ADDED))
    return files
