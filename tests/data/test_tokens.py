import logging

import npz_examples

from sft_jax.data.__main__ import main
from sft_jax.data.tokens import log_tokens
from sft_jax.structs import ModalitySpec


def test_many_tokens_are_a_warning(caplog):
    image, sound = ModalitySpec((40, 31), 3), ModalitySpec(2_400, 8, patch_size=2)
    with caplog.at_level(logging.INFO, "sft_jax"):
        log_tokens({"image": image, "sound": sound})
    listed, warning = caplog.messages
    assert listed == "tokens of an example, at most: image 1,240, sound 1,200"
    assert warning.startswith("image has 1,240 tokens, ")
    assert "data.patch_size" in warning


def test_commands_count_the_tokens_of_their_fields(tmp_path, caplog):
    npz_examples.write(tmp_path, train=4, valid=3, test=3)
    for command in ("validate", "inspect"):
        main([command, str(tmp_path), "patch_size={'image': 7}"])
        assert "image 16, " in caplog.messages[-1]
