"""Learning from marks through the page's addresses: the head, the order, what is undecided, said and refused."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from beholder import Head, load_head, save_head
from beholder.browse.options import BrowseOptions
from beholder.browse.taste import head_in_use
from beholder.errors import InputError
from beholder.scoreset.score_set import open_scores
from beholder.train.trained_on import hashed, trained_on
from oracles.browse_clients import Ask, client_of
from oracles.browse_page import until
from oracles.browse_sets import TasteSet, running, write_set, write_taste_set
from oracles.program import beholder

N, DIM, WITHOUT = 400, 12, 20


@pytest.fixture
def made(tmp_path: Path) -> TasteSet:
    columns = {"width": pa.array(np.arange(N, dtype=np.int32))}
    return write_taste_set(tmp_path, N, DIM, num_without=WITHOUT, columns=columns)


@pytest.fixture
def ask(made: TasteSet, tmp_path: Path) -> Iterator[Ask]:
    yield from client_of(made.path, tmp_path, tmp_path / "m.jsonl")


def mark(ask: Ask, made: TasteSet, rows: Any) -> None:
    """Marks by the taste."""
    rows = np.asarray(rows)
    for word, which in (("keep", made.liking[rows] > 0), ("drop", made.liking[rows] <= 0)):
        if which.any():
            assert ask("/api/marks", {"rows": rows[which].tolist(), "mark": word}).status_code == 200


def learn(ask: Ask) -> dict[str, Any]:
    """Learn, once the embeddings are there."""
    answers: list[Any] = []

    def tried() -> bool:
        answers.append(ask("/api/taste/learn", {"score": "aesthetic_score"}))
        return answers[-1].status_code != 503

    until(tried, 60)
    assert answers[-1].status_code == 200, answers[-1].text
    found: dict[str, Any] = answers[-1].json()["learned"]
    return found


def order_of(ask: Ask, score: str, tab: str = "all", **view: Any) -> list[tuple[int, float | None]]:
    """(row, score) of a tab, as pages of the gallery give them."""
    made = ask("/api/view", {"score": score, **view}).json()
    listing = ask("/api/listing", {"view": made["view"], "tab": tab, "threshold": 0}).json()
    rows = ask("/api/rows", listing=listing["listing"], score=score, start=0, count=500).json()["rows"]
    assert len(rows) == listing["count"]
    return [(row["row"], row["score"]) for row in rows]


SITUATIONS = [
    "too few marks", "marks of one kind", "marks of pictures without embeddings", "no embeddings",
    "embeddings of other pictures", "the embeddings are not in memory yet", "another page is learning",
    "the scores were written anew meanwhile", "another file where the head is to be saved",
]  # fmt: skip


def documented() -> dict[str, tuple[str, str]]:
    """Situation -> (pattern of the line, status) of the page on bad input."""
    page = Path(__file__).parents[2] / "docs" / "bad-input.md"
    text = page.read_text(encoding="utf-8").split("## Learning from marks\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")][1:]
    return {name: (".*".join(map(re.escape, line.strip("`").split("..."))), status) for name, line, _, status in rows}


def check_documented(situation: str, answer: httpx.Response) -> None:
    """An answer is the documented one, word for word; `...` stands for paths and how far it is."""
    pattern, status = documented()[situation]
    assert str(answer.status_code) == status
    assert re.fullmatch(pattern, answer.json()["error"]), answer.json()["error"]


def test_every_documented_line_is_compared() -> None:
    assert list(documented()) == SITUATIONS


def test_twelve_marks_put_all_rows_in_another_order(ask: Ask, made: TasteSet) -> None:
    state = ask("/api/taste").json()
    assert (state["is_possible"], state["learned"], state["why"]) == (True, None, None)
    before = order_of(ask, "aesthetic_score")
    mark(ask, made, range(12))
    check_documented("the embeddings are not in memory yet", ask("/api/taste/learn", {"score": "aesthetic_score"}))
    found = learn(ask)
    assert (found["num_keep"] + found["num_drop"], found["start_from"], found["num_unusable"]) == (12, "public", 0)
    assert found["summary"] == "Too few marks to tell how well it foretells others"
    after = order_of(ask, found["score"]["name"])
    assert {row for row, _ in after} == set(range(N))
    assert [row for row, _ in after] != [row for row, _ in before]
    without = [row for row, _ in after[-WITHOUT:]]
    assert without == list(range(N - WITHOUT, N)), "rows without an embedding keep their place at the end"
    assert found["score"]["num_without"] == WITHOUT
    values = [value for _, value in after[:-WITHOUT]]
    assert values == sorted(values, reverse=True)
    assert order_of(ask, "aesthetic_score") == before, "and back"
    assert ask("/api/taste").json()["learned"] == found, "a reload has it"


def test_the_order_is_the_saved_heads_and_foretells_the_taste(ask: Ask, made: TasteSet, tmp_path: Path) -> None:
    mark(ask, made, range(120))
    found = learn(ask)
    saved = ask("/api/taste/save", {}).json()["learned"]["saved"]
    assert saved == str(tmp_path / "m.taste.safetensors")
    head = load_head(saved)
    known = N - WITHOUT
    exact = np.asarray(head.score(made.rows[:known]))
    after = order_of(ask, found["score"]["name"])
    for row, value in after[:known]:
        assert value == pytest.approx(float(exact[row]), abs=1e-6)
    likes = made.liking[120:known] > 0
    mine, public = roc_auc_score(likes, exact[120:]), roc_auc_score(likes, made.public[120:known])
    assert mine > public + 0.05
    unseen = found["unseen"]
    assert unseen["is_known"]
    assert unseen["order"]["low"] <= mine <= unseen["order"]["high"]
    assert unseen["public"]["value"] == pytest.approx(roc_auc_score(made.liking[:120] > 0, made.public[:120]))
    assert unseen["gain"]["low"] > 0
    percent = [round(100 * unseen["order"][name]) for name in ("value", "low", "high")]
    assert found["summary"].startswith(
        f"Keep before drop in {percent[0]} % of pairs it has not seen ({percent[1]} to {percent[2]} %); aesthetic_score: "
    )
    record = json.loads((tmp_path / "m.taste.json").read_text(encoding="utf-8"))
    assert (record["learned_in"], record["start_from"], record["rows"]["num_used"]) == ("beholder browse", "public", 120)
    assert record["sha256"] == head.sha256
    known = trained_on(saved, (head.sha256,))
    assert known is not None
    assert known.holds(hashed([f"pictures/{row:05d}.jpg" for row in range(N)])).tolist() == [row < 120 for row in range(N)]
    card = (tmp_path / "m.taste.md").read_text(encoding="utf-8")
    assert "beholder score photos/ --head ./m.taste.safetensors" in card
    assert "| measure | m.taste | aesthetic_score |" in card
    scored = beholder("score", str(made.path) + ".embeddings", "--head", saved, "-o", "mine.parquet", "--quiet", cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    table = pq.read_table(tmp_path / "mine.parquet")
    np.testing.assert_allclose(table.column("aesthetic_score").to_numpy(), exact, atol=1e-6)


def test_everything_works_with_the_learned_score(ask: Ask, made: TasteSet) -> None:
    mark(ask, made, range(60))
    score = learn(ask)["score"]
    assert (score["title"], score["is_learned"], score["start"]) == ("my taste", True, 0.0)
    after = dict(order_of(ask, score["name"]))
    view = ask("/api/view", {"score": score["name"], "where": "width >= 100"}).json()
    assert view["num_matching"] == N - 100
    assert sum(view["histogram"]["counts"]) == view["num_scored"] == N - 100 - WITHOUT
    inside = [after[row] for row in range(100, N - WITHOUT)]
    counts = ask("/api/count", view=view["view"], threshold=0.5).json()
    keeps = int((made.liking[:60] > 0).sum())
    marked_above = sum((after[row] or 0) >= 0.5 for row in range(60) if made.liking[row] > 0)
    above = sum(value >= np.float32(0.5) for value in inside if value is not None)
    assert (counts["above"], counts["outside"]) == (above + marked_above, keeps)
    filtered = order_of(ask, score["name"], where="width >= 100", tab="kept")
    assert {row for row, value in filtered if value is not None and row >= 100} == {
        row for row in range(100, N - WITHOUT) if (after[row] or 0) >= 0
    }
    values = ask("/api/row/5").json()["values"]
    assert values["my taste"] == pytest.approx(after[5], abs=1e-4)
    assert values["aesthetic_score"] == pytest.approx(float(made.public[5]), abs=1e-5)
    assert ask("/api/row/399").json()["values"]["my taste"] is None


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl", "txt"])
def test_an_export_says_by_which_score_it_is(ask: Ask, made: TasteSet, kind: str) -> None:
    mark(ask, made, range(40))
    score = learn(ask)["score"]["name"]
    after = order_of(ask, score, where="width < 300", tab="kept")
    view = ask("/api/view", {"score": score, "where": "width < 300"}).json()["view"]
    answer = ask("/api/export", view=view, threshold=0, format=kind)
    assert answer.headers["content-disposition"] == f'attachment; filename="selection-by-my-taste.{kind}"'
    names = [made.names[row] for row, _ in after]
    if kind == "txt":
        assert answer.text.split("\n")[:-1] == names
        return
    if kind == "csv":
        table = pyarrow.csv.read_csv(io.BytesIO(answer.content))
    elif kind == "parquet":
        table = pq.read_table(io.BytesIO(answer.content))
        record = json.loads(table.schema.metadata[b"beholder"])
        assert record["rules"]["score"] == record["score_columns"][-1] == "my_taste"
        assert record["heads"][-1]["scale_note"] == "log odds of a keep; 0 is even"
    else:
        table = pa.Table.from_pylist([json.loads(line) for line in answer.text.splitlines()])
    assert table.column_names[:4] == ["sample", "aesthetic_score", "my_taste", "rank"]
    assert table.column("sample").to_pylist() == names
    np.testing.assert_allclose(table.column("my_taste").to_numpy(), [value for _, value in after], atol=1e-5)
    whole = {row: place for place, (row, _) in enumerate(order_of(ask, score), 1)}
    assert table.column("rank").to_pylist() == [whole[row] for row, _ in after]


def test_the_command_of_an_export_needs_the_saved_head(ask: Ask, made: TasteSet, tmp_path: Path) -> None:
    mark(ask, made, range(40))
    score = learn(ask)["score"]["name"]
    view = ask("/api/view", {"score": score}).json()["view"]
    asked = {"view": view, "threshold": 0.25, "format": "csv"}
    assert ask("/api/command", **asked).json()["command"].startswith("# save the head first")
    ask("/api/taste/save", {})
    scoring, select = ask("/api/command", **asked).json()["command"].split("\n")
    assert beholder(*scoring.split()[1:], "--quiet", cwd=tmp_path).returncode == 0
    done = beholder(*select.split()[1:], "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    export = pyarrow.csv.read_csv(io.BytesIO(ask("/api/export", **asked).content))
    mine = pyarrow.csv.read_csv(tmp_path / "selection.csv")
    assert mine.column("sample").to_pylist() == export.column("sample").to_pylist()
    filtered = ask("/api/view", {"score": score, "where": "width > 3"}).json()["view"]
    assert ask("/api/command", **{**asked, "view": filtered}).json()["command"].startswith("# conditions are about")


def test_undecided_ones_are_near_even_not_marked_and_meet_the_filter(ask: Ask, made: TasteSet) -> None:
    mark(ask, made, range(30))
    score = learn(ask)["score"]["name"]
    after = dict(order_of(ask, score))
    shown = order_of(ask, score, "undecided")
    assert len(shown) == 24
    assert not {row for row, _ in shown} & set(range(30))
    usual = np.median([abs(value) for value in after.values() if value is not None])
    assert all(value is not None for _, value in shown)
    assert np.median([abs(value or 0) for _, value in shown]) <= usual
    filtered = order_of(ask, score, "undecided", where="width >= 370")
    assert {row for row, _ in filtered} <= set(range(370, N - WITHOUT))
    mark(ask, made, [row for row, _ in shown])
    assert not {row for row, _ in order_of(ask, score, "undecided")} & {row for row, _ in shown}
    public = ask("/api/view", {"score": "aesthetic_score"}).json()["view"]
    answer = ask("/api/listing", {"view": public, "tab": "undecided", "threshold": 0})
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "what is undecided is known of a score that was learned from marks only; learn from them first",
    )


def test_learned_anew_the_last_two_are_kept(ask: Ask, made: TasteSet) -> None:
    views = []
    for number in (10, 20, 30):
        mark(ask, made, range(number))
        score = learn(ask)["score"]["name"]
        views.append((score, ask("/api/view", {"score": score, "where": "width < 50"}).json()["view"]))
    states = [ask("/api/count", view=view, threshold=0).status_code for _, view in views]
    assert states == [410, 200, 200]
    assert ask("/api/view", {"score": views[0][0]}).status_code == 410
    listing = ask("/api/listing", {"view": views[1][1], "tab": "all", "threshold": 0}).json()["listing"]
    assert ask("/api/rows", listing=listing, score=views[0][0], start=0).status_code == 410
    assert ask("/api/rows", listing=listing, score="nonsense", start=0).status_code == 404
    assert ask("/api/listing", {"view": views[1][1], "tab": "undecided", "threshold": 0}).status_code == 410
    assert ask("/api/view", {"score": "my taste"}).status_code == 400


def test_marks_of_one_kind_too_few_or_of_pictures_without_embeddings_are_one_line(ask: Ask, made: TasteSet) -> None:
    until(lambda: ask("/api/taste/read", {}).json()["embeddings"] is not None)

    def refused() -> httpx.Response:
        answer = ask("/api/taste/learn", {"score": "aesthetic_score"})
        assert ask("/api/taste").json()["learned"] is None
        return answer

    assert refused().json()["error"].startswith("too few marks to learn from: 0 keep and 0 drop; ")
    ask("/api/marks", {"rows": [0, 1, 2], "mark": "keep"})
    ask("/api/marks", {"rows": list(range(N - WITHOUT, N)), "mark": "drop"})
    check_documented("marks of pictures without embeddings", refused())
    ask("/api/marks", {"rows": list(range(N - WITHOUT, N)), "mark": None})
    ask("/api/marks", {"rows": [3, 4], "mark": "drop"})
    check_documented("too few marks", refused())
    ask("/api/marks", {"rows": list(range(20)), "mark": "keep"})
    check_documented("marks of one kind", refused())
    ask("/api/marks", {"rows": [20, 21, 22, *range(N - WITHOUT, N)], "mark": "drop"})
    found = learn(ask)
    assert (found["num_keep"], found["num_drop"], found["num_unusable"]) == (20, 3, 20)
    assert "20 marked pictures have no embedding, and were left out" in found["told"]
    assert ask("/api/taste/learn", {"score": "nonsense"}).json()["error"] == "there is no score 'nonsense' to start from"
    for body in ({}, {"score": 3}, {"score": "aesthetic_score", "more": 1}):
        assert ask("/api/taste/learn", body).status_code == 400


@pytest.mark.slow
def test_one_learns_at_a_time(tmp_path: Path) -> None:
    """While a slow one runs (many marks), a second is told so at once, counts are answered, and nothing is saved.

    What is saved is what was learned last, and not what another page is about to replace.
    """
    made = write_taste_set(tmp_path, 3000, 400)
    answers: list[Any] = []
    body = {"score": "aesthetic_score"}
    for ask in client_of(made.path, tmp_path, tmp_path / "m.jsonl"):
        mark(ask, made, range(20))
        learn(ask)
        mark(ask, made, range(20, 2500))
        view = ask("/api/view", {"score": "aesthetic_score"}).json()["view"]
        thread = threading.Thread(target=lambda ask=ask: answers.append(ask("/api/taste/learn", body)))
        thread.start()
        until(lambda ask=ask: ask("/api/taste").json()["is_learning"])
        for refused in (ask("/api/taste/learn", body), ask("/api/taste/save", {})):
            check_documented("another page is learning", refused)
        assert ask("/api/count", view=view, threshold=5).status_code == 200
        thread.join()
        assert answers[0].status_code == 200
        assert answers[0].json()["learned"]["num_keep"] > 500
        assert ask("/api/taste/save", {}).json()["learned"]["num_keep"] > 500
        record = json.loads((tmp_path / "m.taste.json").read_text(encoding="utf-8"))
        assert record["trained_on"]["num_pictures"] == record["rows"]["num_given"]


def test_a_head_that_comes_back_is_started_from(ask: Ask, made: TasteSet, tmp_path: Path) -> None:
    mark(ask, made, range(20))
    away = made.head.rename(tmp_path / "away")
    found = learn(ask)
    assert (found["start_from"], "is not on this machine" in " ".join(found["told"])) == (None, True)
    away.rename(made.head)
    assert learn(ask)["start_from"] == "public"
    made.head.unlink()
    assert learn(ask)["start_from"] == "public", "it is in memory"


def test_a_set_that_changed_is_not_learned_from(ask: Ask, made: TasteSet) -> None:
    mark(ask, made, range(20))
    learn(ask)
    os.utime(made.path, ns=(time.time_ns(), time.time_ns() + 10**9))
    check_documented("the scores were written anew meanwhile", ask("/api/taste/learn", {"score": "aesthetic_score"}))


def test_a_file_of_somebody_else_is_not_replaced(ask: Ask, made: TasteSet, tmp_path: Path) -> None:
    assert ask("/api/taste/save", {}).json()["error"] == "nothing was learned from the marks yet, so there is no head to save"
    mark(ask, made, range(20))
    learn(ask)
    target = tmp_path / "m.taste.safetensors"
    save_head(Head.affine(np.ones(3)), target)
    (tmp_path / "m.taste.json").write_text('{"beholder": "1"}', encoding="utf-8")
    before = target.read_bytes()
    answer = ask("/api/taste/save", {})
    check_documented("another file where the head is to be saved", answer)
    assert answer.json()["error"].startswith(f"{tmp_path}/m.taste.json would be")
    assert target.read_bytes() == before
    (tmp_path / "m.taste.json").unlink()
    target.unlink()
    assert ask("/api/taste/save", {}).status_code == 200
    assert ask("/api/taste/save", {}).status_code == 200, "its own it does replace"


def test_without_embeddings_it_says_how_to_get_some(made: TasteSet, tmp_path: Path) -> None:
    shutil.rmtree(f"{made.path}.embeddings")
    for ask in client_of(made.path, tmp_path, tmp_path / "m.jsonl"):
        state = ask("/api/taste").json()
        assert state["is_possible"] is False
        mark(ask, made, range(20))
        for path, body in (("/api/taste/learn", {"score": "aesthetic_score"}), ("/api/taste/read", {})):
            answer = ask(path, body)
            check_documented("no embeddings", answer)
            assert answer.json()["error"] == state["why"]


def test_embeddings_may_be_named_and_are_then_looked_at_at_once(made: TasteSet, tmp_path: Path) -> None:
    kept, elsewhere = Path(f"{made.path}.embeddings"), tmp_path / "elsewhere"
    kept.rename(elsewhere)
    for ask in client_of(made.path, tmp_path, tmp_path / "m.jsonl", more={"embeddings": str(elsewhere)}):
        until(lambda ask=ask: ask("/api/taste").json()["embeddings"] is not None)
        found = ask("/api/taste").json()["embeddings"]
        assert (found["rows"], found["without"], found["dim"], found["dtype"]) == (N - WITHOUT, WITHOUT, DIM, "float16")
        assert found["num_bytes"] == (N - WITHOUT) * 16 * 2
        mark(ask, made, range(20))
        assert learn(ask)["num_keep"] > 0
    with pytest.raises(InputError, match="nowhere does not exist"):
        next(client_of(made.path, tmp_path, tmp_path / "m.jsonl", more={"embeddings": str(tmp_path / "nowhere")}))
    with pytest.raises(InputError, match="--embeddings is empty"):
        BrowseOptions(scores="x", embeddings="")


def test_embeddings_of_other_pictures_are_one_line_and_may_be_mended(made: TasteSet, tmp_path: Path) -> None:
    metadata = Path(f"{made.path}.embeddings/metadata/metadata_0.parquet")
    right = metadata.read_bytes()
    pq.write_table(pa.table({"sample": [f"other/{row}" for row in range(N - WITHOUT)]}), metadata)
    for ask in client_of(made.path, tmp_path, tmp_path / "m.jsonl"):
        mark(ask, made, range(20))
        ask("/api/taste/read", {})
        until(lambda ask=ask: ask("/api/taste").json()["why"] is not None)
        line = ask("/api/taste").json()["why"]
        answer = ask("/api/taste/learn", {"score": "aesthetic_score"})
        check_documented("embeddings of other pictures", answer)
        assert answer.json()["error"] == line
        metadata.write_bytes(right)
        ask("/api/taste/read", {})
        assert learn(ask)["num_keep"] > 0


def test_rows_that_share_a_picture_share_its_mark_and_score(tmp_path: Path) -> None:
    made = write_taste_set(tmp_path, 60, 8)
    table = pq.read_table(made.path)
    twice = pa.concat_tables([table, table.slice(0, 5)])
    pq.write_table(twice, made.path)
    for ask in client_of(made.path, tmp_path, tmp_path / "m.jsonl"):
        mark(ask, made, range(20))
        found = learn(ask)
        assert found["num_keep"] + found["num_drop"] == 20
        after = dict(order_of(ask, found["score"]["name"]))
        assert [after[60 + row] for row in range(5)] == [after[row] for row in range(5)]
        shown = [row for row, _ in order_of(ask, found["score"]["name"], "undecided")]
        assert not set(shown) & {*range(20), *range(60, 65)}


@pytest.mark.parametrize("path", ["learn", "save", "read"])
def test_only_the_page_itself_may_ask(made: TasteSet, tmp_path: Path, path: str) -> None:
    options = BrowseOptions(scores=str(made.path), no_open=True, marks=str(tmp_path / "m.jsonl"), token=True)
    body = {"score": "aesthetic_score"} if path == "learn" else {}
    with running(options, tmp_path) as served:
        place, token = served.url.split("/?token=")
        with httpx.Client(base_url=place) as client:

            def status(**headers: str) -> int:
                return client.post(f"/api/taste/{path}", json=body, headers=headers).status_code

            assert client.get("/api/taste").status_code == 401
            assert status(origin=place) == 401
            assert client.get("/", params={"token": token}).status_code == 200
            assert client.get("/api/taste").json()["is_possible"] is True
            assert status() == 403
            assert status(origin="http://elsewhere.example") == 403
            sent = client.post(
                f"/api/taste/{path}", content=json.dumps(body), headers={"origin": place, "content-type": "text/plain"}
            )
            assert sent.status_code == 403
            assert status(origin=place) in (200, 400, 503)
            assert client.get(f"/api/taste/{path}").status_code == 405


Written = Callable[..., Path]


@pytest.fixture
def scores_by(tmp_path: Path) -> Written:
    def written(name: str | None, **head: Any) -> Path:
        rows = {"sample": ["a"], "aesthetic_score": np.ones(1, np.float32)}
        path = tmp_path / "of.parquet"
        if name is None:
            pq.write_table(pa.table(rows), path)
            return path
        return write_set(path, rows, heads={"aesthetic_score": name}, of_heads=head)

    return written


def test_which_head_is_started_from(made: TasteSet, scores_by: Written, tmp_path: Path) -> None:
    def found(path: Path, backbone: str | None = None, dim: int = DIM) -> tuple[str | None, str | None]:
        with open_scores(str(path)) as scores:
            head, note = head_in_use(scores, "aesthetic_score", backbone, dim)
        return None if head is None else head.name, note

    assert found(made.path) == ("public", None)
    started = "so this started from"
    assert found(made.path, dim=13) == (None, f"public is for other embeddings, {started} no head")
    assert found(scores_by(None)) == (None, f"nothing says which head aesthetic_score is by, {started} none")
    gone = scores_by("somebody-elses", source="/nowhere/head.safetensors", sha256="0" * 64)
    assert found(gone) == (None, f"somebody-elses is not on this machine (beholder models download), {started} no head")
    other = scores_by("public", source=str(made.head), sha256="0" * 64)
    assert found(other)[0] is None, "a file that is another one by now is not the head of these scores"
    of_tower = Head.affine(np.ones(768), name="of-a-tower", backbone="ViT-L/14")
    digest = save_head(of_tower, tmp_path / "l14.safetensors")
    path = scores_by("of-a-tower", source=str(tmp_path / "l14.safetensors"), sha256=digest)
    assert found(path, "openai/clip-vit-large-patch14", 768) == ("of-a-tower", None)
    assert found(path, "openai/clip-vit-base-patch32", 768)[0] is None


def test_a_known_public_head_is_found_by_its_name(shared_models: Path, scores_by: Written, monkeypatch: Any) -> None:
    monkeypatch.setenv("BEHOLDER_MODELS", str(shared_models))
    with open_scores(str(scores_by("sac+logos+ava1-l14-linearMSE"))) as scores:
        head, note = head_in_use(scores, "aesthetic_score", "ViT-L/14", 768)
    assert note is None
    assert head is not None
    assert head.name == "sac+logos+ava1-l14-linearMSE"
