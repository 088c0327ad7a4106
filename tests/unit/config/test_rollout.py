"""Settings of rollouts that are each valid alone and wrong together."""

from __future__ import annotations

import pytest

from coordexp.config.loading import load_config
from coordexp.config.train import TrainConfig
from coordexp.types.errors import ConfigError

VALID = ["model.model=m", "training.output_dir=o", "training.run_name=r", "training.learning_rate=1e-4", "training.max_steps=3", "custom.train_jsonl=a"]
VALID += ["custom.trainer_variant=rollout_matching_sft"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["decode_mode=beam", "num_beams=4", "rollout_backend=vllm"], "decode_mode: beam search works only with rollout_backend: hf; set decode_mode: greedy"),
        (["decode_mode=beam"], "num_beams: is 1, and decode_mode is beam; set num_beams: 4, or decode_mode: greedy"),
        (["decode_mode=beam", "num_beams=4", "decoding.temperature=0.7"], "decoding.temperature: is above 0, and beam search does not sample; set it to 0"),
        (["num_beams=4"], "num_beams: is 4, and decode_mode is greedy; set decode_mode: beam, or remove num_beams"),
        (["repeat_terminate.ngram_repeats=1"], "repeat_terminate.ngram_repeats: must be at least 2, got 1"),
        (["repeat_terminate.max_consecutive_token_repeats=1"], "repeat_terminate.max_consecutive_token_repeats: must be at least 2, got 1"),
    ],
)
@pytest.mark.parametrize("section", ["rollout_matching", "custom.extra.rollout_matching"])
def test_settings_of_decoding_that_contradict_each_other_are_refused(settings: list[str], sentence: str, section: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, TrainConfig, [*VALID, *(f"{section}.{setting}" for setting in settings)])
    assert f"{section}.{sentence}" in str(error.value)
