"""``racer batch`` from end to end, with a real engine: answers, errors, interruptions."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import racer
from racer.batch.defaults import Defaults
from racer.batch.index import Index
from racer.batch.lines import Line, read
from racer.batch.output import opened
from racer.batch.runner import Runner
from racer.cli import main
from racer.kernels.native.packed import available
from racer.loading import keeping, models
from racer.loading.detokenizer import decode
from support import tiny_gguf
from support.command import COMMAND, Capture, refused

OPTIONS = ["--dtype", "fp32", "--device", "cpu", "--max-new-tokens", "12"]


def written(path: Path, found: list[Any]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in found))
    return path


def records(path: Path) -> dict[str | int, dict[str, Any]]:
    """By id, each of which is there once."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    named = {record.get("custom_id", record["id"]): record for record in found}
    assert len(named) == len(found)
    return named


@pytest.fixture
def run(folder: Path, tmp_path: Path, capsys: Capture) -> Any:
    """Run the command on these lines; its exit code, its records and what it told."""

    def answer(found: list[Any], *more: str, output: str = "out.jsonl") -> tuple[int, Any, str]:
        source, out = written(tmp_path / "in.jsonl", found), tmp_path / output
        code = main(["batch", "--model", str(folder), *OPTIONS, *more, str(source), str(out)])
        told = capsys.readouterr()
        assert told.out == ""
        return code, records(out), told.err

    return answer


def plain(folder: Path, messages: list[dict[str, str]], **settings: Any) -> str:
    """What transformers makes of it."""
    loaded = models.load(str(folder), dtype="fp32", device="cpu")
    with models.quiet():
        given = loaded.encode(messages)
        tokens = loaded.model.generate(**given, do_sample=False, pad_token_id=0, **settings)[0]
    return decode(loaded.tokenizer, tokens[given["input_ids"].shape[1] :].tolist())


def openai(name: str, url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": f"/v1/{url}", "body": body}


def test_a_text_that_goes_on_keeps_its_first_space(run: Any, folder: Path, tmp_path: Path) -> None:
    """Where the tokenizer leaves out a text's first space, as Llama 2's does."""
    own = tmp_path / "model"
    shutil.copytree(folder, own)
    file = own / "tokenizer.json"
    settings = json.loads(file.read_text())
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    settings["decoder"] = {"type": "Sequence", "decoders": [settings["decoder"], strip]}
    file.write_text(json.dumps(settings))
    loaded = models.load(str(own), dtype="fp32", device="cpu")

    def begins_with_a_space(text: str) -> bool:
        logits = loaded.model(loaded.tokenizer(text, return_tensors="pt")["input_ids"]).logits[0, -1]
        return str(loaded.tokenizer.convert_ids_to_tokens(int(logits.argmax()))).startswith("Ġ")

    words = [decode(loaded.tokenizer, [token]).strip() for token in range(260, 320)]
    prompts = ["The", *[word for word in words if word and begins_with_a_space(word)][:3]]
    lines = [openai(text, "completions", prompt=text, max_tokens=6) for text in prompts]
    code, found, _ = run(
        [*lines, {"id": "raw", "prompt": "The"}], "--model", str(own), "--raw", "--max-new-tokens", "6"
    )
    assert code == 0
    texts = {text: found[text]["response"]["body"]["choices"][0]["text"] for text in prompts}
    assert texts["The"] == found["raw"]["text"]
    for text in prompts:
        ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
        whole = loaded.model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)[0].tolist()
        assert f"{text}{texts[text]}" == decode(loaded.tokenizer, whole)
    assert any(text.startswith(" ") for text in texts.values())


