"""What an engine keeps, and what not: states of changed models, caches of ended requests, room of rows that left."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, LogitsProcessor, StoppingCriteria

import racer
from racer.core.kv_cache import TreeCache
from racer.errors import ConfigError
from racer.testing.toy import toy_model
from support.stepped_engine import SteppedEngine, solo
from support.tiny_models import tiny

TOY = toy_model(13, sharpness=4.0)
HOW: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
PROMPT = [(7 * place + place * place) % 13 for place in range(24)]


def test_states_of_other_weights_are_not_gone_on_from() -> None:
    model = copy.deepcopy(tiny("llama")).float()
    with racer.Engine(model) as engine:
        assert engine.submit(PROMPT, HOW).result(60).cached_tokens == 0
        assert engine.submit(PROMPT, HOW).result(60).cached_tokens > 0
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.v_proj.weight.mul_(-3)
        changed = engine.submit(PROMPT, HOW).result(60)
        assert changed.cached_tokens == 0
        assert list(changed.tokens) == solo(model, PROMPT, **HOW)
        engine.forget()
        assert engine.submit(PROMPT, HOW).result(60).cached_tokens == 0


def test_adapters_count_as_other_weights() -> None:
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=4, target_modules=["v_proj", "q_proj"])
    model = peft.get_peft_model(copy.deepcopy(tiny("llama")).float(), lora)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 2)
    with racer.Engine(model) as engine:
        with_it = engine.submit(PROMPT, HOW).result(60)
        with model.disable_adapter():
            without = engine.submit(PROMPT, HOW).result(60)
            assert without.cached_tokens == 0
            assert list(without.tokens) == solo(model, PROMPT, **HOW)
        again = engine.submit(PROMPT, HOW).result(60)
        assert again.cached_tokens == 0
        assert again.tokens == with_it.tokens != without.tokens


def test_room_of_a_long_row_that_left_is_not_made_for_every_newcomer() -> None:
    engine = SteppedEngine(TOY, max_tokens=8192, max_rows=8, prefill_piece=4000, kept_tokens=0)
    engine.submit(PROMPT * 150, HOW | {"max_new_tokens": 2})
    stays = engine.submit(PROMPT, HOW | {"max_new_tokens": 200})
    for _ in range(6):
        engine.turn()
    for number in range(7):
        engine.submit([number, *PROMPT], HOW | {"max_new_tokens": 100})
    most = 0
    while not stays.done:
        engine.turn()
        if (state := engine._scheduler._live._state) is not None:
            cache: Any = state.cache
            most = max(most, len(cache.lengths) * cache.capacity)
            assert cache.seats * cache.capacity <= 1.25 * 8192 + 8 * 256
    assert most
    assert list(stays.result().tokens) == solo(TOY, PROMPT, **(HOW | {"max_new_tokens": 200}))
    engine.run()


def test_no_memory_to_join_fails_who_is_there_and_nobody_after(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SteppedEngine(TOY)
    there = engine.submit(PROMPT, HOW | {"max_new_tokens": 100})
    for _ in range(3):
        engine.turn()
    comes, own = engine.submit([1, *PROMPT], HOW), TreeCache.join

    def join(self: TreeCache, *rest: Any) -> None:
        monkeypatch.setattr(TreeCache, "join", own)
        raise MemoryError("no room for both")

    monkeypatch.setattr(TreeCache, "join", join)
    engine.run()
    for stream in (there, comes):
        with pytest.raises(MemoryError):
            stream.result(0)
    later = engine.submit(PROMPT, HOW)
    engine.run()
    assert list(later.result(0).tokens) == solo(TOY, PROMPT, **HOW)
    told = engine.figures()
    assert (told.submitted, told.failed, told.finished) == (3, 2, 1)


def test_streams_that_are_held_hold_no_caches() -> None:
    with racer.Engine(TOY, kept_tokens=0) as engine:
        gc.collect()
        before = _caches()
        streams = [engine.submit([n, *PROMPT], HOW | {"max_new_tokens": 1 + n % 3}) for n in range(12)]
        for stream in streams:
            stream.result(60)
        broken = engine.submit(PROMPT, HOW | {"logits_processor": [Breaks(26)]})
        with pytest.raises(ZeroDivisionError):
            broken.result(60)
        engine.submit(PROMPT, HOW).result(60)
    gc.collect()
    assert _caches() <= before
    assert len(streams) == 12


def _caches() -> int:
    return sum(isinstance(thing, TreeCache) for thing in gc.get_objects())


class Breaks(LogitsProcessor):
    """Raises when asked about so long a text, or one with a certain token."""

    racer_row_wise = True

    def __init__(self, length: int, token: int = -1) -> None:
        self.length, self.token = length, token

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] >= self.length or self.token in input_ids[0, len(PROMPT) :].tolist():
            raise ZeroDivisionError("a processor of the user's")
        return scores


class Counts(LogitsProcessor):
    """Has a memory, so that all of its batch must be asked in order."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        return scores


