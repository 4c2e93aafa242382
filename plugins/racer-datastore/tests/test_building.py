"""From files to an index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from words import word_tokenizer

from racer_datastore import Datastore, DatastoreError, Index, build, corpus, fingerprint


def kept(path: Path, tokenizer: Any) -> list[str]:
    """The texts of an index."""
    index, texts, text = Index(path), [], []
    for token in index.tokens.tolist():
        if token == index.header.separator:
            texts.append(tokenizer.decode(text))
            text = []
        else:
            text.append(token)
    return texts


def test_texts_and_objects_are_separate_texts(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "one.txt").write_text("the cat sat\non the mat\n")
    lines = [{"text": "the dog ran"}, {"text": ["a b", "c d"]}, {"text": ""}]
    (tmp_path / "two.jsonl").write_text("\n\n".join(json.dumps(line) for line in lines))
    (tmp_path / "ignored.bin").write_bytes(b"\xff")
    seen: list[int] = []
    build([tmp_path], tokenizer, tmp_path / "x.idx", progress=seen.append)
    assert kept(tmp_path / "x.idx", tokenizer) == ["the cat sat on the mat", "the dog ran", "a b", "c d"]
    assert sum(seen) == (tmp_path / "one.txt").stat().st_size + (tmp_path / "two.jsonl").stat().st_size - 2


def test_a_long_text_is_read_in_pieces_and_stays_one_text(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "PIECE", 5)
    (tmp_path / "long.md").write_text("a b\nc d\n" * 20)
    build([tmp_path / "long.md"], tokenizer, tmp_path / "x.idx")
    assert kept(tmp_path / "x.idx", tokenizer) == [" ".join("abcd" * 20)]


def test_another_field(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "x.jsonl").write_text('{"answer": "the cat"}')
    build([tmp_path / "x.jsonl"], tokenizer, tmp_path / "x.idx", field="answer")
    assert kept(tmp_path / "x.idx", tokenizer) == ["the cat"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"text": ', "line 2: not JSON"),
        ("x.jsonl", b'{"prompt": "a"}', "line 1: no object with a field 'text'"),
        ("x.jsonl", b"[1]", "line 1: no object"),
        ("x.jsonl", b'{"text": 1}', "neither a text nor a list"),
        ("x.jsonl", b'{"text": ["a", 1]}', "neither a text nor a list"),
        ("x.txt", b"a b \xff c", "not UTF-8"),
        ("x.txt", b"", "no text"),
    ],
)
def test_a_bad_corpus_is_refused(tmp_path: Path, tokenizer: Any, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatastoreError, match=message):
        build([tmp_path / name], tokenizer, tmp_path / "x.idx")
    assert not (tmp_path / "x.idx").exists()


def test_a_missing_corpus_and_an_empty_folder_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(DatastoreError, match="does not exist"):
        build([tmp_path / "x.txt"], tokenizer, tmp_path / "x.idx")
    with pytest.raises(DatastoreError, match=r"holds no \.txt"):
        build([tmp_path], tokenizer, tmp_path / "x.idx")


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "x.txt").write_text("a b")
    with pytest.raises(DatastoreError, match="cannot write"):
        build([tmp_path / "x.txt"], tokenizer, tmp_path / "no" / "x.idx")


def test_another_tokenizers_file_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "x.txt").write_text("the cat sat")
    build([tmp_path / "x.txt"], tokenizer, tmp_path / "x.idx")
    Datastore(tmp_path / "x.idx", tokenizer=tokenizer)
    other = word_tokenizer("b a c d e f g h the cat sat on mat and dog ran")
    assert len(fingerprint(other)) == 32
    with pytest.raises(DatastoreError, match="another tokenizer"):
        Datastore(tmp_path / "x.idx", tokenizer=other)
