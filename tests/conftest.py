"""Which tests are `fast`: what `just fast` runs while one works, in less than 45 seconds on two cores."""

from __future__ import annotations

import pytest

FOLDERS = ("unit", "contract", "oracle")
"""Of the others every test takes long, or starts processes."""

LONG = (
    "contract/test_compiled_bits.py",
    "contract/test_determinism.py",
    "contract/test_contract.py::test_a_run_has_its_bits_beside_any_other_and_when_it_goes_on",
    "contract/test_contract.py::test_every_column_at_the_default_shape",
    "contract/test_torch.py::test_a_group_of_mlps_equals_groups_of_one",
    "contract/test_torch.py::test_batched_mlps_equal_one_autograd_loop_per_run",
    "contract/test_torch.py::test_two_hundred_steps_agree_to_1e_9",
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
    "unit/test_moments.py::test_second_moment_of_the_gradient",
    "unit/test_moments.py::test_trajectory_equals_the_plain_form",
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
