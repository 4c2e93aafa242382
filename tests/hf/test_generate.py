"""``generate`` takes and gives what ``model.generate`` does."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList, StopStringCriteria
from transformers.generation import GenerateDecoderOnlyOutput

import racer
from racer import DecodeConfig, Decoder, Logits
from racer.engine.kept_strategies import MAX_KEPT
from racer.testing import toy_model
from support.toy_batch import BATCH, GREEDY, IDS, MODEL, VOCAB, Collects, same


@pytest.mark.parametrize("eos", [5, [5, 2], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_eos_ends_rows_and_the_rest_is_padded(eos: Any) -> None:
    out = same(**BATCH, max_new_tokens=60, eos_token_id=eos)
    assert out.shape[1] < 64


def test_max_length_and_max_new_tokens() -> None:
    assert same(**BATCH, max_length=9).shape == (2, 9)
    assert same(**BATCH, max_new_tokens=1).shape == (2, 5)
    assert same(**BATCH, generation_config=GenerationConfig(max_new_tokens=7, pad_token_id=0)).shape == (2, 11)


def test_inputs_may_be_positional_in_name_and_one_row() -> None:
    assert torch.equal(
        racer.generate(MODEL, inputs=IDS[:1], max_new_tokens=9, do_sample=False),
        same(input_ids=IDS[:1], max_new_tokens=9),
    )


class EndsAfterPair(StoppingCriteria):
    """Reads text; stops at a pair of equal tokens. Remembers the longest text that it was shown."""

    def __init__(self) -> None:
        self.longest = 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.longest = max(self.longest, input_ids.shape[1])
        return input_ids[:, -1] == input_ids[:, -2]


def test_stopping_criteria_are_asked_after_every_token() -> None:
    mine, theirs = EndsAfterPair(), EndsAfterPair()
    how = {"max_new_tokens": 40, "do_sample": False, "eos_token_id": 99}
    got = racer.generate(MODEL, config=GREEDY, **BATCH, stopping_criteria=StoppingCriteriaList([mine]), **how)
    assert torch.equal(got, MODEL.generate(**BATCH, stopping_criteria=StoppingCriteriaList([theirs]), **how))
    assert mine.longest == theirs.longest == got.shape[1], "nothing overshoots"


@pytest.mark.parametrize("by_config", [False, True])
def test_stop_strings_end_the_text_where_generate_ends_it(folder: Path, by_config: bool) -> None:
    from racer.loading.models import load

    loaded = load(str(folder), dtype="fp32", device="cpu")
    inputs, how = dict(loaded.tokenizer("The quick", return_tensors="pt")), {"max_new_tokens": 80, "do_sample": False}
    inputs.pop("token_type_ids", None)
    new = loaded.model.generate(**inputs, **how)[0, inputs["input_ids"].shape[1] :]
    pairs = [loaded.tokenizer.decode(new[at : at + 2]) for at in range(5, 70)]
    strings = [next(pair for pair in pairs if pair.isascii() and len(pair) > 1), "never there"]  # across two tokens
    if by_config:
        settings = GenerationConfig(stop_strings=strings, max_new_tokens=80, do_sample=False)
        given: dict[str, Any] = {"generation_config": settings}
    else:
        given = how | {"stop_strings": strings}
    expected = loaded.model.generate(**inputs, **given, tokenizer=loaded.tokenizer)
    got = racer.generate(loaded.model, config=GREEDY, **inputs, **given, tokenizer=loaded.tokenizer)
    assert torch.equal(got, expected)
    assert got.shape[1] < inputs["input_ids"].shape[1] + 80


def test_the_callers_own_stop_strings_count_in_place_of_settings(folder: Path) -> None:
    from racer.loading.models import load

    loaded = load(str(folder), dtype="fp32", device="cpu")
    ids, how = loaded.tokenizer("The quick", return_tensors="pt")["input_ids"], {"max_new_tokens": 40}
    new = loaded.model.generate(ids, **how, do_sample=False)[0, ids.shape[1] :]
    pairs = [loaded.tokenizer.decode(new[at : at + 2]) for at in range(5, 30)]
    early = next(pair for pair in pairs if pair.isascii() and len(pair) > 1)
    ends = []
    for call in (loaded.model.generate, lambda *given, **how: racer.generate(loaded.model, *given, **how)):
        criteria = StoppingCriteriaList([StopStringCriteria(loaded.tokenizer, ["never there"])])
        given = {**how, "stop_strings": [early], "stopping_criteria": criteria, "tokenizer": loaded.tokenizer}
        ends.append(call(ids, do_sample=False, **given))
    assert torch.equal(*ends)
    assert ends[0].shape[1] == ids.shape[1] + 40


def test_num_return_sequences_gives_different_samples_and_is_reproducible() -> None:
    how = {"input_ids": IDS[:1], "max_new_tokens": 20, "do_sample": True, "num_return_sequences": 3}
    config = DecodeConfig(drafter="logits", seed=5, budget=8)
    first = racer.generate(MODEL, config=config, **how)
    assert len({tuple(row) for row in first.tolist()}) == 3
    assert torch.equal(first, racer.generate(MODEL, config=config, **how))
    assert torch.equal(first, racer.generate(MODEL, config=DecodeConfig(drafter="none", seed=5), **how))


def test_without_a_seed_torchs_generator_decides() -> None:
    how = {"input_ids": IDS[:1], "max_new_tokens": 30, "do_sample": True}
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(racer.generate(MODEL, config=GREEDY, **how).tolist())
    assert runs[0] == runs[1] != runs[2]


def test_return_dict_has_statistics() -> None:
    out = racer.generate(
        MODEL, config=GREEDY, **BATCH, max_new_tokens=30, return_dict_in_generate=True, do_sample=False
    )
    assert isinstance(out, GenerateDecoderOnlyOutput)
    stats = out.racer_stats
    assert torch.equal(out.sequences, same(**BATCH, max_new_tokens=30))
    assert stats.new_tokens == 60
    assert stats.prompt_tokens == 6
    assert [sum(lengths) for lengths in stats.accept_lengths] == [29, 29]
    assert stats.steps == len(stats.nodes) == max(map(len, stats.accept_lengths))
    assert 1 <= stats.mean_accepted_tokens == 58 / sum(map(len, stats.accept_lengths))
    assert stats.drafted["logits"] >= stats.accepted["logits"] > 0
    assert stats.accepted["logits"] == 58 - sum(map(len, stats.accept_lengths))
    assert {"draft", "forward", "verify", "commit"} <= set(stats.milliseconds)
    assert 0 < sum(stats.milliseconds.values()) <= stats.seconds * 1e3
    assert stats.to_dict()["mean_accepted_tokens"] == stats.mean_accepted_tokens


def test_the_streamer_gets_what_generate_would_give_it() -> None:
    mine, theirs = Collects(), Collects()
    how = {"input_ids": IDS[:1], "max_new_tokens": 12, "do_sample": False}
    racer.generate(MODEL, config=GREEDY, streamer=mine, **how)
    MODEL.generate(streamer=theirs, **how)
    assert mine.got == theirs.got


def test_a_decoder_keeps_what_it_learned() -> None:
    decoder = Decoder(MODEL, DecodeConfig(drafter="retrieval", budget=12))
    how = {"input_ids": IDS[:1], "max_new_tokens": 40, "do_sample": False, "return_dict_in_generate": True}
    first, second = decoder.generate(**how), racer.generate(decoder, **how)
    assert torch.equal(first.sequences, second.sequences)
    assert second.racer_stats.steps < first.racer_stats.steps


def test_what_was_learned_goes_with_the_model() -> None:
    model = toy_model(VOCAB)
    racer.generate(model, config=GREEDY, input_ids=IDS[:1], max_new_tokens=5, do_sample=False)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_only_the_latest_configurations_are_remembered() -> None:
    model, how = toy_model(VOCAB), {"input_ids": IDS[:1], "max_new_tokens": 3, "do_sample": False}
    drafters = [Logits(2) for _ in range(MAX_KEPT + 3)]
    gone = weakref.ref(drafters[0])
    while drafters:
        racer.generate(model, config=DecodeConfig(drafter=drafters.pop(0)), **how)
    gc.collect()
    assert gone() is None


def test_a_call_inside_a_streamer_does_not_change_the_outer_one() -> None:
    """Calls share a strategies, not a verifier."""
    how = {"input_ids": IDS[:1], "max_new_tokens": 15, "do_sample": False}

    class Calls(Collects):
        def put(self, value: torch.Tensor) -> None:
            super().put(value)
            racer.generate(MODEL, config=GREEDY, input_ids=IDS[:1], max_new_tokens=3, do_sample=True)

    assert torch.equal(racer.generate(MODEL, config=GREEDY, streamer=Calls(), **how), same(**how))


def test_threads_with_different_verifiers() -> None:
    how = {"input_ids": IDS[:1], "max_new_tokens": 15}
    expected, wrong = same(**how), []

    def run(do_sample: bool) -> None:
        for _ in range(10):
            got = racer.generate(MODEL, config=GREEDY, do_sample=do_sample, **how)
            if not do_sample and not torch.equal(got, expected):
                wrong.append(got)

    threads = [threading.Thread(target=run, args=(do_sample,)) for do_sample in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_prefix_constraints_are_asked_about_their_own_rows_only() -> None:
    asked = []

    def allowed(row: int, prefix: torch.Tensor) -> list[int]:
        asked.append((row, tuple(prefix.tolist()[:4])))
        return [1, 2, 3] if row == 0 else [4, 5, 6]

    same(**BATCH, max_new_tokens=20, prefix_allowed_tokens_fn=allowed)
    assert {row for row, prefix in asked if prefix == tuple(IDS[1].tolist())} == {1}


def test_the_models_own_stop_strings_are_kept(folder: Path) -> None:
    from racer.loading.models import load

    loaded = load(str(folder), dtype="fp32", device="cpu")
    ids = loaded.tokenizer("The quick", return_tensors="pt")["input_ids"]
    new = loaded.model.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :]
    pairs = [loaded.tokenizer.decode(new[at : at + 2]) for at in range(5, 38)]
    loaded.model.generation_config.stop_strings = [next(pair for pair in pairs if pair.isascii() and len(pair) > 1)]
    how = {"max_new_tokens": 40, "do_sample": False, "tokenizer": loaded.tokenizer}
    plain = loaded.model.generate(ids, **how)

    class Meanwhile(Collects):
        """Somebody else calls the same model while it decodes."""

        def put(self, value: torch.Tensor) -> None:
            super().put(value)
            if len(self.got) in (1, 3):
                assert torch.equal(loaded.model.generate(ids, **how), plain)

    streamer = Meanwhile()
    assert torch.equal(racer.generate(loaded.model, input_ids=ids, streamer=streamer, **how), plain)
    assert len(streamer.got) > 3
    given = GenerationConfig(max_new_tokens=40, do_sample=False)
    how = {"generation_config": given, "tokenizer": loaded.tokenizer}
    assert torch.equal(racer.generate(loaded.model, input_ids=ids, **how), loaded.model.generate(ids, **how))
    assert given.stop_strings is None
    assert loaded.model.generation_config.stop_strings


def test_neighbouring_seeds_share_no_row() -> None:
    how = {"input_ids": IDS[:1], "max_new_tokens": 30, "do_sample": True, "num_return_sequences": 4}
    rows = [
        tuple(row) for seed in range(4) for row in racer.generate(MODEL, config=DecodeConfig(seed=seed), **how).tolist()
    ]
    assert len(set(rows)) == 16
