"""The conformance suite: what a board, or whatever plays one, must do to be used. Run it on a bench of your own with

    pytest --pyargs hil.testing.conformance --bench my-bench.toml

or import it into a test file of yours, ``from hil.testing.conformance import *``.
"""

from __future__ import annotations

from hil.testing.contract_checks import (
    test_a_board_is_opened_once,
    test_closing_twice_and_opening_again,
    test_excluded_cells_are_refused,
    test_info_is_coherent,
    test_noise_is_as_stated,
    test_posted_work_is_settled_at_a_barrier,
    test_pulses_are_counted_one_by_one,
    test_pulses_outside_the_limits_are_refused,
    test_read_masks,
    test_readings_repeat,
    test_safe_is_confirmed_and_the_board_answers_after_it,
    test_status_is_a_dictionary,
    test_wrong_shapes_are_refused,
)
from hil.testing.physics_checks import (
    test_a_product_is_linear,
    test_a_product_matches_the_conductances_read_back,
    test_a_trace_is_pulses_and_reads,
    test_alternating_pulses_find_the_symmetry_point,
    test_inactive_lines_and_arrays_are_left_alone,
    test_programming_reaches_its_targets,
    test_pulses_move_the_cells_they_are_meant_for,
    test_up_and_down_pulses_are_monotone,
    test_update_gives_every_cell_its_coincidences,
    test_update_moves_cells_like_pulses,
)

__all__ = [
    "test_a_board_is_opened_once",
    "test_a_product_is_linear",
    "test_a_product_matches_the_conductances_read_back",
    "test_a_trace_is_pulses_and_reads",
    "test_alternating_pulses_find_the_symmetry_point",
    "test_closing_twice_and_opening_again",
    "test_excluded_cells_are_refused",
    "test_inactive_lines_and_arrays_are_left_alone",
    "test_info_is_coherent",
    "test_noise_is_as_stated",
    "test_posted_work_is_settled_at_a_barrier",
    "test_programming_reaches_its_targets",
    "test_pulses_are_counted_one_by_one",
    "test_pulses_move_the_cells_they_are_meant_for",
    "test_pulses_outside_the_limits_are_refused",
    "test_read_masks",
    "test_readings_repeat",
    "test_safe_is_confirmed_and_the_board_answers_after_it",
    "test_status_is_a_dictionary",
    "test_up_and_down_pulses_are_monotone",
    "test_update_gives_every_cell_its_coincidences",
    "test_update_moves_cells_like_pulses",
    "test_wrong_shapes_are_refused",
]
