"""A head from ratings: the closed-form fit beside the published recipe, and ten million rows beside the limits of the machine.

    python benchmarks/train.py [--rows N] [--recipe-rows N] [--recipe-epochs N] [--rounds N] [--save]

(a) Error and seconds on the same 441,000 x 768 float16 rows and the same split: improved-aesthetic-predictor's recipe (its five
    layers, Adam with rate 1e-3, 50 epochs, batches of 256, mean squared error; mended only where it cannot run), and ours from
    the rows to the head: sums, strength by folds, the solution. An epoch and all of ours go in turns; the recipe's seconds
    are 50 median epochs, and its error is the best of the epochs that were run (--recipe-epochs).
(b) One pass over float16 rows from a file in the page cache, in bounded memory, beside reading as many bytes from memory and
    beside numpy's own product A.T @ A of float32 rows that are there already.

Ratings are a direction of unit rows, with what a straight line cannot have and noise. Correctness comes first: the weight is
compared with the normal equations in float64.
"""

from __future__ import annotations

import argparse
import datetime
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch

import machine
import result_files
from beholder.models.spaces import space_of
from beholder.train import ridge
from beholder.train.mlp import layers_of
from beholder.train.rows import blocks_of, unit_rows
from beholder.train.training import RowRatings, TrainOptions, train_head
from score_embeddings import DATA, DIM, MemoryRead, timed

RECIPE_EPOCHS, BATCH_ROWS, LEARNING_RATE = 50, 256, 1e-3
CHUNK_ROWS = 50_000
MOST_TURNS = 7
NOISE = 0.5


