"""The command line: every answer, every refusal, and the stream of text."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_folder import SENTENCES, build_folder, build_tokenizer

import racer.discovery
from racer.cli import decoding, main
from racer.cli.decoding import Outcome, Plan, Session
from racer.cli.options import Options
from racer.cli.render import TextSink, print_json
from racer.cli.streaming import Detokenizer, decode
from racer.core.packed_weights import pack
from racer.errors import PluginError
from racer.loading import models
from racer.loading.embedded import EMBEDDED_NAME

PROMPT = "The quick brown fox"
COMMAND = [sys.executable, "-m", "racer.cli"]

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def ask(folder: Path, capsys: Capture) -> Any:
    """Run ``racer generate --json`` on the tiny model, and give the object."""

    def run(*arguments: str, prompt: str = PROMPT) -> dict[str, Any]:
        code = main(
            ["generate", "--json", "--model", str(folder), "--dtype", "fp32", "--device", "cpu", *arguments, prompt]
        )
        captured = capsys.readouterr()
        assert code == 0, captured.err
        assert captured.out.count("\n") == 1
        data: dict[str, Any] = json.loads(captured.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
        return data

    return run


def refused(arguments: list[str], capsys: Capture) -> str:
    """The one line of a refusal."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("racer: error: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    return captured.err


# -- refusals -------------------------------------------------------------------------------------------------------

BAD = [
    ([], "no PROMPT"),
    ([""], "prompt is empty"),
    ([" \n\t"], "prompt is empty"),
    (["x", "y"], "unexpected extra argument"),
    (["x", "--bogus"], "no such option"),
    (["x", "--budget"], "requires an argument"),
    *[(["x", "--budget", budget], "from 1 .* to 4096") for budget in ("0", "-3", str(10**9), "", "9" * 30)],
    *[(["x", "--budget", budget], "unknown budget.*from 1 to 4096") for budget in ("abc", "1.5", "nan")],
    (["x", "--drafter", "racr"], "unknown drafter 'racr'.*did you mean 'racer'"),
    (["x", "--drafter", "zzzzzz"], "unknown drafter.*There are .*retrieval"),
    (["x", "--verifier", "gredy"], "unknown verifier.*did you mean 'greedy'"),
    (["x", "--drafter", ""], "unknown drafter"),
    (["x", "--dtype", "int3"], "--dtype.*'bf16', 'fp16', 'fp32'"),
    (["x", "--device", "abacus"], "unknown device 'abacus'"),
    (["x", "--compile", "yes"], "--compile.*'graphs'"),
    (["x", "--model", "./no-such-folder"], "no such model folder"),
    (["x", "--model", ""], "no such model folder"),
    (["x", "--model", str(Path(__file__).parent)], "has no model"),
    *[(["x", "--temperature", value], "--temperature") for value in ("-1", "-0.001", "nan", "inf", "hot")],
    *[(["x", "--temperature", "1", "--top-p", value], "--top-p") for value in ("1.01", "0", "-1", "nan")],
    *[(["x", "--temperature", "1", "--top-k", value], "--top-k") for value in ("-1", "1.5", "nan")],
    *[(["x", "--temperature", "1", "--min-p", value], "--min-p") for value in ("-0.1", "2")],
    *[(["x", "--temperature", "1", "--seed", value], "--seed") for value in ("-1", str(2**63), "x")],
    *[(["x", "--max-new-tokens", value], "--max-new-tokens") for value in ("0", "-1", "many")],
    *[
        (["x", option, value], f"{option} has no effect without sampling: add --temperature")
        for option, value in (("--top-p", "0.5"), ("--top-k", "5"), ("--min-p", "0.1"), ("--seed", "1"))
    ],
    (["x", "--top-p", "0.5", "--temperature", "0"], "no effect without sampling"),
    (["x", "--seed", "1", "--verifier", "greedy"], "no effect without sampling"),
    (["x", "--verifier", "greedy", "--temperature", "1"], "asks for sampling.*greedily: drop one"),
    (["x", "--verifier", "sampling", "--temperature", "0"], "asks for greedy.*samples: drop one"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments)[:40] or "-" for arguments, _ in BAD])
