"""What cannot be right is decoded plainly, and the warning says why; contradictions are refused."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

import racer
from racer import DecodeConfig, Decoder
from racer.errors import ConfigError, UnsupportedGeneration, UnsupportedModel
from racer.hf.plain import PlainDecodingWarning
from racer.hf.settings import FIELDS, refuse_settings
from racer.hf.unsupported import refuse_device
from racer.testing import toy_model
from support.toy_batch import BATCH, GREEDY, IDS, MODEL, VOCAB, same
from support.versions import recent


def plain_instead(reason: str, **how: Any) -> None:
    """The output is that of ``model.generate``, with one warning that says why; or plain decoding's own error."""
    how = {"pad_token_id": 0, "max_new_tokens": 5, "do_sample": False} | how
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        expected, error = outcome(lambda: MODEL.generate(**how))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        got, mine = outcome(lambda: racer.generate(MODEL, **how))
    assert type(mine) is type(error)
    assert str(mine) == str(error)
    said = [str(item.message) for item in heard if item.category is PlainDecodingWarning]
    assert len(said) == 1
    assert reason in said[0]
    assert [item.filename for item in heard if item.category is PlainDecodingWarning] == [__file__]
    if error is None:
        if not isinstance(expected, torch.Tensor):
            assert got.racer_stats is None
            assert expected.keys() == got.keys()
            expected, got = expected.sequences, got.sequences
        assert torch.equal(got, expected)


def outcome(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return call(), None
    except Exception as error:
        return None, error


DICT = {"return_dict_in_generate": True}
CACHE = {"cache_implementation": "static"}


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"num_beams": 3}, "num_beams=3"),
        pytest.param({"num_beams": 2, "do_sample": True, "top_k": 1}, "num_beams=2", marks=recent("its beams draw")),
        ({"output_attentions": True} | DICT, "output_attentions"),
        ({"output_hidden_states": True} | DICT, "output_hidden_states"),
        ({"prompt_lookup_num_tokens": 3}, "another decoding method"),
        ({"assistant_model": MODEL}, "another decoding method"),
        ({"custom_generate": racer.custom_generate}, "another decoding method"),
        ({"force_words_ids": [[[3]]]}, "another decoding method"),
        ({"penalty_alpha": 0.5, "top_k": 4}, "another decoding method"),
        ({"dola_layers": "low"}, "another decoding method"),
        pytest.param({"use_mtp": True}, "another decoding method", marks=recent("it knows no use_mtp")),
        ({"stop_strings": ["x"]}, "pass tokenizer"),
        ({"token_healing": True}, "token_healing"),
        ({"is_assistant": True}, "is_assistant"),
        ({"guidance_scale": 1.5}, "one prompt at a time"),
        ({"attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])}, "padding_side='left'"),
        ({"attention_mask": torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1]])}, "padding_side='left'"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.long)}, "no token"),
    ],
)
def test_what_cannot_be_right_is_decoded_plainly(how: dict[str, Any], reason: str) -> None:
    plain_instead(reason, **({"input_ids": IDS} | how))


@pytest.mark.parametrize(
    "how",
    [
        {"cache_implementation": "nonesuch"},
        {"max_length": 4},
        {"no_such_argument": 1},
        {"temperature": -1.0, "do_sample": True},
    ],
)
def test_what_plain_decoding_refuses_is_refused_alike(how: dict[str, Any]) -> None:
    _, error = outcome(lambda: MODEL.generate(**({"input_ids": IDS} | how)))
    _, mine = outcome(lambda: racer.generate(MODEL, **({"input_ids": IDS} | how)))
    assert type(mine) is type(error) is not type(None)
    assert str(mine) == str(error)


def test_positions_that_are_not_counted_up_are_decoded_plainly() -> None:
    usual = torch.tensor([[0, 1, 2, 3], [1, 1, 0, 1]])
    same(**BATCH, max_new_tokens=5, position_ids=usual)
    plain_instead("position_ids", **BATCH, position_ids=usual * 2)