class Raises(StoppingCriteria):
    racer_row_wise = True

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        if input_ids.shape[1] > len(PROMPT) + 3:
            raise ZeroDivisionError("a criterion of the user's")
        return torch.zeros(len(input_ids), dtype=torch.bool)


def test_a_criterion_that_raises_beside_a_processor_with_a_memory() -> None:
    told = solo(TOY, PROMPT, **HOW)
    drafts = [*PROMPT, *told, *PROMPT]  # so that the answer is drafted, and asked about ahead
    with racer.Engine(TOY, racer.DecodeConfig(drafter="prompt-lookup", budget=8), max_rows=3) as engine:
        engine.submit(drafts, HOW).result(60)
        good = engine.submit(PROMPT, HOW | {"logits_processor": [Counts()]})
        bad = engine.submit(PROMPT, HOW | {"stopping_criteria": [Raises()]})
        with pytest.raises(ZeroDivisionError):
            bad.result(60)
        assert list(good.result(60).tokens) == told


def test_nobody_is_asked_what_comes_behind_an_end_token() -> None:
    told = solo(TOY, PROMPT, **HOW)
    end = told[4]
    how = HOW | {"eos_token_id": end}
    expected = solo(TOY, PROMPT, **how)

    class Knows(racer.Drafter):
        def grow(self, request: racer.Request, tree: racer.TreeBuilder) -> None:
            node = 0
            for token in told[len(request.emitted) :]:
                node = tree.add(node, token)

    engine = SteppedEngine(TOY, racer.DecodeConfig(drafter=Knows(), budget=8))
    streams = [engine.submit(PROMPT, how | {"logits_processor": [Breaks(99, end)]}) for _ in range(2)]
    engine.run()
    for stream in streams:
        assert list(stream.result(0).tokens) == expected
        assert stream.result(0).finish == "stop"


@pytest.mark.parametrize("tokens", [[99], [-1], [3, 99]])
def test_tokens_that_the_model_does_not_have(tokens: list[int]) -> None:
    model = tiny("llama")
    with racer.Engine(model) as engine, pytest.raises(ConfigError, match="token ids are from 0 to"):
        engine.submit(tokens, HOW)


def test_arguments_that_say_nothing_are_left_out() -> None:
    more = {"attention_mask": None, "streamer": None, "custom_generate": None, "output_scores": False}
    settings = TOY.generation_config.__class__(return_dict_in_generate=True, output_scores=True, **HOW)
    with racer.Engine(TOY) as engine:
        for how in (HOW | more, {"generation_config": settings}):
            assert list(engine.submit(PROMPT, how).result(60).tokens) == solo(TOY, PROMPT, **HOW)
        with pytest.raises(ConfigError, match="takes no attention_mask"):
            engine.submit(PROMPT, HOW | {"attention_mask": torch.ones(1, 24)})


def _bart() -> Any:
    torch.manual_seed(0)
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = BartConfig(vocab_size=40, d_model=16, max_position_embeddings=128, **sizes, **heads)
    model = BartForConditionalGeneration(config).eval()
    model.generation_config.forced_eos_token_id = None
    return model


@pytest.mark.filterwarnings("ignore::racer.PlainDecodingWarning")
@pytest.mark.parametrize("beams", [1, 2])
def test_encoders_answers_are_whole(beams: int) -> None:
    model = _bart()
    how = {"max_new_tokens": 12, "num_beams": beams, "do_sample": False}
    ids = torch.tensor([PROMPT])
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), **how)[0]
    with racer.Engine(model) as engine:
        ended = engine.submit(PROMPT, how).result(60)
        assert list(ended.tokens) == whole[1:].tolist()
        assert engine.figures().new_tokens == len(whole) - 1


@pytest.mark.filterwarnings("ignore::racer.PlainDecodingWarning")
def test_beams_can_be_cancelled() -> None:
    with racer.Engine(TOY) as engine:
        stream = engine.submit(PROMPT, HOW | {"num_beams": 2, "max_new_tokens": 30_000})
        stream.cancel()
        assert stream.result(60).finish == "cancelled"