def test_wrong_input_is_refused_in_one_line(
    arguments: list[str], words: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_load_model", lambda *_: pytest.fail("the model was loaded"))
    assert re.search(words, refused(["generate", *arguments], capsys))


@pytest.mark.parametrize("arguments", [["--bogus"], ["frobnicate"], ["plugins", "extra"]])
def test_wrong_commands(arguments: list[str], capsys: Capture) -> None:
    refused(arguments, capsys)


def test_empty_standard_input(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert "prompt is empty" in refused(["generate", "-"], capsys)


def test_a_prompt_beyond_the_context(folder: Path, capsys: Capture) -> None:
    line = refused(["generate", "--model", str(folder), "--device", "cpu", "word " * 400], capsys)
    assert re.search(r"prompt has \d+ tokens, but the model's context is 128: shorten it to 127", line)


def test_an_answer_beyond_the_context_is_cut(folder: Path, capsys: Capture) -> None:
    assert (
        main(["generate", "--json", "--model", str(folder), "--device", "cpu", "--max-new-tokens", "999", PROMPT]) == 0
    )
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert data["prompt_tokens"] + data["new_tokens"] == 128
    assert captured.err == (
        f"racer: --max-new-tokens is cut from 999 to {data['new_tokens']}: that fills the model's context after a "
        f"prompt of {data['prompt_tokens']} tokens\n"
    )


def test_a_template_that_fails(tmp_path: Path, capsys: Capture) -> None:
    broken = build_folder(tmp_path / "model")
    (broken / "chat_template.jinja").write_text("{{ raise_exception('no users here') }}")
    assert "no users here (--raw goes without it)" in refused(["generate", "--model", str(broken), "x"], capsys)
    assert main(["generate", "--model", str(broken), "--raw", "--max-new-tokens", "2", "x"]) == 0


# -- answers --------------------------------------------------------------------------------------------------------


def test_json_has_all_figures(ask: Any, folder: Path) -> None:
    data = ask("--max-new-tokens", "40", "--budget", "16")
    assert data["new_tokens"] == len(data["token_ids"]) == 40
    assert sum(data["accept_lengths"]) == 39  # the first token is the prefill's
    assert len(data["accept_lengths"]) == data["steps"]
    assert data["mean_accepted_tokens"] == pytest.approx(39 / data["steps"])
    assert data["tokens_per_second"] == pytest.approx(40 / data["seconds"])
    expected = {
        "drafter": "racer",
        "verifier": "greedy",
        "model": str(folder),
        "budget": 16,
        "dtype": "fp32",
        "seed": None,
    }
    assert {name: data[name] for name in expected} == expected
    assert data["device"] == "cpu"
    assert data["torch"] == torch.__version__
    assert {"prefill", "draft", "forward", "verify", "commit"} <= set(data["milliseconds"])
    assert sum(data["accepted"].values()) <= sum(data["drafted"].values())
    assert "plain_seconds" not in data
    assert data["text"] == decode(models.load_tokenizer(str(folder)), data["token_ids"])


def test_the_tokens_are_those_of_transformers(ask: Any, folder: Path) -> None:
    loaded = models.load(str(folder), dtype="fp32", device="cpu")
    ids = torch.tensor([loaded.tokenizer(f"<|user|>{PROMPT}<|answer|>").input_ids])
    with models.quiet():
        expected = loaded.model.generate(ids, max_new_tokens=24, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    assert ask("--max-new-tokens", "24")["token_ids"] == expected.tolist()
    raw = ask("--max-new-tokens", "4", "--raw")
    assert raw["prompt_tokens"] == len(loaded.tokenizer(PROMPT).input_ids) == ids.shape[1] - 2


def test_one_token_has_no_step_and_no_nan(ask: Any) -> None:
    data = ask("--max-new-tokens", "1", "--compare")
    assert (data["steps"], data["accept_lengths"], data["mean_accepted_tokens"]) == (0, [], None)
    assert data["identical"]


@pytest.mark.parametrize("drafter", ["racer", "none", "prompt-lookup"])
@pytest.mark.parametrize("sampling", [[], ["--temperature", "0.7", "--top-p", "0.9", "--min-p", "0.01", "--seed", "3"]])
def test_compare_finds_the_same_tokens(ask: Any, drafter: str, sampling: list[str]) -> None:
    data = ask("--max-new-tokens", "48", "--compare", "--drafter", drafter, *sampling)
    assert data["identical"]
    assert data["plain_token_ids"] == data["token_ids"]
    assert (data["first_difference"], data["top2_gap"]) == (None, None)
    assert data["speedup"] == pytest.approx(data["plain_seconds"] / data["seconds"])
    assert data["plain_tokens_per_second"] == pytest.approx(48 / data["plain_seconds"])
    assert data["verifier"] == ("sampling" if sampling else "greedy")


def test_static_shapes_give_the_same_tokens(ask: Any) -> None:
    dynamic, static = (ask("--max-new-tokens", "40", "--budget", "8", "--compile", way) for way in ("off", "static"))
    for name in ("token_ids", "accept_lengths"):
        assert static[name] == dynamic[name]


def test_packed_weights_give_the_same_tokens(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    choices: list[Any] = []
    monkeypatch.setattr(
        "racer.engine.decoder.pack", lambda model, choice: (choices.append(choice), pack(model, choice))[1]
    )
    answers = [ask("--max-new-tokens", "40", *how)["token_ids"] for how in ([], ["--pack"], ["--no-pack"])]
    assert answers[0] == answers[1] == answers[2]
    assert choices == ["auto", True, False]


def test_graphs_are_refused_where_there_is_no_gpu(folder: Path, capsys: Capture) -> None:
    asked = ["generate", "--model", str(folder), "--device", "cpu", "--compile", "graphs", "--max-new-tokens", "4", "x"]
    line = refused(asked, capsys)
    assert re.search("compile='graphs' needs a model on a CUDA device.*on cpu", line)


def test_sampling_repeats_by_its_seed(ask: Any) -> None:
    drawn = ask("--verifier", "sampling", "--max-new-tokens", "16")
    assert isinstance(drawn["seed"], int)
    again = ask("--temperature", "1", "--seed", str(drawn["seed"]), "--max-new-tokens", "16")
    assert again["token_ids"] == drawn["token_ids"]
    assert (
        ask("--temperature", "1", "--seed", str(drawn["seed"] + 1), "--max-new-tokens", "16")["token_ids"]
        != drawn["token_ids"]
    )
    assert ask("--temperature", "0", "--max-new-tokens", "16")["verifier"] == "greedy"


def test_no_default_of_transformers_sneaks_in() -> None:
    options = an_options(temperature=0.5)
    neutral = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    assert options.sampling(True) == {"do_sample": True, "temperature": 0.5, "top_p": 1.0, "top_k": 0, **neutral}
    assert options.sampling(False)["do_sample"] is False


def an_options(**changes: Any) -> Options:
    given = {"prompt": PROMPT, "model": None, "drafter": "racer", "verifier": "auto", "budget": "auto", "seed": None}
    given |= {"max_new_tokens": 8, "temperature": None, "top_p": None, "top_k": None, "min_p": None, "dtype": "fp32"}
    given |= {"compile": "auto", "pack": "auto"}
    return Options(**given | {"device": "cpu", "raw": False, "compare": False, "state": None, "json": False} | changes)


def test_a_difference_is_found_and_measured(folder: Path) -> None:
    loaded, options = models.load(str(folder), dtype="fp32", device="cpu"), an_options()
    session = Session(options, Plan.of(options), loaded)
    plain = session.compare(Outcome([], None)).plain  # type: ignore[arg-type]
    changed = [*plain.tokens[:5], 7 if plain.tokens[5] != 7 else 8, *plain.tokens[6:]]
    comparison = session.compare(Outcome(changed, plain.stats))
    assert comparison.first_difference == 5
    ids = torch.cat([session.inputs["input_ids"], torch.tensor([plain.tokens[:5]])], dim=1)
    best = loaded.model(input_ids=ids).logits[0, -1].detach().topk(2)
    assert int(best.indices[0]) == plain.tokens[5]
    assert comparison.top2_gap == pytest.approx(float(best.values[0] - best.values[1]), abs=1e-5)


def test_the_prompt_comes_from_standard_input(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT + "\n"))
    piped = ask("--max-new-tokens", "8", prompt="-")
    assert piped["token_ids"] == ask("--max-new-tokens", "8")["token_ids"]


def test_bytes_that_are_no_text_are_taken(ask: Any) -> None:
    assert ask("--max-new-tokens", "2", prompt="half \udcf0 character")["new_tokens"] == 2


@pytest.mark.filterwarnings("always::racer.hf.generate.PlainDecodingWarning")
def test_a_model_that_knows_no_trees_is_decoded_plainly(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = ask("--max-new-tokens", "8")
    monkeypatch.setattr("racer.hf.generate.probe", lambda model: racer.core.support.Support(None, "it has state", 320))
    data = ask("--max-new-tokens", "8", "--compare")
    assert data["token_ids"] == usual["token_ids"]
    assert (data["drafter"], data["steps"], data["mean_accepted_tokens"]) == ("none", 7, 1)


# -- the stream -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drafter", ["racer", "none", "prompt-lookup"])
def test_the_stream_is_the_text(ask: Any, folder: Path, capsys: Capture, drafter: str) -> None:
    limit = ["--max-new-tokens", "60", "--drafter", drafter]
    text = ask(*limit)["text"]
    assert main(["generate", "--model", str(folder), "--dtype", "fp32", "--device", "cpu", *limit, PROMPT]) == 0
    captured = capsys.readouterr()
    assert captured.out == text + "\n"
    assert re.fullmatch(
        r"[\d.]+ tokens/s, [\d.]+ mean accepted tokens, \d+ steps, 60 new tokens in [\d.]+ s "
        rf"\(drafter {drafter}, verifier greedy\)\n",
        captured.err,
    )


def test_compare_in_words(folder: Path, capsys: Capture) -> None:
    arguments = ["generate", "--model", str(folder), "--dtype", "fp32", "--max-new-tokens", "24", PROMPT, "--compare"]
    assert main([*arguments, "--temperature", "0.9", "--seed", "5"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("verifier sampling, seed 5)")
    assert re.match(r"[\d.]+x the speed of plain decoding .*; the tokens are identical", lines[1])
    assert main([*arguments, "--verifier", "typical"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[2] == "verifier typical is lossy: its tokens may differ from those of plain decoding"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_drafted_text_is_green_on_a_terminal_only(
    ask: Any,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = ["--max-new-tokens", "60", "--budget", "32"]
    data = ask(*limit)
    assert sum(data["accepted"].values()) > 5
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    written = []
    for _ in range(2):
        monkeypatch.setattr(sys, "stdout", Terminal())
        assert main(["generate", "--model", str(folder), "--dtype", "fp32", "--device", "cpu", *limit, PROMPT]) == 0
        written.append(sys.stdout.getvalue())  # type: ignore[attr-defined]
        monkeypatch.setenv("NO_COLOR", "1")
    coloured, plain = written
    visible = "".join(c for c in data["text"] if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))
    assert "\x1b[32m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == visible + "\n" == plain


def test_a_models_text_cannot_steer_the_terminal() -> None:
    out = Terminal()
    TextSink(out)("a\x1b[2Jb\x07\r\n\tc\x9b", False)
    assert out.getvalue() == "a[2Jb\n\tc"


TOKENIZER = build_tokenizer()


def streamed(tokens: list[int]) -> str:
    text = Detokenizer(TOKENIZER)
    return "".join([text.add(token) for token in tokens]) + text.end()


@given(st.text() | st.sampled_from(SENTENCES))
def test_streamed_text_loses_nothing(text: str) -> None:
    tokens = TOKENIZER(text, add_special_tokens=False).input_ids
    assert streamed(tokens) == decode(TOKENIZER, tokens)


@given(st.lists(st.integers(0, len(TOKENIZER) - 1)))
def test_any_tokens_stream_to_their_text(tokens: list[int]) -> None:
    assert streamed(tokens) == decode(TOKENIZER, tokens)


def test_a_character_comes_whole() -> None:
    tokens = TOKENIZER("a😺b").input_ids
    text = Detokenizer(TOKENIZER)
    pieces = [text.add(token) for token in tokens]
    assert len(pieces) > 3
    assert [piece for piece in pieces if piece] == ["a", "😺", "b"]


# -- endings --------------------------------------------------------------------------------------------------------


def test_an_interrupt_keeps_what_is_there(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(session: Session, streamer: Any) -> None:
        for token in TOKENIZER("so far").input_ids:
            streamer.put(torch.tensor([token]))
        raise KeyboardInterrupt

    monkeypatch.setattr(decoding.Session, "decode", interrupted)
    assert main(["generate", "--model", str(folder), "--max-new-tokens", "9", PROMPT]) == 130
    assert tuple(capsys.readouterr()) == ("so far\n", "")


def test_a_reader_that_leaves_ends_it_quietly(folder: Path) -> None:
    arguments = ["generate", "--model", str(folder), "--max-new-tokens", "100", PROMPT]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_a_real_terminal(folder: Path) -> None:
    """One run through a pseudo-terminal: colours there, and the same text as through a pipe."""
    arguments = [
        "generate",
        "--model",
        str(folder),
        "--dtype",
        "fp32",
        "--max-new-tokens",
        "40",
        "--budget",
        "32",
        PROMPT,
    ]
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    with subprocess.Popen([*COMMAND, *arguments], stdout=theirs, stderr=subprocess.PIPE, env=environment) as process:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
    os.close(ours)
    assert process.returncode == 0
    assert b"\x1b[32m" in shown


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # on Linux, the end of a terminal
        return b""


# -- plugins and help -----------------------------------------------------------------------------------------------


def test_plugins_lists_the_built_ins(capsys: Capture) -> None:
    assert main(["plugins", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    found = {(entry["kind"], entry["name"]): entry for entry in data["plugins"]}
    built_in = ["retrieval", "logits", "recycling", "racer-paper", "racer", "prompt-lookup", "none"]
    for key in [("drafter", name) for name in built_in] + [("verifier", "greedy"), ("budget", "auto")]:
        assert found[key]["origin"].startswith("racer-decoding ")
        assert found[key]["exact"] is True
        assert found[key]["summary"]
    assert found["verifier", "typical"]["exact"] is False
    assert main(["plugins"]) == 0
    table = capsys.readouterr().out
    assert re.search(r"verifier +typical +lossy +racer-decoding [\d.]+ +typical acceptance", table)
    assert "\x1b" not in table


def test_broken_plugins_are_listed_with_the_reason(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [EntryPoint("strategies", "racer.strategies", "racer"), EntryPoint("bad", "no_such_module", "racer")]
    monkeypatch.setattr(racer.discovery, "plugins", racer.discovery.Plugins(lambda: list(found)))
    assert main(["plugins", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["broken"] == {
        "bad (no_such_module)": "ModuleNotFoundError: No module named 'no_such_module'"
    }
    assert main(["plugins"]) == 0
    assert re.search(r"broken +bad \(no_such_module\) +not loaded: ModuleNotFoundError", capsys.readouterr().out)


def test_racers_own_warnings_are_lines(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    def resolve(*_: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("a drafter is\nleft out", racer.guard.PluginWarning, stacklevel=1)
            warnings.warn_explicit("noise", UserWarning, "somewhere/else.py", 1)
        raise PluginError("Stop here")

    monkeypatch.setattr(racer.discovery.plugins, "resolve", resolve)
    assert main(["generate", "x"]) == 2
    assert capsys.readouterr().err == "racer: warning: a drafter is left out\nracer: error: stop here\n"


@pytest.mark.parametrize("command", [[], ["generate"], ["plugins"]])
def test_help_has_examples(command: list[str], capsys: Capture) -> None:
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Examples:\n    racer {' '.join(command)}".rstrip() in text


def test_bare_racer_is_help_and_version(capsys: Capture) -> None:
    assert main([]) == 0
    assert "Usage: racer" in capsys.readouterr().out
    for option in ("-v", "--version"):
        assert main([option]) == 0
        assert capsys.readouterr().out == f"racer {racer.__version__}\n"


LIGHT = """
import sys
from racer.cli import main
assert main(["--help"]) == main(["generate", "--help"]) == main(["plugins", "--help"]) == 0
assert main(["generate", "x", "--top-p", "0.5"]) == main(["generate", "x", "--model", "./nowhere"]) == 2
heavy = {"torch", "transformers", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_and_refusals_import_nothing_heavy() -> None:
    subprocess.run([sys.executable, "-c", LIGHT], check=True, capture_output=True)


def test_help_is_fast() -> None:
    def seconds() -> float:
        started = time.perf_counter()
        subprocess.run([*COMMAND, "generate", "--help"], check=True, capture_output=True)
        return time.perf_counter() - started

    assert min(seconds() for _ in range(3)) < 0.5  # the best of three, as the machine may be busy


def test_json_has_no_nan(capsys: Capture) -> None:
    print_json({"a": float("nan"), "b": [1.5, float("inf")], "c": "😀"})
    assert capsys.readouterr().out == '{"a": null, "b": [1.5, null], "c": "\\ud83d\\ude00"}\n'


# -- the embedded model ---------------------------------------------------------------------------------------------


def test_the_embedded_model_answers(embedded: Path, capsys: Capture) -> None:
    assert (
        main(["generate", "--json", "--device", "cpu", "--max-new-tokens", "16", "What is the capital of France?"]) == 0
    )
    data = json.loads(capsys.readouterr().out)
    assert "Paris" in data["text"]
    assert data["model"] == EMBEDDED_NAME


@pytest.mark.slow
@pytest.mark.parametrize(
    "question", ["List the numbers from one to thirty.", "Write a Python function that sorts a list."]
)
def test_the_embedded_model_compares_equal_in_full_precision(embedded: Path, capsys: Capture, question: str) -> None:
    arguments = ["generate", "--json", "--compare", "--device", "cpu", "--dtype", "fp32", "--max-new-tokens", "96"]
    assert main([*arguments, question]) == 0
    assert json.loads(capsys.readouterr().out)["identical"]
