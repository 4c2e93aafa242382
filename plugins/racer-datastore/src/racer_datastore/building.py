"""From a corpus to an index file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from racer_datastore.corpus import list_files, read
from racer_datastore.format import DEPTH, DatastoreError, Header, write_index
from racer_datastore.tokens import Tokenizer, encode, fingerprint


def build(
    corpus: Sequence[str | Path],
    tokenizer: Tokenizer,
    output: str | Path,
    *,
    field: str = "text",
    depth: int = DEPTH,
    progress: Callable[[int], None] = lambda size: None,
) -> Header:
    """Tokenise a corpus and index it into ``output``, which appears whole or not at all.

    :param corpus: files and folders, see :func:`racer_datastore.corpus.read`.
    :param tokenizer: that of the model that will use the index.
    :param field: of the objects in JSONL files.
    :param depth: longest context that can be looked up, in tokens.
    :param progress: told of every piece that was read, in bytes.
    :return: the header of the new file.
    :raises DatastoreError: nothing to read, something unreadable, or the output cannot be written.
    """

    def texts() -> Iterator[list[int]]:
        ids: list[int] = []
        for file in files:
            for piece in read(file, field):
                ids += encode(tokenizer, piece.text) if piece.text else []
                progress(piece.size)
                if piece.ends:
                    yield ids
                    ids = []

    files = list_files(corpus)
    try:
        return write_index(output, texts(), fingerprint(tokenizer), depth)
    except OSError as error:
        raise DatastoreError(f"cannot write {output}: {error.strerror or error}") from error
