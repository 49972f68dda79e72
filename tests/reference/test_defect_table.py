"""Every defect of the authors' code has tests that hold ours free of it."""

import pathlib
import re

TESTS = pathlib.Path(__file__).parents[1]

UNNUMBERED = [
    (1, "ops/attention/test_block_sparse.py::test_what_goes_unseen_is_not_computed"),
    (
        4,
        "modules/test_mixup_of_models.py::test_a_whole_share_changes_nothing_and_none_gives_the_partner",
    ),
    (5, "ops/test_mixup.py::test_a_static_share_is_that_of_every_modality"),
    (9, "modules/test_sft.py::test_pool_none_keeps_all_tokens_and_ignores_k"),
    (10, "modules/test_baselines.py::test_every_real_step_and_every_parameter_has_an_effect"),
    (11, "ops/pool/test_reduce.py::test_a_constant_stays_what_it_is_at_any_length"),
    (12, "ops/pool/test_cluster.py::test_an_empty_cluster_keeps_its_centre"),
    (12, "modules/test_reducer.py::test_no_intermediate_is_above_four_times_the_attention_weights"),
    (
        13,
        "modules/test_reducer.py::test_evaluation_uses_one_draw_whatever_the_batch_and_the_padding",
    ),
    (13, "modules/test_sft.py::test_random_pools_draw_from_their_stream_in_training_alone"),
    (15, "test_combinations.py::test_every_choice_takes_a_step"),
    (
        19,
        "modules/test_mixup_of_models.py::test_a_whole_share_changes_nothing_and_none_gives_the_partner",
    ),
    (24, "data/sets/test_vggsound_files.py::test_classes_are_chosen_by_name"),
    (24, "data/sets/test_vggsound_files.py::test_a_test_file_without_a_class_shifts_no_other"),
    (24, "data/sets/test_vggsound_files.py::test_the_authors_split_needs_five_clips"),
    (25, "data/test_pipeline.py::test_the_seed_alone_decides_the_order"),
    (28, "modules/test_sft_invariants.py::test_masked_steps_have_no_effect"),
    (28, "modules/test_baselines.py::test_masked_steps_have_no_effect"),
]
"""Rows of `SPEC.md`, section 16, and tests that hold them beside those named after their number."""


def test_every_defect_has_a_test():
    text = "".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    numbered = {int(row) for row in re.findall(r"^def test_(\d+)_\w+\(", text, re.MULTILINE)}
    assert numbered | {row for row, _ in UNNUMBERED} == set(range(1, 29))


def test_every_unnumbered_test_exists():
    for row, test in UNNUMBERED:
        file, _, name = test.partition("::")
        assert f"\ndef {name}(" in (TESTS / file).read_text(), f"{row}: {test}"
