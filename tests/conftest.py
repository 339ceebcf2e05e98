"""Which tests are `fast`: what `just fast` runs while one works, in less than 45 seconds on two cores."""

from __future__ import annotations

import pytest

FOLDERS = ("unit", "contract", "oracle")
"""Of the others every test takes long, or starts processes."""

LONG = (
    "contract/test_compiled_bits.py",
    "contract/test_contract.py::test_a_run_has_its_bits_beside_any_other_and_when_it_goes_on",
    "contract/test_contract.py::test_a_warmed_up_run_compiles_nothing",
    "contract/test_contract.py::test_every_backend_equals_the_plain_one_in_any_world_at_any_width",
    "contract/test_contract.py::test_every_backend_goes_on_from_a_given_start",
    "contract/test_contract.py::test_every_column_at_the_default_shape",
    "contract/test_contract.py::test_the_plain_backend_equals_the_oracle",
    "contract/test_determinism.py",
    "contract/test_ema.py::test_single_precision_follows_slow_targets",
    "contract/test_rules_contract.py",
    "contract/test_torch.py::test_a_group_of_mlps_equals_groups_of_one",
    "contract/test_torch.py::test_an_mlp_with_identity_activation_is_the_linear_model",
    "contract/test_torch.py::test_batched_mlps_equal_one_autograd_loop_per_run",
    "contract/test_torch.py::test_two_hundred_steps_agree_to_1e_9",
    "oracle/test_naive_selfcheck.py::test_trajectory_is_torch_sgd_with_an_ema",
    "unit/test_ageing.py::test_every_reader_takes_stored_files",
    "contract/test_torch_mlps.py",
    "contract/test_torch_rules.py",
    "contract/test_torch_worlds.py",
    "unit/test_benchmarks.py",
    "unit/test_develop.py",
    "unit/test_estimate.py",
    "unit/test_figures.py",
    "unit/test_examples.py",
    "unit/test_folder.py",
    "unit/test_house.py::test_a_module_loads_lower_floors_only",
    "unit/test_house.py::test_help_loads_no_command",
    "unit/test_house.py::test_the_package_itself_is_light",
    "unit/test_house.py::test_the_plain_backend_loads_no_numba",
    "unit/test_house.py::test_the_signals_are_in_hand_before_anything_large_is_imported",
    "unit/test_listing.py::test_a_bomb_in_an_export_is_not_unpacked",
    "unit/test_listing.py::test_what_export_writes_is_read_by_every_reader",
    "unit/test_moments.py::test_trajectory_equals_the_plain_form",
    "unit/test_seal.py::test_a_column_copied_over_another_is_noticed_by_every_reader",
    "unit/test_spectra.py::test_lists_cannot_be_compared_or_drawn",
    "unit/test_spectra.py::test_runs_with_and_without_them_are_of_one_sweep",
    "unit/test_where.py::test_figs_select_by_the_last_row",
    "unit/test_moments_algebra.py::test_second_moment_of_the_gradient",
    "unit/test_world_files.py::test_a_damaged_file_is_read_or_refused_in_one_line",
)
"""Files and tests that take more than a second or two, draw figures or start processes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the fast ones; a test that is marked `slow` is none of them."""
    for item in items:
        *_, folder, name = item.path.parts
        place = f"{folder}/{name}"
        test = f"{place}::{getattr(item, 'originalname', item.name)}"
        if folder in FOLDERS and not {place, test} & set(LONG) and item.get_closest_marker("slow") is None:
            item.add_marker("fast")