def make_rows(num_rows: int) -> np.ndarray[Any, Any]:
    """Float16 rows about the centroid of ViT-L/14, spread along axes of falling length; kept in benchmarks/data."""
    path = DATA / f"train_{num_rows}.npy"
    if not path.exists():
        DATA.mkdir(parents=True, exist_ok=True)
        space = space_of("ViT-L/14")
        assert space is not None
        rng = np.random.default_rng(0)
        axes = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0].astype(np.float32)
        deviations = np.arange(1, DIM + 1, dtype=np.float32) ** -0.5
        spread = (1.1 * deviations / np.linalg.norm(deviations))[:, None] * axes
        out = np.lib.format.open_memmap(path.with_suffix(".tmp"), "w+", np.float16, (num_rows, DIM))
        for low in range(0, num_rows, CHUNK_ROWS):
            size = min(CHUNK_ROWS, num_rows - low)
            out[low : low + size] = space.centroid.astype(np.float32) + rng.standard_normal((size, DIM), np.float32) @ spread
        out.flush()
        path.with_suffix(".tmp").rename(path)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def ratings_of(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(N,) float64: a direction, a tenth of its variance again in a curved one, and noise."""
    rng = np.random.default_rng(1)
    one, two = rng.standard_normal((2, DIM))
    found = np.empty(len(rows))
    for low in range(0, len(rows), CHUNK_ROWS):
        unit = unit_rows(rows[low : low + CHUNK_ROWS])
        first, second = unit @ one, unit @ two
        found[low : low + len(unit)] = first + 0.3 * np.abs(second - np.median(second))
    found = (found - found.mean()) / found.std()
    return np.asarray(5 + found + rng.normal(0, NOISE, len(rows)))


def published_recipe(
    rows: np.ndarray[Any, Any], ratings: np.ndarray[Any, Any], is_validation: np.ndarray[Any, Any]
) -> Iterator[tuple[float, float]]:
    """Epoch after epoch: its seconds in the training loop, and the validation error after it, in evaluation mode."""
    unit = torch.empty((len(rows), DIM))
    for low in range(0, len(rows), CHUNK_ROWS):
        unit[low : low + CHUNK_ROWS] = torch.from_numpy(unit_rows(rows[low : low + CHUNK_ROWS]))
    wanted = torch.from_numpy(ratings.astype(np.float32))[:, None]
    torch.manual_seed(0)
    module = layers_of("mlp-linear", DIM)
    optimiser = torch.optim.Adam(module.parameters(), lr=LEARNING_RATE)
    train, validation = (torch.from_numpy(np.flatnonzero(part)) for part in (~is_validation, is_validation))
    while True:
        module.train()
        started = time.perf_counter()
        order = train[torch.randperm(len(train))]
        for low in range(0, len(order), BATCH_ROWS):
            some = order[low : low + BATCH_ROWS]
            optimiser.zero_grad()
            loss = torch.nn.functional.mse_loss(module(unit[some]), wanted[some])
            loss.backward()
            optimiser.step()
        seconds = time.perf_counter() - started
        module.eval()
        with torch.no_grad():
            yield seconds, float(torch.nn.functional.mse_loss(module(unit[validation]), wanted[validation]))


def ours(rows: np.ndarray[Any, Any], ratings: np.ndarray[Any, Any], is_validation: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Seconds from the rows to the head, and its validation error."""
    started = time.perf_counter()
    train = np.flatnonzero(~is_validation)
    folds = np.random.default_rng(2).integers(0, 3, len(train))
    parts = ridge.collect(blocks_of(rows, train, ratings[train], None, folds), num_folds=3, precision="float32")
    found, solution = ridge.fit_sums(parts, strengths=ridge.STRENGTHS[6:18:2])
    weight, bias = ridge.refined(solution, blocks_of(rows, train, ratings[train]), 0)
    seconds = time.perf_counter() - started
    check(rows, train, ratings, weight, found.strength)
    test = np.flatnonzero(is_validation)
    return seconds, float(np.mean((unit_rows(rows, test) @ weight + bias - ratings[test]) ** 2))


def check(rows: Any, train: Any, ratings: Any, weight: Any, strength: float) -> None:
    """Assert that the gradient of what ridge minimises is 0 at the weight, in float64."""
    gradient, mean, target = np.zeros(DIM), np.zeros(DIM), float(ratings[train].mean())
    for low in range(0, len(train), CHUNK_ROWS):
        unit = unit_rows(rows, train[low : low + CHUNK_ROWS])
        mean += unit.sum(axis=0) / len(train)
        residual = ratings[train[low : low + CHUNK_ROWS]] - target - unit @ weight
        gradient += residual @ unit / len(train)
    gradient += (mean @ weight) * mean
    worst = float(np.abs(gradient - strength * weight).max())
    assert worst < 1e-10, worst


def against_the_recipe(num_rows: int, epochs: int) -> list[str]:
    """Part (a): an epoch of the recipe and the whole of ours in turns."""
    rows = make_rows(num_rows)
    ratings = ratings_of(rows)
    is_validation = np.random.default_rng(3).permutation(num_rows) < num_rows // 20
    ours(rows[:5000], ratings[:5000], is_validation[:5000])  # compiled code
    theirs, found = [], []
    for number, epoch in enumerate(islice(published_recipe(rows, ratings, is_validation), epochs)):
        theirs.append(epoch)
        if number < MOST_TURNS:
            found.append(ours(rows, ratings, is_validation))
        print(f"  epoch {number + 1}: {epoch[0]:.1f} s, error {epoch[1]:.5f}; ours {found[-1][0]:.2f} s", file=sys.stderr)
    seconds, error = statistics.median(seconds for seconds, _ in found), found[0][1]
    epoch_seconds, recipe_error = statistics.median(seconds for seconds, _ in theirs), min(error for _, error in theirs)
    whole = epoch_seconds * RECIPE_EPOCHS
    how = f"{RECIPE_EPOCHS} epochs of {epoch_seconds:.1f} s, the median of {epochs} that were run, in turns with ours"
    started = time.perf_counter()
    train_head(rows[:5000], RowRatings(values=ratings[:5000]), TrainOptions(with_curve=False, compare_with=(), resamples=200))
    front = time.perf_counter() - started
    return [
        f"| {num_rows:,} x {DIM} float16 | seconds | validation error (mse) |", "|---|---|---|",
        f"| published recipe ({how}) | {whole:.1f} | {recipe_error:.5f} |",
        f"| ridge: sums, strength by 3 folds, refined (median of {len(found)}) | {seconds:.2f} | {error:.5f} |",
        "",
        f"{whole / seconds:.0f} times as fast; the noise alone is {NOISE**2:.5f} or more of the ratings' error.",
        f"`train_head` on 5,000 of these rows, near-duplicates, out-of-fold measures and intervals included: {front:.1f} s.",
    ]  # fmt: skip


def against_memory(num_rows: int, rounds: int) -> list[str]:
    """Part (b)."""
    rows = make_rows(num_rows)
    ratings = np.random.default_rng(4).normal(5, 1, num_rows)
    in_memory = np.asarray(rows[: min(num_rows, 100_000)]).astype(np.float32)
    read = MemoryRead(min(num_rows, 1_000_000) * DIM * 2)

    def one_pass(precision: ridge.Precision) -> None:
        ridge.collect(blocks_of(rows, np.arange(num_rows), ratings), precision=precision)

    times: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name, work, size in (
            ("memory", read, min(num_rows, 1_000_000)),
            ("numpy, A.T @ A of float32", lambda: in_memory.T @ in_memory, len(in_memory)),
            ("one pass, float32 products", lambda: one_pass("float32"), num_rows),
            ("one pass, float64 products", lambda: one_pass("float64"), num_rows),
        ):
            seconds = timed(work)
            if number:
                times.setdefault(name, []).append(size / seconds)
    rate = {name: statistics.median(found) for name, found in times.items()}
    product = rate["numpy, A.T @ A of float32"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        f"| {num_rows:,} x {DIM} float16 | rows/s | of memory | of numpy's product |", "|---|---|---|---|",
        *(f"| {name} | {one:,.0f} | {one / rate['memory']:.1%} | {one / product:.2f} |" for name, one in rate.items()),
        "",
        f"Peak memory of the process, the file's mapped pages and part (a) included: {peak:,.0f} MiB.",
    ]  # fmt: skip


def main() -> None:
    """Run both parts and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of part (b)")
    parser.add_argument("--recipe-rows", type=int, default=441_000, help="rows of part (a)")
    parser.add_argument("--recipe-epochs", type=int, default=RECIPE_EPOCHS, help="epochs of the recipe that are run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    options = parser.parse_args()
    lines = against_memory(options.rows, options.rounds)
    lines = [*against_the_recipe(options.recipe_rows, options.recipe_epochs), "", *lines]
    head = [
        f"# A head from ratings, {datetime.date.today():%Y-%m}",
        "",
        *machine.lines("beholder", "numba", "numpy", "torch"),
        "",
    ]
    text = "\n".join([*head, *lines, ""])
    print(text)
    if options.save:
        result_files.save("train", text.splitlines())


if __name__ == "__main__":
    main()