@pytest.mark.slow
def test_all_formats_have_the_answers_of_plain_decoding(run: Any, folder: Path) -> None:
    fox, dog = ([{"role": "user", "content": text}] for text in ("The quick brown fox", "The dog"))
    code, found, told = run(
        [
            openai("chat", "chat/completions", messages=fox, max_tokens=20),
            openai("text", "completions", prompt="The dog", max_tokens=7),
            {"id": 9, "messages": dog},
            {"prompt": "The quick brown fox", "max_tokens": 20},
        ]
    )
    assert code == 0, told
    assert found.keys() == {"chat", "text", 9, 4}
    body = found["chat"]["response"]["body"]
    assert (body["object"], body["model"]) == ("chat.completion", str(folder))
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": plain(folder, fox, max_new_tokens=20), "refusal": None},
            "logprobs": None,
            "finish_reason": "length",
        }
    ]
    assert body["usage"]["completion_tokens"] == 20
    assert body["usage"]["total_tokens"] == 20 + body["usage"]["prompt_tokens"]
    assert (found["chat"]["response"]["status_code"], found["chat"]["error"]) == (200, None)
    assert found["text"]["response"]["body"]["object"] == "text_completion"
    assert found["text"]["response"]["body"]["usage"]["completion_tokens"] == 7
    assert found[9]["text"] == plain(folder, dog, max_new_tokens=12)
    assert found[4]["text"] == body["choices"][0]["message"]["content"]
    assert found[4]["finish_reason"] == "length"
    assert "4 of 4 lines answered: 59 tokens in" in told


def test_what_fails_is_recorded_and_the_others_go_on(run: Any) -> None:
    lines = [
        "{no json",
        {"id": "typo", "prompt": "a", "temprature": 1},
        openai("two", "chat/completions", messages=[{"role": "user", "content": "a"}], n=2),
        {"id": "long", "prompt": "a dog " * 200},
        {"id": "beyond", "prompt": [1, 99999]},
        {"id": "good", "prompt": "a"},
    ]
    code, found, told = run(lines)
    assert code == 1
    assert found[1]["error"]["code"] == 400
    assert "no JSON" in found[1]["error"]["message"]
    assert "'temprature' is not supported" in found["typo"]["error"]["message"]
    assert found["two"]["response"]["status_code"] == 400
    assert "'n' is supported only as 1" in found["two"]["response"]["body"]["error"]["message"]
    assert found["two"]["error"]["message"] == found["two"]["response"]["body"]["error"]["message"]
    assert "the model's context is 128" in found["long"]["error"]["message"]
    assert "must be numbers from 0 to 319" in found["beyond"]["error"]["message"]
    assert "error" not in found["good"]
    assert "1 of 6 lines answered" in told
    assert "5 lines failed; the first: line 1: this line is no JSON" in told
    again, same, told = run(lines)
    assert (again, same) == (1, found)  # failed lines are finished too
    assert "6 of 6 lines are in" in told


def test_lines_settings_go_before_the_runs(run: Any, folder: Path) -> None:
    fox = [{"role": "user", "content": "The quick brown fox"}]
    whole = plain(folder, [{"role": "system", "content": "Be"}, *fox], max_new_tokens=40)
    stop = whole[9:12]
    _, found, _ = run(
        [{"id": "stop", "messages": fox, "stop": [stop, "no such text"], "max_tokens": 40}], "--system", "Be"
    )
    assert found["stop"]["text"] == whole[: whole.find(stop)]
    assert found["stop"]["finish_reason"] == "stop"
    _, whole, _ = run([{"id": "a", "prompt": "The dog"}], "--raw", output="whole")
    (text,) = (record["text"] for record in whole.values())
    across = "g" + text[0]  # half of it is the prompt's end, which is not the answer's business
    _, found, _ = run([{"id": "a", "prompt": "The dog", "stop": across}], "--raw", output="across")
    assert found["a"]["text"] == text.split(across)[0]


def test_where_no_length_is_asked_for_it_is_what_there_is_room_for(run: Any) -> None:
    prompt = {"prompt": [5] * 20}
    code, found, _ = run([{"id": "a", **prompt}, {"id": "b", **prompt, "max_tokens": 12}], "--max-tokens", "26")
    assert code == 1
    assert found["a"]["usage"]["completion_tokens"] == 6
    assert "the engine has room for 26" in found["b"]["error"]["message"]


