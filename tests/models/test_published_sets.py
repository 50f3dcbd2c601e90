"""What is published of each head's scores, and where others cut them."""

from __future__ import annotations

from pathlib import Path

import pytest

from beholder.models import catalog, published
from beholder.models import published as landmarks


@pytest.mark.parametrize(
    ("dataset", "threshold", "above", "total"),
    [
        # By hand from the buckets, in millions: multi 2148.41 in all, 50.99 + 3.17 + 0.05 at 7 or more; nolang 1231.40 in all,
        # 1.69 + 0.02 at 8 or more.
        ("LAION-2B-multi", 7, 54.21, 2148.41),
        ("LAION-1B-nolang", 8, 1.71, 1231.40),
        ("LAION-2B-en", 5, 601.73 + 271.19 + 51.43 + 3.35 + 0.05, 2170.14),
    ],
)
def test_v1_shares_of_every_set(dataset: str, threshold: float, above: float, total: float) -> None:
    found = published.published_share_at_least("laion-v1", threshold, dataset)
    assert found == pytest.approx(above / total, rel=1e-9)


def test_v2_has_laion_and_the_range_of_coyo() -> None:
    laion, coyo = published.published_of("laion-v2")
    assert (laion.dataset, coyo.dataset) == ("LAION-2B-en", "COYO-700M")
    assert laion.num_pictures == 2.37e9
    assert (coyo.num_pictures, coyo.mean, coyo.minimum, coyo.maximum) == (746_972_269, 4.769132, 1.171712, 8.082607)
    assert coyo.shares == {}
    assert published.published_share_at_least("laion-v2", 5, "COYO-700M") is None


@pytest.mark.parametrize("head", [None, "", "nobody's head", "ava+logos-l14-linearMSE", "laion-v1-b_32"])
def test_nothing_is_published_of_other_heads(head: str | None) -> None:
    assert published.published_of(head) == ()
    assert landmarks.landmarks_of(head) == ()


def test_repackaged_heads_are_their_originals() -> None:
    assert published.canonical_head("shunk031/aesthetics-predictor-v1-vit-large-patch14") == "sa_0_4_vit_l_14_linear"
    assert published.canonical_head("openai-clip_aesthetic-predictor.pt") == catalog.DEFAULT_HEAD
    assert published.canonical_head("nobody's") is None


def test_landmarks_are_well_formed() -> None:
    keys = [mark.key for mark in landmarks.LANDMARKS]
    assert len(set(keys)) == len(keys)
    for mark in landmarks.LANDMARKS:
        assert mark.source.startswith("https://")
        assert mark.head is None or mark.head == landmarks.V2_5 or catalog.find(mark.head) is not None
        assert landmarks.find_landmark(mark.key.upper() + " ") is mark
        with pytest.raises(ValueError, match="could not convert"):
            float(mark.key)  # a name must not read as a threshold
    assert landmarks.find_landmark("5") is None


@pytest.mark.parametrize(
    ("key", "head", "threshold", "is_strict"),
    [
        ("sd-v1", "laion-v2", 5.0, True),
        ("sd-v2", "laion-v2", 4.5, False),
        ("open-sora", "laion-v2", 4.5, False),
        ("vdc-tree-of-life", "laion-v2", 3.4, False),
        ("laion-coco", "laion-v2", 4.75, True),
        ("laion-6.25plus", "laion-v2", 6.25, False),
        ("laion-art", "laion-v1", 8.0, True),
        ("internvid", "laion-v1", 4.0, False),
        ("v2-5-great", "aesthetic-predictor-v2.5", 5.5, False),
    ],
)
def test_where_they_cut(key: str, head: str, threshold: float, is_strict: bool) -> None:
    found = {mark.key: mark for mark in landmarks.landmarks_of(head)}[key]
    assert (found.threshold, found.is_strict) == (threshold, is_strict)


def test_landmarks_of_a_head_ascend() -> None:
    for head in ("laion-v1", "laion-v2"):
        cuts = [mark.threshold for mark in landmarks.landmarks_of(head)]
        assert cuts == sorted(cuts)


def test_every_published_v2_subset_is_a_landmark() -> None:
    cuts = {mark.threshold for mark in landmarks.landmarks_of("laion-v2") if mark.name.startswith("LAION-Aesthetics v2")}
    assert cuts == set(published.V2_COUNT_AT_LEAST)


def test_the_documentation_lists_every_landmark() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "curate.md").read_text(encoding="utf-8")
    for mark in landmarks.LANDMARKS:
        line = next(line for line in text.splitlines() if f"(`{mark.key}`)" in line)
        assert f"{'>' if mark.is_strict else '>='} {mark.threshold:g} |" in line
        assert f"[{mark.name}]({mark.source})" in line