def test_settings_that_a_newer_transformers_may_bring_are_decoded_plainly() -> None:
    settings = GenerationConfig()
    vars(settings)["output_attentions"] = True  # without a dictionary nothing is returned of it
    refuse_settings(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(FIELDS, "length_penalty")
        refuse_settings(settings)
        settings.length_penalty = 0.5
        with pytest.raises(UnsupportedGeneration, match="newer transformers"):
            refuse_settings(settings)


@pytest.mark.parametrize("how", [{"num_beams": 2}, {"attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])}])
def test_behind_custom_generate_transformers_own_loop_takes_over(how: dict[str, Any]) -> None:
    how = {"input_ids": IDS, "pad_token_id": 0, "max_new_tokens": 5, "do_sample": False} | how
    with pytest.warns(PlainDecodingWarning):
        got = MODEL.generate(**how, custom_generate=racer.custom_generate)
    assert torch.equal(got, MODEL.generate(**how))


def test_what_transformers_cannot_do_behind_a_callable_is_said() -> None:
    with (
        pytest.warns(PlainDecodingWarning),
        pytest.raises(UnsupportedGeneration, match="without custom_generate"),
    ):
        MODEL.generate(IDS, max_new_tokens=3, prompt_lookup_num_tokens=2, custom_generate=racer.custom_generate)


def test_the_seed_counts_for_plain_decoding_too() -> None:
    how = {"input_ids": IDS, "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]), "pad_token_id": 0}
    how |= {"do_sample": True, "max_new_tokens": 20}
    before = torch.random.get_rng_state()
    runs = []
    for seed in (3, 3, 4):
        with pytest.warns(PlainDecodingWarning):
            runs.append(racer.generate(MODEL, config=DecodeConfig(seed=seed), **how).tolist())
    assert runs[0] == runs[1] != runs[2]
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("verifier", "do_sample"), [("greedy", True), ("sampling", False)])
def test_verifiers_that_contradict_the_call(verifier: str, do_sample: bool) -> None:
    with pytest.raises(ConfigError, match="leave the verifier to 'auto'"):
        racer.generate(
            MODEL, config=DecodeConfig(verifier=verifier), input_ids=IDS, max_new_tokens=5, do_sample=do_sample
        )


def test_models_that_must_be_prepared_otherwise() -> None:
    model = toy_model(VOCAB)
    with pytest.raises(UnsupportedModel, match=r"model\.eval"):
        racer.attach(model.train())


def test_a_decoder_has_its_own_configuration() -> None:
    with pytest.raises(ConfigError, match="its own configuration"):
        racer.generate(Decoder(MODEL, GREEDY), config=DecodeConfig(), input_ids=IDS)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"input_ids": IDS[None], "max_new_tokens": 3}, "3 dimensions"),
        ({"attention_mask": torch.tensor([[2, 1, 1, 1], [1, 1, 1, 1]])}, "other numbers"),
        ({"pad_token_id": -1, "eos_token_id": 5, "max_new_tokens": 40}, "not in the vocabulary"),
        ({"use_cache": False, "prefill_chunk_size": 2}, "prefill_chunk_size"),
    ],
)
def test_what_models_read_in_ways_of_their_own_is_decoded_plainly(how: dict[str, Any], reason: str) -> None:
    plain_instead(reason, **({"input_ids": IDS} | how))


def test_tokens_have_the_type_that_transformers_gives_them() -> None:
    how = {"max_new_tokens": 5, "do_sample": False}
    expected, got = MODEL.generate(IDS.int(), **how), racer.generate(MODEL, IDS.int(), config=GREEDY, **how)
    assert got.dtype == expected.dtype
    assert torch.equal(got, expected)


def test_what_is_no_configuration_or_no_model_is_said() -> None:
    with pytest.raises(ConfigError, match="DecodeConfig, not 3"):
        MODEL.generate(IDS, max_new_tokens=3, custom_generate=racer.custom_generate, racer_config=3)
    with pytest.raises(UnsupportedModel, match="has no generate"):
        racer.attach(torch.nn.Linear(2, 2))


def test_a_prompt_on_another_device_is_decoded_plainly() -> None:
    """transformers moves it step by step; only some of our ways would."""
    prompt = torch.empty(1, 3, dtype=torch.long, device="meta")
    with pytest.raises(UnsupportedGeneration, match=r"on meta and the model on cpu: .*inputs\.to\(model\.device\)"):
        refuse_device(prompt, torch.device("cpu"))
    refuse_device(prompt, torch.device("meta"))
    refuse_device(torch.ones(1, 3), torch.device("meta"))  # weights elsewhere, fetched layer by layer


@pytest.mark.gpu
@pytest.mark.parametrize("how", [{}, {"encoder_repetition_penalty": 1.3}], ids=["text", "processor"])
def test_a_prompt_on_the_cpu_and_a_model_on_the_gpu(how: dict[str, Any]) -> None:
    model = copy.deepcopy(MODEL).to("cuda")
    call: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0} | how
    with pytest.warns(PlainDecodingWarning, match="inputs.to"):
        got = racer.generate(model, IDS, **call)
    assert torch.equal(got.cpu(), model.generate(IDS, **call).cpu())