def test_samples_repeat_by_seed_and_id_whatever_runs_beside(run: Any, folder: Path, capsys: Capture) -> None:
    lines: list[Any] = [{"id": f"{number}", "prompt": "The dog"} for number in range(6)]
    lines.append({"id": "own", "prompt": "The dog", "seed": 3})
    sampled = ["--temperature", "1", "--top-p", "0.9", "--seed", "5"]
    _, found, _ = run(lines, *sampled, "--rows", "3")
    _, again, _ = run(lines, *sampled, "--rows", "1", output="again.jsonl")
    texts = {name: record["text"] for name, record in found.items()}
    assert texts == {name: record["text"] for name, record in again.items()}
    assert len(set(texts.values())) > 3
    assert found["own"]["racer"]["seed"] == 3
    for name in ("own", "2"):
        command = ["generate", "--json", "--model", str(folder), *OPTIONS, *sampled[:4]]
        assert main([*command, "--seed", str(found[name]["racer"]["seed"]), "The dog"]) == 0
        assert json.loads(capsys.readouterr().out)["text"] == texts[name]


def test_refusals_name_what_is_wrong(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    source, out = written(tmp_path / "in.jsonl", [{"prompt": "a"}]), tmp_path / "out.jsonl"
    command = ["batch", "--model", str(folder), *OPTIONS]
    assert main([*command, str(source), str(out)]) == 0
    capsys.readouterr()
    assert "with other settings" in refused([*command, "--temperature", "1", str(source), str(out)], capsys)
    written(source, [{"prompt": "b"}])
    assert "reads otherwise now" in refused([*command, str(source), str(out)], capsys)
    written(source, [{"id": 3, "prompt": "b"}])
    assert "which the input has not" in refused([*command, str(source), str(out)], capsys)
    written(source, [{"id": 3}, {"id": 3}])
    assert "3 (lines 1 and 2)" in refused([*command, str(source), str(out)], capsys)
    assert "are the same file" in refused([*command, str(source), str(source)], capsys)
    assert "has no lines" in refused([*command, str(written(source, [""])), str(tmp_path / "new")], capsys)
    assert "no effect with --raw" in refused([*command, "--raw", "--system", "x", str(source), str(out)], capsys)
    assert "no folder" in refused([*command, str(source), str(tmp_path / "none" / "out")], capsys)
    (tmp_path / "bad.gguf").write_bytes(b"no such thing")
    bad = ["batch", "--model", str(tmp_path / "bad.gguf"), str(written(source, [{"prompt": "a"}])), str(tmp_path / "x")]
    assert "cannot load" in refused(bad, capsys)
    assert "unknown drafter 'nobody'" in refused([*command, "--drafter", "nobody", str(source), str(out)], capsys)


@pytest.mark.skipif(not available(), reason="the processor has no dot products of bytes")
@pytest.mark.parametrize(("kind", "others"), [("Q8_0", True), ("F16", False)])
def test_where_weights_are_others_answers_are_not_mixed(
    kind: str, others: bool, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command, on a processor that cannot multiply in the file's bits."""
    pytest.importorskip("gguf")
    model = tiny_gguf.write(tmp_path / "model.gguf", kind)
    source, out = written(tmp_path / "in.jsonl", [{"prompt": "a"}]), tmp_path / "out.jsonl"
    command = ["batch", "--model", str(model), "--device", "cpu", "--max-new-tokens", "3", str(source), str(out)]
    assert main(command) == 0
    assert main(command) == 0
    capsys.readouterr()
    monkeypatch.setattr(keeping, "obstacle", lambda: "another processor")
    if others:
        assert "with other settings" in refused(command, capsys)
    else:
        assert main(command) == 0


def started(folder: Path, source: Path, out: Path, *more: str, **extra: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*COMMAND, "batch", "--model", str(folder), *OPTIONS, *more, source, out], **extra)


def wait_for_lines(out: Path, least: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not out.exists() or out.read_bytes().count(b"\n") < least:
        assert process.poll() is None, "it ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_runs_lose_nothing_and_do_nothing_twice(run: Any, folder: Path, tmp_path: Path) -> None:
    lines = [{"id": f"line {number}", "prompt": f"The dog {number}", "max_tokens": 60} for number in range(60)]
    source, out = written(tmp_path / "in.jsonl", lines), tmp_path / "killed.jsonl"
    process = started(folder, source, out, "--rows", "2", stderr=subprocess.PIPE)
    wait_for_lines(out, 20, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    kept = out.read_bytes()
    assert 20 <= kept.count(b"\n") < 60
    out.write_bytes(kept[:-7])  # as if it had been killed within a write
    code, found, told = run(lines, "--rows", "4", output="killed.jsonl")
    assert code == 0
    assert "the last line of" in told
    assert out.read_bytes().startswith(kept[: kept[:-1].rfind(b"\n") + 1])
    _, whole, _ = run(lines, output="whole.jsonl")
    assert {name: record["text"] for name, record in found.items()} == {
        name: record["text"] for name, record in whole.items()
    }


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_run_says_how_to_go_on(folder: Path, tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", [{"prompt": f"{number}", "max_tokens": 100} for number in range(200)])
    out = tmp_path / "out.jsonl"
    process = started(folder, source, out, "--rows", "2", stderr=subprocess.PIPE)
    wait_for_lines(out, 3, process)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in told
    assert b"of 200 lines are left; the same command goes on with them" in told
    assert len(records(out)) >= 3


def test_a_terminal_sees_a_bar(folder: Path, tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", [{"prompt": f"{number}", "max_tokens": 60} for number in range(30)])
    control, terminal = pty.openpty()
    process = started(folder, source, tmp_path / "out.jsonl", stderr=terminal, env=os.environ | {"COLUMNS": "100"})
    os.close(terminal)
    shown = b""
    while True:
        try:
            shown += os.read(control, 65536)
        except OSError:  # how Linux tells the end
            break
    os.close(control)
    assert process.wait(30) == 0
    assert b"/30" in shown
    assert b"tokens/s" in shown
    assert b"30 of 30 lines answered" in shown


def test_only_so_many_lines_are_read_ahead(folder: Path, tmp_path: Path) -> None:
    source, out = written(tmp_path / "in.jsonl", [{"prompt": f"{number}"} for number in range(40)]), tmp_path / "out"
    loaded = models.load(str(folder), dtype="fp32", device="cpu")
    defaults = Defaults(
        model=None, dtype=None, weights="plain", max_new_tokens=5, temperature=None, top_p=None, seed=0, system=None,
        raw=False,
    )  # fmt: skip
    ahead: list[int] = []

    def told(output: Path) -> Iterator[Line]:
        for number, line in enumerate(read(source), start=1):
            ahead.append(number - output.read_bytes().count(b"\n"))
            yield line

    with (
        closing(Index(read(source))) as index,
        racer.Engine(loaded.model, max_rows=2) as engine,
        opened(out, index, defaults.digest) as output,
    ):
        Runner(loaded, engine, defaults, output, stopping=lambda *_: None, window=6).run(told(out), index)
    assert len(records(out)) == 40
    assert max(ahead) == 6


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(lines: int) -> int:
        source = written(tmp_path / "in.jsonl", [{"id": f"line {number}", "text": "x" * 99} for number in range(lines)])
        tracemalloc.start()
        try:
            with closing(Index(read(source))) as index:
                assert sum(index.find(line.key) is not None for line in read(source)) == lines
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    assert peak(20_000) < peak(2_000) + 50_000  # a list of their ids would be over a million


LIGHT = """
import sys
from racer.cli import main
assert main(["batch", "--help"]) == main(["chat", "--help"]) == 0
assert main(["batch", "--seed", "x", "in", "out"]) == main(["batch", "no such file", "out"]) == 2
assert main(["chat", "--model", "./nowhere"]) == main(["batch", "/dev/zero", "out"]) == 2
heavy = {"torch", "transformers", "numpy", "prompt_toolkit", "asyncio"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_and_refusals_import_nothing_heavy() -> None:
    subprocess.run([sys.executable, "-c", LIGHT], check=True, capture_output=True)
