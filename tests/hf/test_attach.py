"""``custom_generate`` and ``attach``: they take and give what ``model.generate`` does."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

import racer
from racer import DecodeConfig
from racer.errors import UnknownStrategy
from racer.hf.generate import PlainDecodingWarning
from racer.testing import toy_model
from support.toy_batch import BATCH, GREEDY, IDS, MODEL, VOCAB, Collects


def test_custom_generate_road() -> None:
    how = {**BATCH, "max_new_tokens": 20, "do_sample": False}
    out = MODEL.generate(
        **how, custom_generate=racer.custom_generate, racer_config=GREEDY, return_dict_in_generate=True
    )
    assert torch.equal(out.sequences, MODEL.generate(**how))
    assert out.racer_stats.drafter == "logits"
    assert torch.equal(MODEL.generate(**how, custom_generate=racer.custom_generate), out.sequences)


def test_attach_and_detach() -> None:
    model, how = toy_model(VOCAB), {**BATCH, "max_new_tokens": 20, "do_sample": False}
    plain = model.generate(**how)
    assert racer.attach(model, GREEDY) is model
    out = model.generate(**how, return_dict_in_generate=True)
    assert torch.equal(out.sequences, plain)
    assert out.racer_stats.steps < 19
    assert torch.equal(model.generate(IDS[:1], max_new_tokens=5, do_sample=False), plain[:1, :9])
    with pytest.warns(PlainDecodingWarning, match="num_beams"):
        beams = model.generate(**how, num_beams=2)
    racer.detach(model)
    assert torch.equal(beams, model.generate(**how, num_beams=2))
    assert not hasattr(model.generate(**how, return_dict_in_generate=True), "racer_stats")
    assert "generate" not in vars(model)


def test_attach_refuses_at_once_what_cannot_work() -> None:
    with pytest.raises(UnknownStrategy, match="did you mean 'logits'"):
        racer.attach(toy_model(), DecodeConfig(drafter="logit"))


def test_attach_takes_positional_arguments_and_shows_the_prompt_once() -> None:
    model = racer.attach(toy_model(VOCAB), GREEDY)
    settings = GenerationConfig(max_new_tokens=9, do_sample=False, return_dict_in_generate=True)
    assert model.generate(IDS[:1], settings).racer_stats.drafter == "logits"
    streamer = Collects()
    with pytest.warns(PlainDecodingWarning, match="output_attentions"):
        model.generate(
            IDS[:1],
            max_new_tokens=3,
            do_sample=False,
            streamer=streamer,
            output_attentions=True,
            return_dict_in_generate=True,
        )
    assert [len(piece) for piece in streamer.got] == [1, 1, 1, 1, 3]  # the prompt, three tokens, "end"
    import pickle

    assert torch.equal(
        pickle.loads(pickle.dumps(model)).generate(IDS[:1], settings).sequences,
        model.generate(IDS[:1], settings).sequences,
    )
