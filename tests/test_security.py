"""SECURITY.md promises nothing that no test holds."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HARM = "components/test_run_config.py::test_harm_is_refused_before_it_is_made_or_imported"

#: The beginning of each statement, in its order, and the tests that hold it.
HELD_BY = {
    "A file from somebody else runs no code here": (HARM, "sharing/test_network_file.py::test_a_file_cannot_run_code"),
    "Weights are numbers": ("sharing/test_network_file.py::test_a_file_cannot_run_code",),
    "Classes that its metadata name must be parts": (
        "sharing/test_network_file.py::test_a_file_cannot_import_or_make_what_is_no_capsule_network",
        "sharing/test_network_file.py::test_a_class_of_ones_own_is_found_once_its_module_is_imported",
    ),
    "Sizes must be those of its weights": ("sharing/test_network_file.py::test_a_file_that_cannot_be_loaded_says_why",),
    "Tensors and plain values alone": (
        "runs/test_checkpoint_files.py::test_a_checkpoint_cannot_run_code",
        "sharing/test_network_file.py::test_a_checkpoint_from_elsewhere_names_no_code",
    ),
    "The task, the network and the data of its": (
        "components/test_run_config.py::test_a_command_that_looks_takes_nothing_of_the_trainer",
    ),
    "Numbers and words are read; no class is made": (
        "comparison/test_compare.py::test_odd_values_where_a_class_stands_are_values",
        "comparison/test_compare.py::test_the_command_imports_nothing_heavy",
    ),
    "All of its `config.yaml` is taken": (
        HARM,
        "components/test_run_config.py::test_the_runs_of_every_recipe_are_harmless",
    ),
    "These are yours: they name classes, which run": (
        "cli/test_configs.py::test_a_class_of_ones_own_is_found_by_its_path",
    ),
    "Read them before you use them": (),
    "Decoded by a closed list of formats": (
        "data/test_image_files.py::test_nothing_but_pictures_is_opened_whatever_the_name",
    ),
    "Sizes are checked before memory is taken": (
        "data/test_image_files.py::test_pixels_are_bounded_before_they_are_decoded",
        "data/test_prepared.py::test_a_header_is_not_believed",
    ),
    "Of a NIfTI volume no more is unpacked": (
        "data/test_nifti_slices.py::test_no_more_is_unpacked_than_the_header_states",
    ),
    "Numbers and text; nothing is unpickled": (
        "data/test_image_arrays.py::test_what_cannot_be_used_is_refused_in_one_line",
    ),
    "An archive or a table that would unpack": (
        "data/test_named_arrays.py::test_an_archive_that_would_fill_the_memory_is_refused_before_anything_is_unpacked",
        "data/test_label_tables.py::test_what_would_fill_the_memory_is_refused_before_it_is_unfolded",
    ),
    "Of HDF5 no link to another file": ("data/test_other_arrays.py::test_a_file_leads_nowhere_and_claims_nothing",),
    "Images that a table lists must lie in its folder": ("data/test_image_table.py::test_faults_are_named",),
    "Text and numbers: a vocabulary is a list of words": (
        "data/test_text.py::test_what_cannot_be_used_is_refused_in_one_line",
    ),
    "Files are read up to a size": ("data/test_text.py::test_a_text_file_that_would_fill_the_memory_is_refused",),
    "A class must fit its place": (
        HARM,
        "components/test_run_config.py::test_classes_of_the_users_own_are_taken_from_outside_any_run",
    ),
    "A module inside the folder of a run is never imported": (
        "components/test_own.py::test_a_module_of_the_runs_own_folder_is_not_imported",
        "components/test_own.py::test_a_module_of_pythons_own_is_refused",
        "components/test_run_config.py::test_a_module_is_placed_without_importing_it",
    ),
    "An argument whose type is open": (HARM,),
    "An address, such as": (HARM,),
    "Its trainer writes into the run's folder alone": (HARM,),
    "Data are downloaded only into the working folder": (
        "components/test_run_config.py::test_data_are_downloaded_into_the_working_folder_alone",
    ),
    "YAML and JSON are read as plain values": (
        "runs/test_files.py::test_what_is_not_plain_yaml_is_refused_with_its_line",
        "runs/test_files.py::test_a_huge_file_is_refused_before_it_is_read",
        "runs/test_plain_json.py::test_what_is_no_plain_json_is_refused_in_one_line",
        "runs/test_plain_json.py::test_a_text_that_is_too_long_is_not_parsed",
    ),
    "XML (boxes of Pascal VOC) is elements and text": ("data/test_boxes.py::test_malformed_voc_is_refused",),
    "Names of files, classes and experiments, and texts, are shown as text": (
        "runs/test_csv_text.py::test_a_name_is_no_formula",
        "test_errors.py::test_names_in_messages_are_escaped",
        "report/test_report.py::test_page_has_every_picture_names_no_other_file_and_escapes_what_it_is_told",
        "report/test_word_reports.py::test_a_strangers_text_is_no_markup_and_its_numbers_are_right",
    ),
    "To train large layers on a CPU, the C compiler": (
        "kernels/test_native_dynamic.py::test_the_compiler_is_told_sizes_alone",
        "kernels/test_native_dynamic.py::test_what_does_not_fit_is_refused",
    ),
    "What it makes is loaded from a private folder": ("kernels/test_native_dynamic.py::test_nothing_compiled_is_left",),
    "Do not start Python from inside a folder": (),
}


def statements() -> list[str]:
    """Every sentence of the rule: of its text, its list, and the right column of its table."""
    text = (ROOT / "SECURITY.md").read_text().split("# Report a weakness")[0]
    found = []
    for line in text.splitlines():
        if line.startswith(("#", "| ---", "| what")) or line.endswith(":"):
            continue
        words = line.strip("| ").split(" | ")[-1].strip("-* ")
        found += [sentence for sentence in re.split(r"(?<=\.)\*{0,2} (?=[A-Z])", words) if sentence]
    return found


def test_every_statement_is_known_and_none_is_gone() -> None:
    said = statements()
    assert len(said) == len(HELD_BY)
    for sentence, beginning in zip(said, HELD_BY, strict=True):
        assert sentence.startswith(beginning)


@pytest.mark.parametrize("name", sorted({name for names in HELD_BY.values() for name in names}))
def test_the_test_of_a_statement_is_there_and_runs_by_day(name: str) -> None:
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / "tests" / path).read_text())
    (found,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    assert not any("nightly" in ast.unparse(mark) or "slow" in ast.unparse(mark) for mark in found.decorator_list)
