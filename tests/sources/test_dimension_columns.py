"""Which columns of a wide table are taken as the embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from beholder.errors import InputError
from beholder.sources.column_choice import choose_embedding_columns


def choose(names: Sequence[str], is_numeric: Callable[[str], bool], embedding_column: str | None, where: str) -> list[str]:
    return choose_embedding_columns(names, [is_numeric(name) for name in names], embedding_column, where)


def _all(_name: str) -> bool:
    return True


def _all_but(*texts: str):
    return lambda name: name not in texts


def _numbers(prefix: str, count: int, first: int = 0) -> list[str]:
    return [f"{prefix}{i}" for i in range(first, first + count)]


def test_birder_logits() -> None:
    names = ["sample", *_numbers("", 768)]
    assert choose(names, _all_but("sample"), None, "a.csv") == [str(i) for i in range(768)]


def test_birder_logits_with_labels_and_shuffled_columns_come_in_numeric_order() -> None:
    names = ["10", "2", "sample", "1", "label", *_numbers("", 7, 3), "0"]
    assert choose(names, _all, None, "a.csv") == [str(i) for i in range(11)]


def test_numbered_columns_win_over_a_family_and_ignore_numeric_metadata() -> None:
    names = ["sample", "width", "emb_0", "emb_1", "0", "1", "2"]
    assert choose(names, _all_but("sample"), None, "a.csv") == ["0", "1", "2"]


@pytest.mark.parametrize("prefix", ["emb_", "dim", "v2."])
@pytest.mark.parametrize("first", [0, 1])
def test_a_family_is_found(prefix: str, first: int) -> None:
    family = _numbers(prefix, 12, first)
    names = ["image_path", "width", *reversed(family), "caption_0", "caption_1"]
    numeric = _all_but("image_path", "caption_0", "caption_1")
    assert choose(names, numeric, None, "a.csv") == family


def test_zero_padded_numbers() -> None:
    family = [f"emb_{i:03d}" for i in range(101)]
    assert choose(["key", *reversed(family)], _all, None, "a.csv") == family


def test_named_classes_are_taken_in_the_order_of_the_table() -> None:
    names = ["sample", "label", "tench", "goldfish", "ant"]
    assert choose(names, _all_but("sample"), None, "a.csv") == ["tench", "goldfish", "ant"]


def test_a_chosen_prefix() -> None:
    names = ["sample", *_numbers("a", 3), *_numbers("b", 2), "b_note"]
    assert choose(names, _all, "b", "x.csv") == ["b0", "b1"]
    assert choose(["v20", "v21", "v30"], _all, "v2", "x.csv") == ["v20", "v21"]
    assert choose(["0", "1", "emb_0"], _all, "", "x.csv") == ["0", "1"]


def test_softmax_outputs_are_refused() -> None:
    for classes in (_numbers("", 768), ["cat", "dog"], _numbers("class_", 5)):
        with pytest.raises(InputError, match=r"^a_output\.csv: .*softmax.*--save-logits"):
            choose(["sample", "prediction", *classes], _all_but("sample", "prediction"), None, "a_output.csv")
    with pytest.raises(InputError, match="softmax"):
        choose(["sample", "prediction", "0", "1"], _all, "", "a.csv")


def test_a_chosen_prefix_is_trusted_beside_a_prediction() -> None:
    assert choose(["prediction", "e0", "e1"], _all, "e", "a.csv") == ["e0", "e1"]


@pytest.mark.parametrize(
    ("names", "texts", "chosen", "message"),
    [
        (["sample", "0", "1", "3"], [], None, r"'2' is missing before '3'"),
        (["sample", "0", "1", "01"], [], None, r"'1' is there twice"),
        (["e0", "e1", "e1"], [], "e", r"'e1' is there twice"),
        (["e5", "e6"], [], "e", r"start with 'e5'"),
        (["a_0", "a_1", "b_0", "b_1"], [], None, r"'a_' or 'b_'; name the right prefix with --embedding-column"),
        (["sample", "caption", "x", "y"], ["sample", "caption"], None, r"'caption' hold no numbers"),
        (["sample"], ["sample"], None, r"found no embedding among the columns 'sample';"),
        (["sample", "aesthetic_score"], ["sample"], None, "found no embedding"),
        ([], [], None, "found no embedding"),
        (["sample", "cat", "cat"], ["sample"], None, "'cat' is there twice"),
        (["0.25", "-1.5", "3e-2"], [], None, "not the names of the columns"),
        (["sample", "emb_0", "emb_1"], [], "vec", r"no column 'vec' and none named .*start with 'emb_'"),
        (["sample", "embedding"], [], "vec", r"the columns are 'sample', 'embedding'"),
        (["sample", "embedding"], [], "embedding", r"'embedding' holds no vectors"),
        (["sample", "a", "b"], [], "", "found no embedding"),
    ],
)
def test_errors_name_the_file_and_the_columns(names: list[str], texts: list[str], chosen: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        choose(names, _all_but(*texts), chosen, "x.csv")
    assert str(caught.value).startswith("x.csv: ")
    assert "\n" not in str(caught.value)


def test_long_tables_give_short_errors() -> None:
    names = ["sample", *(f"text{'x' * 100}{i}y" for i in range(2000))]
    with pytest.raises(InputError) as caught:
        choose(names, _all_but(*names), None, "x.csv")
    assert len(str(caught.value)) < 1000
