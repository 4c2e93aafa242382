"""The output file: what is gone on with, what is cut off, what is refused."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from racer.batch.index import Index
from racer.batch.lines import read
from racer.batch.output import Found, opened
from racer.errors import ConfigError

SETTINGS = "s" * 16


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": name, "prompt": name}) + "\n" for name in "abc"))
    return path


def answers(source: Path) -> list[dict[str, Any]]:
    return [
        {"id": line.id, "text": "é", "racer": {"line": line.number, "input": line.digest, "settings": SETTINGS}}
        for line in read(source)
    ]


def examine(source: Path, path: Path) -> tuple[Found, int]:
    index = Index(read(source))
    with opened(path, index, SETTINGS) as output:
        return output.found, index.done


def test_lines_are_appended_and_found_again(source: Path, tmp_path: Path) -> None:
    path, records = tmp_path / "out.jsonl", answers(source)
    for number, record in enumerate(records):
        index = Index(read(source))
        with opened(path, index, SETTINGS) as output:
            assert output.found == Found(answered=number)
            output.add(record)
            assert len(path.read_bytes().splitlines()) == number + 1  # at once
    assert [json.loads(line) for line in path.read_text().splitlines()] == records
    assert examine(source, path) == (Found(answered=3), 3)


def test_a_torn_line_is_cut_off_wherever_it_was_torn(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    first, second = (json.dumps(record).encode() for record in answers(source)[:2])
    for length in range(1, len(second) + 1):
        path.write_bytes(first + b"\n" + second[:length])
        assert examine(source, path) == (Found(answered=1, torn=True), 1)
        assert path.read_bytes() == first + b"\n"
    path.write_bytes(first + b"\n" + second[:20] + bytes(100))  # what a power failure may leave
    assert examine(source, path) == (Found(answered=1, torn=True), 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda record: record | {"id": "d"}, 'answers id "d", which the input has not'),
        (lambda record: record | {"racer": record["racer"] | {"settings": "other"}}, "with other settings"),
        (
            lambda record: record | {"racer": record["racer"] | {"input": "other"}},
            "line 1 of the input.* otherwise now",
        ),
        (lambda record: {"id": "a", "text": "no word of racer"}, "not written by 'racer batch'"),
        (lambda record: [record], "not written by"),
    ],
)
def test_the_output_of_another_run_is_refused_and_kept(change: Any, reason: str, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    text = json.dumps(change(answers(source)[0])) + '\n{"id": "torn'
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"out.jsonl, line 1 .*{reason}"):
        examine(source, path)
    assert path.read_text() == text


@pytest.mark.parametrize("text", ["my notes", "{}", '{"id":1}'])
def test_a_file_of_something_else_is_not_cut(text: str, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text(text)
    with pytest.raises(ConfigError, match="no output of 'racer batch'"):
        examine(source, path)
    assert path.read_text() == text


def test_two_answers_to_one_line_are_refused(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text((json.dumps(answers(source)[1]) + "\n") * 2)
    with pytest.raises(ConfigError, match='line 2 answers id "b" for the second time'):
        examine(source, path)


def test_only_one_process_writes(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with FileLock(f"{path}.lock"), pytest.raises(ConfigError, match="another 'racer batch' is writing"):
        examine(source, path)
    assert examine(source, path) == (Found(), 0)


def test_only_one_process_writes_whatever_it_calls_the_file(source: Path, tmp_path: Path) -> None:
    path, link = tmp_path / "out.jsonl", tmp_path / "link.jsonl"
    path.touch()
    link.symlink_to(path)
    with opened(path, Index(read(source)), SETTINGS), pytest.raises(ConfigError, match="another 'racer batch'"):
        examine(source, link)


def test_on_a_full_disk_nothing_is_left_of_half_a_line_and_nothing_follows(source: Path, tmp_path: Path) -> None:
    path, records = tmp_path / "out.jsonl", answers(source)
    with opened(path, Index(read(source)), SETTINGS) as output:
        output.add(records[0])
        whole = path.read_bytes()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, before[1]))
        try:
            with pytest.raises(OSError, match="No space left"):
                output.add(records[1])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert path.read_bytes() == whole
        with pytest.raises(OSError, match="No space left"):
            output.add(records[2])
        assert path.read_bytes() == whole
    assert examine(source, path) == (Found(answered=1), 1)
