"""What every command does on small fixed inputs, kept as text: exit status, messages, and the files that it leaves.

The text of a scenario stands in `golden/NAME.txt`; `BEHOLDER_WRITE_GOLDEN=1 pytest tests/test_golden.py` writes all of them
anew, and what has changed shows in the diff. It tells nothing about what is right, only that something is not as it was: a
fence for code that moves. So nothing here names a module of the program: there are its command line and the names that
`import beholder` offers.

Times, rates, sizes of files, versions and hashes are replaced by words. Numbers with a fraction may differ by 0.002, since sums
differ in their last bits from processor to processor. A scenario is one process that gets its commands one after the other.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import hashlib
import http.client
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import save_file

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 0.002
MOST_LINES = 40
"""Of one file; more are counted."""
MOST_PAGE_LINES = 160
DIM = 24
MOST_COLUMNS = 12
MOST_SAID = 170
"""Of what one command prints."""
MOST_ANSWERED = 100
"""Of one answer of the live page."""
MOST_NUMBERS = 6
"""Of a vector."""

ENVIRONMENT = {
    **{name: text for name, text in os.environ.items() if not re.match("(BEHOLDER|HF|RICH|TYPER|XDG)_", name)},
    "BEHOLDER_OFFLINE": "1", "BEHOLDER_PROGRESS_S": "0", "COLUMNS": "100", "LINES": "50", "TERM": "dumb", "NO_COLOR": "1",
    "FORCE_COLOR": "", "DISPLAY": "", "WAYLAND_DISPLAY": "", "TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONWARNINGS": "ignore",
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "agg",
}  # fmt: skip
Driver: TypeAlias = "subprocess.Popen[str]"

_DRIVER = """
import contextlib, io, json, os, sys, tempfile, warnings

sys.path.append(sys.argv[1])
from oracles.program_server import end, import_everything

import_everything()


def answer(kind, given, names):
    if kind == "python":
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            exec(given, names)
        for warning in caught:
            if warning.category is UserWarning:
                print(f"UserWarning: {warning.message}", file=sys.stderr)
    else:
        from beholder.__main__ import main

        sys.argv = ["beholder", *given]
        main()


def serve():
    names = {}
    while (request := json.loads(sys.stdin.readline())) is not None:
        kind, given = request
        out, err, status = io.StringIO(), io.StringIO(), 0
        if kind == "server":
            print(os.getpid(), flush=True)
        with contextlib.redirect_stdout(sys.stdout if kind == "server" else out), contextlib.redirect_stderr(err):
            try:
                answer(kind, given, names)
            except SystemExit as stop:
                status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            except Exception as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
        print(json.dumps([status, out.getvalue(), err.getvalue()]), file=sys.__stdout__, flush=True)


while line := sys.stdin.readline():
    request = json.loads(line)
    if request is None:  # for a scenario that has ended already
        print("ended", flush=True)
        continue
    folder, environment = request
    child = os.fork()
    if not child:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        tempfile.tempdir = None
        print("begun", flush=True)
        serve()
        end(None)
    status = os.waitpid(child, 0)[1]
    print("ended" if status == 0 else f"a scenario ended with {status}", flush=True)
"""

PICTURES = "--backbone tower --device cpu --precision fp32 --workers 0 --threads 1"
HEAD = "--head head.safetensors"
KEPT = f"score photos shards -o kept.parquet {HEAD} --keep-embeddings {PICTURES}"

SCENARIOS: dict[str, list[str]] = {
    "score_folder": [
        f"score photos -o out {HEAD} {PICTURES}",
        f"score photos -o out {HEAD} {PICTURES}",
        "!rm photos/a/p03.png",
        "!cp photos/p00.jpg photos/new.jpg",
        f"score photos -o out {HEAD} {PICTURES}",
        "!rm photos/new.jpg",
        f"score photos -o out {HEAD} {PICTURES} --vanished keep",
        f"score photos -o out {HEAD} {PICTURES} --retry-rejects --json",
        f"score photos -o out --head other.npz {PICTURES}",
        f"score photos -o out {HEAD} {PICTURES} --preset squash",
        f"score photos/p00.jpg photos/broken.jpg {HEAD} {PICTURES} -q",
        f"score photos -o out.csv {HEAD} {PICTURES.replace('--workers 0', '--workers 1')}",
        f"score photos -o out.csv --head other.npz {PICTURES}",
        f"score photos -o out.csv --head other.npz {PICTURES} --overwrite -q",
        "rejects out",
        "rejects out.csv --json",
        "rejects out --reason missing",
        "rejects out -o rejected.csv",
        "rejects out -o rejected.csv",
        "rejects out -o rejected.txt",
        "rejects out -o rejected.jsonl --json",
        "rejects photos",
        "rejects out --reason nonsense",
        "rejects out -o rejected.html",
    ],
    "score_archives": [
        f"score shards -o tars.parquet {HEAD} --keep-embeddings {PICTURES}",
        f"score 'shards/{{00000..00001}}.tar' -o tars.csv --head head.safetensors --head other.npz --column caption {PICTURES}",
        f"score pictures.parquet -o table.csv {HEAD} {PICTURES}",
        f"score list.csv -o list_scores.csv {HEAD} {PICTURES}",
        f"score list.txt -o lines.csv {HEAD} {PICTURES} --max-pixels 5000 --decoder scaled",
        f"score photos.zip -o zip.csv {HEAD} --preset upright {PICTURES}",
        "score tars.parquet.embeddings -o again.csv --head other.npz",
        "select tars.parquet --top 2 --copy out_of_tars --apply",
        "select tars.parquet --top 2 --tars packed --apply",
        "select tars.parquet --top 2 --move moved",
        "select zip.csv --top 2 --hf-parquet hf --apply",
        "undo hf.journal.jsonl --apply -q",
    ],
    "embed_and_predict": [
        f"embed photos -o set {PICTURES}",
        f"embed photos -o set {PICTURES}",
        f"embed photos -o set {PICTURES} --dtype float32",
        f"embed photos -o raw.parquet --dtype float32 --raw {PICTURES} -q",
        f"embed shards -o shards_set --format parquet --column caption --json {PICTURES}",
        f"embed photos -o logits.csv {PICTURES} -q",
        f"embed photos -o birder --format birder-parquet {PICTURES} -q",
        f"score set -o from_set.csv {HEAD}",
        f"score raw.parquet -o from_raw.csv {HEAD} --column width -q",
        f"score logits.csv -o from_logits.csv {HEAD} -q",
        f"score birder -o from_birder.csv {HEAD} -q",
        "predict -n tower -t small --st --save-logits --simple-crop --num-workers 0 photos",
        "predict -n tower -t small --st --save-logits --output-format parquet --prefix mine --num-workers 0 --wds shards",
        "predict -n tower -t none --save-logits photos",
        "predict -n tower -t small --st photos",
        "predict -n tower -t small --st --save-logits --tta photos",
        "predict -n tower -t small --st --save-logits --num-workers 0 --size 224 --save-logits photos",
        "predict photos",
        "predict -n tower -t small --st --save-logits nothing_here",
        f"verify photos --draw 5 {HEAD} --backbone tower --device cpu --precision fp32 --preset squash",
        f"verify photos --draw 5 {HEAD} --backbone tower --device cpu --precision fp32 --decoder scaled --json",
        f"verify photos {HEAD} --backbone tower --device cpu --precision fp32 --min-score 5.7",
        "verify --golden --pictures photos --offline",
        "verify",
        "verify nothing_here",
        "verify rows.npy",
        f"verify photos --draw 0 {HEAD} --backbone tower",
        "verify photos --min-score high",
    ],
    "score_and_curate": [
        KEPT,
        "select kept.parquet --dedup 0.999 -o by_score.csv --groups-out groups.csv --dropped-out dropped.csv",
        "select kept.parquet --dedup 0.999 --dedup-keep pixels -o by_pixels.txt --groups-out groups.parquet",
        "select kept.parquet --dedup 0.999 --dedup-keep 'width * height' --dedup-per source -o by_width.txt",
        "select kept.parquet --dedup exact-bytes -o by_bytes.csv --dropped-out bytes.txt",
        "select kept.parquet --clusters 3 --per cluster --top 1 -o clusters.csv",
        "select kept.parquet --per aspect --top 2 --decisions-out decisions.parquet -o aspects.txt",
        "select kept.parquet --top 3 --symlink links --apply",
        "advise kept.parquet --min-score 5.7",
        "report kept.parquet -o page.html --decisions decisions.parquet --groups groups.parquet",
        "report kept.parquet -o page.html",
        "report kept.parquet -o small.html --min-score 5.7 --title 'All of it' --per-bucket 2 --overwrite --json",
    ],
    "score_embeddings": [
        f"score rows.npy -o rows_scores.csv {HEAD}",
        f"score rows.npy -o rows_scores.csv {HEAD}",
        "score rows.npy -o rows_scores.csv --head other.npz",
        f"score rows.npy -o rows.parquet {HEAD} --head other.npz --backbone test/tower",
        f"score table.parquet -o folder {HEAD} --column caption --column hash",
        f"score table.parquet -o all.csv {HEAD} --column '*' --sample-column caption -q",
        f"score rows.csv -o again.csv {HEAD} -q",
        f"score rows.npy -o folder {HEAD}",
        f"score rows.npy -o json.parquet {HEAD} --json",
        f"score clip -o clip_scores {HEAD} --column url --shard-rows 3",
        f"score clip -o clip_scores {HEAD} --column url --shard-rows 3",
        f"score clip {HEAD} --memory 100MB -q",
        f"score rows.npz -o npz.csv {HEAD} --column label -q",
        f"score rows.jsonl -o jsonl.csv {HEAD} --column note -q",
        f"score numbered.parquet -o numbered.csv {HEAD} -q",
        f"score numbered.parquet -o embedding.csv {HEAD} --embedding-column v_ -q",
        f"score rows.npy wide.npy -o two {HEAD}",
        f"score stamped.npy -o stamped.csv {HEAD} -q",
        "score stamped.npy -o stamped_b.csv --head saved.safetensors -q",
        "rejects rows.parquet",
        "rejects folder",
        "rejects rows.parquet -o names.txt",
        "select rows.parquet --score other --top 2 -o second.csv",
        "select rows.parquet --rank-by '0.7*head + 0.3*other' --top 3 -o ranked.csv",
        "select rows.parquet --top 2",
        "select rows.parquet --score nothing --top 2",
        "select rows.parquet --rank-by 'nothing * 2' --top 2",
        "advise rows.parquet",
        "advise rows.parquet --score other -q",
        "report rows.parquet -o heads.html --no-thumbnails -q",
    ],
    "select_rules": [
        "select scores.csv --min-score 5",
        "select scores.csv --min-score 5 --max-score 6.5 -o kept.txt --dropped-out dropped.txt",
        "select scores.csv --min-score sd-v1 -q -o landmark.txt",
        "select scores.csv --where 'width >= 512' --where \"kind <> 'z'\" --top-share 50% -o kept.csv",
        "select scores.csv --where 'widht > 5 or kind' ",
        "select scores.csv --top 2 --per folder -o kept.parquet --decisions-out decisions.csv",
        "select scores.csv --top-share 0.2 --top 3 --per kind -o per_kind.txt",
        "select scores.csv --quantile 0.5 --exclude exclude.txt -o kept.jsonl --dropped-out dropped.jsonl",
        "select scores.csv --balance kind --top 6 -o balanced.csv",
        "select scores.csv --join meta.csv --where \"license = 'cc'\" --max-score 4 -o joined.csv",
        "select scores.csv --budget 3kB --size-column num_bytes -o budget.csv",
        "select scores.csv --draw 4 --seed 1 -o drawn.csv",
        "select scores.csv --draw 4 --temperature inf -o evenly.csv",
        "select scores.csv --per score_bucket --sample 1 --temperature 0.5 -o buckets.csv",
        "select scores.csv --marks marks.jsonl --min-score 6 -o marked.csv",
        "select scores.csv --top 3 --json",
        "select scores.csv --top 3 -o kept.txt",
        "select scores.csv --top 3 -o kept.txt --overwrite -q",
        "select scores.csv --top 3 --decisions decisions.jsonl --dropped old_dropped.csv -q",
        "select heads.csv --top 2",
        "select heads.csv --score-column a --sample-column b --top 1 -o named.csv",
        "select twice.csv --top 9 -o once.csv --decisions-out twice_decisions.csv",
        "select twice.csv --top 9 --repeated refuse",
        "select twice.csv --top 9 --repeated all -o all.csv",
        "select vectors.parquet --dedup 0.95 --groups-out groups.jsonl -o alone.csv --embeddings table.parquet",
        "select vectors.parquet --dedup 0.9 --dedup-method exact --embeddings table.parquet --dedup-keep score -o exact.txt",
        "select vectors.parquet --dedup-against rows.npy --dedup-against-similarity 0.9 --embeddings table.parquet",
        "select vectors.parquet --dedup 0.9 --dedup-against rows.npy --embeddings table.parquet --groups-out near.csv",
        "select vectors.parquet --dedup-against rows.csv --embeddings table.parquet",
        "select scores.csv --min-score 99 -o none.csv",
        "select scores.csv --memory 300MB --threads 1 --top 1 -q -o one.txt",
    ],
    "select_actions": [
        "select list_of_photos.csv --top 3 --copy best",
        "select list_of_photos.csv --top 3 --copy best --apply",
        "select list_of_photos.csv --top 3 --copy best --apply",
        "select list_of_photos.csv --top 2 --copy best",
        "select list_of_photos.csv --top 2 --link linked --apply --no-sidecars -q",
        "select list_of_photos.csv --top 2 --symlink symbolic --apply --journal-out mine.jsonl",
        "select list_of_photos.csv --top 4 --tars packed --apply --shard-count 2 --caption-column caption",
        "select list_of_photos.csv --top 4 --hf-parquet hf --apply --caption-column caption",
        "undo best.journal.jsonl",
        "!rm best/a/p01.png",
        "!cp notes.txt best/p00.jpg",
        "undo best.journal.jsonl --json",
        "undo best.journal.jsonl --apply",
        "undo mine.jsonl --apply --json",
        "undo packed.journal.jsonl --dry-run",
        "undo linked --apply",
        "undo linked.journal.jsonl --apply -q",
        "undo linked.journal.jsonl --apply",
        "select list_of_photos.csv --xmp",
        "select list_of_photos.csv --top 2 --xmp --xmp-labels Green=50% --xmp-rejected --apply",
        "undo list_of_photos.csv.xmp.journal.jsonl --apply",
        "select list_of_photos.csv --xmp-replace",
        "select list_of_photos.csv --top 2 --move moved --apply --json",
        "select list_of_photos.csv --top 3 --copy more",
        "undo moved.journal.jsonl --apply",
        "select list_of_photos.csv --top 2 --move moved_again --apply -q",
        "select list_of_photos.csv --top 1 --copy a --move b",
        "select list_of_photos.csv --top 1 --copy photos/inside",
        "select list_of_photos.csv --top 1 --copy more --pictures empty",
        "select list_of_photos.csv --top 1 --tars more --caption-column nothing",
        "select list_of_photos.csv --top 1 --apply",
        "select list_of_photos.csv --min-score 99 --copy none --apply",
        "undo nothing.jsonl",
        "undo notes.txt",
        "undo empty",
        "undo moved_again",
    ],
    "advise_and_report": [
        "advise scores.csv",
        "advise scores.csv --join meta.csv --group-by license --group-by sample --groups-shown 1 --json",
        "advise scores.csv --min-score 5 --grid 4 --grid 6 --where 'width > 256' --head laion-v2",
        "advise scores.csv --at sd-v1 --no-price",
        "advise heads.csv --score-column a -q",
        "advise pair.csv",
        "advise heads.csv",
        "advise scores.csv --min-score high",
        "advise scores.csv --group-by nothing",
        "advise scores.csv --where 'nothing > 1'",
        "advise meta.csv",
        "advise nothing.csv",
        "advise broken.parquet",
        "advise scores.csv --repeated never",
        "report scores.csv -o bare.html --no-thumbnails",
        "report scores.csv -o bare.html --no-thumbnails --overwrite --min-score 5 --join meta.csv --group-by license --json",
        "report list_of_photos.csv -o pictures.html --per-bucket 1",
        "report heads.csv -o heads.html --no-thumbnails -q --score-column a",
        "report scores.csv --selection bare.html",
        "report scores.csv -o page.txt",
        "report scores.csv --max-size 1kB -o tiny.html",
        "report scores.csv --decisions meta.csv -o x.html",
        "report scores.csv --groups exclude.txt -o x.html",
        "report scores.csv --min-score 5 --per-bucket none -o x.html",
        "report meta.csv -o x.html",
        "report nothing.parquet",
        "report broken.parquet",
        "browse nothing.parquet --no-open",
        "browse meta.csv --no-open",
        "browse broken.parquet --no-open",
        "browse scores.csv --no-open --port 70000",
        "browse scores.csv --no-open --host 203.0.113.7",
        "browse scores.csv --no-open --where 'nothing > 1'",
        "browse scores.csv --no-open --groups exclude.txt",
        "browse scores.csv --no-open --join nothing.csv",
    ],
    "models_and_help": [
        "models list",
        "models list --json",
        "models info head.safetensors",
        "models info laion-v1",
        "models info ViT-L/14",
        "models info tower --json",
        "models save other.npz saved2.safetensors --name mine --backbone test/tower --licence CC0 --input-scale 1",
        "models info saved2.safetensors --json",
        "models save layers.npz layers.safetensors --activation relu --input-scale sqrt-dim",
        "models info layers.safetensors",
        "models save layers.npz without.safetensors",
        "models export heads saved2.safetensors --offline",
        "models export heads laion-v1 --offline",
        "models verify",
        "models verify --json",
        "models verify laion-v1",
        "models download laion-v1",
        "models remove laion-v1",
        "models remove head.safetensors",
        "models info nobody-knows-it",
        "models info notes.txt",
        "models info aesthetic-predictor-v2-5",
        "models info laion-v3",
        "models save other.npz",
        "models save other.npz other.txt",
        "models save notes.txt notes.safetensors",
        "models save nothing.pt x.safetensors",
        "models save other.npz y.safetensors --backbone ViT-L/14",
        "models save other.npz y.safetensors --activation gelu",
        "models",
        "models frobnicate",
        *(
            f"{command} --help"
            for command in (
                "",
                "score",
                "embed",
                "predict",
                "rejects",
                "select",
                "undo",
                "advise",
                "report",
                "browse",
                "evaluate",
                "verify",
                "demo",
                "models",
                *(f"models {word}" for word in ("list", "info", "save", "download", "verify", "export", "remove")),
            )
        ),
        "--version",
        "-h",
        "",
        "no-such-command",
        "scroe photos",
        "--no-such-flag",
    ],
    "wrong_input": [
        "score",
        "score nothing_here",
        "score 'nothing/*.npy'",
        "score photos shards --frobnicate",
        "score --treshold 5 rows.npy",
        f"score notes.txt {HEAD}",
        "score rows.npy",
        "score rows.npy --head tower",
        "score rows.npy --head nobody-knows-it",
        "score rows.npy --head sac+logos+ava1-l14-linearMS",
        "score rows.npy --head notes.txt",
        "score rows.npy --head nothing.safetensors",
        "score rows.npy --head broken.npz",
        "score rows.npy --head layers.npz",
        "score rows.npy --head head.safetensors --head head.safetensors",
        f"score rows.npy {HEAD} -o out.xlsx",
        f"score rows.npy {HEAD} -o notes.txt/out.csv",
        f"score rows.npy {HEAD} -o scores.csv",
        f"score rows.npy {HEAD} --memory much",
        f"score rows.npy {HEAD} --memory 1000",
        f"score rows.npy {HEAD} --threads 0",
        f"score rows.npy {HEAD} --space-check perhaps",
        f"score rows.npy {HEAD} --column caption",
        f"score rows.npy rows.npy {HEAD}",
        f"score rows.npy photos {HEAD}",
        f"score table.parquet {HEAD} --column nothing",
        f"score table.parquet {HEAD} --sample-column nothing",
        f"score table.parquet {HEAD} --embedding-column nothing",
        f"score table.parquet {HEAD} --embedding-column caption",
        f"score wide.npy {HEAD} -o wide.csv",
        f"score line.npy {HEAD} -o line.csv",
        f"score whole.npy {HEAD} -o whole.csv",
        f"score none.npy {HEAD} -o none.csv",
        f"score broken.npy {HEAD} -o broken.csv",
        f"score cut.npy {HEAD} -o cut.csv",
        f"score text.npy {HEAD} -o text.csv",
        f"score zero.npy {HEAD} -o zero.csv",
        f"score objects.npy {HEAD} -o objects.csv",
        f"score broken.parquet {HEAD} -o broken.csv",
        f"score softmax.csv {HEAD} -o softmax_scores.csv",
        f"score torn.csv {HEAD} -o torn_scores.csv",
        f"score uneven {HEAD} -o uneven_scores",
        f"score mixed {HEAD} -o mixed_scores",
        f"score empty -o empty.csv {HEAD}",
        f"score photos/broken.jpg -o one.csv {HEAD} {PICTURES}",
        f"score photos {HEAD} --backbone nothing --device cpu",
        f"score photos {HEAD} --backbone head.safetensors --device cpu",
        f"score photos {HEAD} --backbone tower --device tpu",
        f"score photos {HEAD} --backbone tower --precision fp4",
        f"score photos {HEAD} --backbone tower --preset nice",
        f"score photos {HEAD} --backbone tower --batch-size 0",
        f"score photos {HEAD} --backbone tower --max-pixels none",
        f"score bad.tar {HEAD} {PICTURES}",
        f"score none.tar {HEAD} {PICTURES}",
        f"score 'shards/{{00000..00002}}.tar' {HEAD} {PICTURES}",
        f"score blank.txt {HEAD} {PICTURES}",
        f"score meta.csv {HEAD} {PICTURES}",
        f"score pictures.parquet --picture-column text {HEAD} {PICTURES}",
        "embed",
        "embed rows.npy -o e",
        f"embed photos -o e.parquet --format npy {PICTURES}",
        f"embed photos -o e --format hdf5 {PICTURES}",
        f"embed photos -o e --dtype int8 {PICTURES}",
        f"embed empty -o e {PICTURES}",
        "rejects nothing.parquet",
        "rejects scores.csv",
        "rejects",
        "select",
        "select nothing.csv --min-score 5",
        "select scores.csv --min-score five",
        "select scores.csv --min-score 6 --max-score 5",
        "select scores.csv --quantile 2",
        "select scores.csv --where 'widht > 5'",
        "select scores.csv --where 'width >'",
        "select scores.csv --where 'width > 5; drop table x'",
        "select scores.csv --where \"kind == 'x' && width > 3\"",
        "select scores.csv --where 'width + 1'",
        "select scores.csv --top 0",
        "select scores.csv --top many",
        "select scores.csv --top-share 200%",
        "select scores.csv --per nothing --top 1",
        "select scores.csv --per kind",
        "select scores.csv --balance nothing",
        "select scores.csv --rank-by 'nothing * 2' --top 1",
        "select scores.csv --budget lots",
        "select scores.csv --budget 1MB --size-column kind",
        "select scores.csv --draw 3 --temperature -1",
        "select scores.csv --temperature 2",
        "select scores.csv --exclude nothing.txt",
        "select scores.csv --exclude rows.npy",
        "select scores.csv --marks notes.txt",
        "select scores.csv --top 1 --join nothing.csv",
        "select scores.csv --top 1 --join pair.csv",
        "select scores.csv --top 1 --join rows.npy",
        "select scores.csv --dedup 0.9",
        "select scores.csv --dedup 2",
        "select scores.csv --dedup 0.9 --embeddings rows.npy",
        "select scores.csv --dedup-keep pixels",
        "select scores.csv --dedup-per kind",
        "select scores.csv --top 1 --groups-out groups.csv",
        "select scores.csv -o kept.csv",
        "select scores.csv --clusters 2",
        "select scores.csv --top 1 --score nothing",
        "select scores.csv --top 1 --score-column nothing",
        "select scores.csv --top 1 --sample-column nothing",
        "select scores.csv --min-score 5 -o kept.xlsx",
        "select scores.csv --min-score 5 -o scores.csv",
        "select scores.csv --min-score 6 --copy best",
        "select scores.csv --min-score 6 --copy best --shard-count 3",
        "select scores.csv --min-score 6 --tars best --shard-bytes none",
        "select broken.parquet --min-score 5",
        "select broken.csv --min-score 5",
        "select meta.csv --top 1",
        "select empty --top 1",
        "advise",
        "report",
        "browse",
        "undo",
        "demo full --rows 1000",
        "demo fresh --rows 3",
        "demo notes.txt",
    ],
    "demo": ["demo show --rows 1000 --seed 3", "demo show --rows 3000 --seed 3"],
}

PYTHON = {
    "python_api": [
        "import beholder, numpy as np\nprint(sorted(beholder.__all__))\nprint(dir(beholder))",
        "import inspect\n"
        "for name in sorted(beholder.__all__):\n"
        "    found = getattr(beholder, name)\n"
        "    if inspect.isclass(found):\n"
        "        bases = ', '.join(base.__name__ for base in found.__bases__)\n"
        "        print(f'class {name}({bases}):', *(word for word in sorted(vars(found)) if word[0] != '_'))\n"
        "    elif callable(found):\n"
        "        print(name, *(str(item).split(':')[0] for item in inspect.signature(found).parameters.values()))",
        "beholder.nothing",
        "run = beholder.score('rows.npy', 'api.parquet', heads=['head.safetensors', 'other.npz'])\n"
        "print(type(run).__name__, run.output, run.num_read, run.num_scored, run.num_rejected, run.num_new, run.reasons)\n"
        "print([(field.name, str(field.type)) for field in run.scores().schema])\n"
        "print(run.scores().slice(0, 3).to_pydict())\nprint(run.rejects().to_pydict())\n"
        "print(sorted(run.summary.to_json()))",
        "print(beholder.score('rows.npy', 'api.parquet', heads=['head.safetensors', 'other.npz']).num_new)",
        "seen = []\n"
        "run = beholder.score('photos', 'api', head=['head.safetensors'], backbone='tower', device='cpu', precision='fp32',\n"
        "    workers=0, threads=1, on_progress=lambda rows, size: seen.append(rows))\n"
        "print(run.num_scored, run.reasons, sum(seen))\nprint(run.scores().slice(0, 3).to_pylist())",
        "beholder.score('rows.npy', heads=['head.safetensors'], colour='red')",
        "beholder.score('nothing.npy', heads=['head.safetensors'])",
        "beholder.score('rows.npy', 'scores.csv', heads=['head.safetensors'])",
        "head = beholder.load_head('head.safetensors', backbone='test/tower')\nrows = np.load('rows.npy')\n"
        "print(head.name, head.dim, head.is_affine, head.backbone, head.bias, head.weight[:3], head.layout, head.doubt)\n"
        "print(head.score(rows)[:4], head.score(rows)[7], head.score(rows[0]), head.score(rows[0] * 7))\n"
        "print(sorted(head.describe()))",
        "import torch\nmodule = head.as_module()\nprint(module(torch.tensor(rows[:3])).detach().numpy())\n"
        "print(head.score(torch.tensor(rows[:2], dtype=torch.float64)))",
        "mine = beholder.Head.affine(np.arange(24.0), 2, name='mine', backbone='test/tower')\n"
        "print(mine.score(rows[:3]), mine.backbone)\nprint(len(beholder.save_head(mine, 'mine.safetensors')))\n"
        "again = beholder.load_head('mine.safetensors')\nprint(again.name, again.bias, again.weight[-1], again.backbone)",
        "deep = beholder.load_head('layers.npz', activation='relu')\n"
        "print(deep.is_affine, len(deep.layers), deep.score(rows[:3]))",
        "deep.weight",
        "beholder.load_head('nothing')",
        "beholder.load_head('layers.npz')",
        "beholder.load_head('head.safetensors', backbone='ViT-L/14')",
        "head.score(np.ones((2, 23)))",
        "head.score(np.ones((2, 24), int))",
        "beholder.Head.affine(np.ones((2, 3)))",
        "beholder.save_head(mine, 'nowhere/mine.safetensors')",
        "scorer = beholder.load_scorer('tower', 'head.safetensors', device='cpu', precision='fp32', num_threads=1)\n"
        "print(scorer)\nprint(scorer.score('photos/p00.jpg'), scorer.score(['photos/p00.jpg', 'photos/a/p01.png']))\n"
        "print(scorer.embed('photos/p00.jpg').shape, scorer.embed('photos/p00.jpg')[:4])\n"
        "print(scorer.score(['photos/broken.jpg', 'photos/p00.jpg'], on_error='nan'))",
        "from PIL import Image\nimage = Image.open('photos/p00.jpg')\n"
        "print(scorer.score(image), scorer.score(np.asarray(image)), scorer.score(open('photos/p00.jpg', 'rb').read()))",
        "module = scorer.as_module()\nprint(module(torch.full((2, 3, 56, 56), 0.5)).detach().numpy())",
        "scorer.score('photos/broken.jpg')",
        "scorer.score('photos/nothing.jpg')",
        "scorer.score(5)",
        "beholder.load_scorer('tower', 'head.safetensors', preset='nice')",
        "for preset in ('reference', 'upright', 'rgb', 'squash'):\n"
        "    pixels = beholder.preprocess('photos/turned é.jpg', preset=preset, size_px=32)\n"
        "    print(preset, pixels.shape, pixels.dtype, f'{pixels.mean():.3f} {pixels[:16].mean():.3f}')",
        "beholder.preprocess('photos/broken.jpg')",
        "beholder.preprocess('photos/p00.jpg', preset='nice')",
        "import pyarrow.csv\ntable = pyarrow.csv.read_csv('scores.csv')\n"
        "chosen = beholder.select(table, min_score=5, where='width >= 512', top=3)\n"
        "print(chosen)\nprint(chosen.num_kept, chosen.kept.sum(), chosen.thresholds, chosen.dropped_by[:6], chosen.rank[:6])\n"
        "print(chosen.kept_rows().to_pylist())\nprint(chosen.decisions().slice(0, 3).to_pylist())\nprint(chosen.groups)\n"
        "for step in chosen.funnel: print(step)\nchosen.close()",
        "with beholder.select('scores.csv', top_share=0.1, per='kind') as chosen:\n"
        "    print(type(chosen).__name__, chosen.kept_rows().to_pydict())",
        "beholder.select(table, colour='red')",
        "beholder.select(5)",
        "beholder.select(table, where='nothing > 1')",
        "advice = beholder.advise(table, min_score=5, group_by='kind')\n"
        "print(type(advice).__name__, advice.num_kept, advice.hardest_hit is None, sorted(advice.to_json()))\n"
        "print(beholder.advise('scores.csv', at=4, thresholds=[3.5, 4]).num_kept)",
        "beholder.advise(table, group_by='nothing')",
        "beholder.advise(table, colour='red')",
        "summary = beholder.report(table, 'api.html', no_thumbnails=True, min_score=5)\n"
        "print(type(summary).__name__, summary.output, summary.num_rows)",
        "beholder.report(table, 'api.html')",
        "beholder.report(table, 'x.html', colour='red')",
        "for name in ('BeholderError', 'HeadError', 'InputError', 'OutputError', 'PictureError'):\n"
        "    print(name, [base.__name__ for base in getattr(beholder, name).__mro__])",
    ],
}


def picture(seed: int, kind: str, size: tuple[int, int], **options: Any) -> bytes:
    """A smooth picture from a seed; size: width, height."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(file, kind, **options)
    return file.getvalue()


def make_tower(folder: Path) -> None:
    """A random CLIP image tower of 24 dimensions for 56 x 56 pixels, in Hugging Face's layout."""
    rng = np.random.default_rng(5)
    width, inner, patch, num_blocks = 64, 128, 14, 2

    def numbers(*shape: int) -> np.ndarray[Any, Any]:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    def layer(name: str, num_out: int, num_in: int) -> dict[str, Any]:
        return {f"{name}.weight": numbers(num_out, num_in), f"{name}.bias": np.zeros(num_out, np.float32)}

    def norm(name: str) -> dict[str, Any]:
        return {f"{name}.weight": np.ones(width, np.float32), f"{name}.bias": np.zeros(width, np.float32)}

    tensors = {
        "embeddings.class_embedding": numbers(width, 1)[:, 0],
        "embeddings.position_embedding.weight": numbers((56 // patch) ** 2 + 1, width),
        "embeddings.patch_embedding.weight": numbers(width, 3, patch, patch),
        **norm("pre_layrnorm"), **norm("post_layernorm"),
    }  # fmt: skip
    for number in range(num_blocks):
        block = f"encoder.layers.{number}."
        for word in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensors |= layer(f"{block}self_attn.{word}", width, width)
        tensors |= norm(f"{block}layer_norm1") | norm(f"{block}layer_norm2")
        tensors |= layer(f"{block}mlp.fc1", inner, width) | layer(f"{block}mlp.fc2", width, inner)
    named = {f"vision_model.{name}": tensor for name, tensor in tensors.items()}
    named["visual_projection.weight"] = numbers(DIM, width)
    config = {
        "hidden_act": "quick_gelu", "hidden_size": width, "image_size": 56, "intermediate_size": inner, "layer_norm_eps": 1e-5,
        "num_attention_heads": 2, "num_hidden_layers": num_blocks, "patch_size": patch, "projection_dim": DIM,
    }  # fmt: skip
    folder.mkdir()
    whole = {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": DIM, "vision_config": config}
    (folder / "config.json").write_text(json.dumps(whole))
    save_file(named, folder / "model.safetensors")
    (folder.parent / "models").mkdir()
    shutil.copy(folder / "model.safetensors", folder.parent / "models" / "tower_small.safetensors")
    shutil.copy(folder / "config.json", folder.parent / "models")


def make_photos(folder: Path) -> None:
    """Thirteen pictures: in folders, one of every usual kind, one turned by EXIF, three alike, one that is none."""
    (folder / "a").mkdir(parents=True)
    for number in range(9):
        kind, suffix = (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"))[number % 3]
        place = folder / "a" if number % 2 else folder
        suffix = "png" if number == 3 else suffix  # its bytes are of another format
        (place / f"p{number:02}.{suffix}").write_bytes(picture(number, kind, (60 + 3 * number, 90 - number)))
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "turned é.jpg").write_bytes(picture(50, "JPEG", (80, 60), exif=exif))
    (folder / "p00 copy.jpg").write_bytes(picture(0, "JPEG", (60, 90), quality=95))
    shutil.copy(folder / "p00.jpg", folder / "a" / "p00 twin.jpg")
    (folder / "broken.jpg").write_bytes(b"<html>not found</html>")
    (folder / "p00.txt").write_text("a caption")
    (folder / "notes.txt").write_text("no picture")


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def make_archives(folder: Path) -> None:
    """Two webdataset tars of three pictures with captions and JSON, one of them no picture; a zip, tables, lists."""
    (folder / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(folder / "shards" / f"{shard:05}.tar", "w") as tar:
            for place in range(3):
                key = f"{shard:05}{place:04}"
                jpeg = b"GIF of nothing" if (shard, place) == (1, 2) else picture(20 + 3 * shard + place, "JPEG", (64, 48))
                add_member(tar, f"{key}.jpg", jpeg)
                add_member(tar, f"{key}.txt", f"caption {key}".encode())
                add_member(tar, f"{key}.json", json.dumps({"url": f"https://example.org/{key}.jpg", "width": 64}).encode())
    with tarfile.open(folder / "none.tar", "w") as tar:
        add_member(tar, "notes.txt", b"no picture")
    (folder / "bad.tar").write_bytes(b"<html>not found</html>" * 100)
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for path in sorted((folder / "photos").rglob("*.jpg")):
            archive.write(path, path.relative_to(folder / "photos"))
    named = [{"bytes": picture(30 + number, "PNG", (50, 50)), "path": f"{number}.png"} for number in range(3)]
    pq.write_table(pa.table({"image": named, "text": ["x", "y", "z"]}), folder / "pictures.parquet")
    (folder / "list.csv").write_text("path,code\nphotos/p00.jpg,0012\nphotos/a/p01.png,1e5\nphotos/gone.jpg,7\n")
    (folder / "list.txt").write_text("photos/p00.jpg\nphotos/a/p01.png\nphotos/a/p07.png\n")
    (folder / "blank.txt").write_text("\n\n")


def make_embeddings(folder: Path) -> None:
    """Embeddings of 24 dimensions in every layout, and what is wrong with some."""
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((40, DIM)).astype(np.float32)
    rows[7] = np.nan
    rows[9] = 0
    np.save(folder / "rows.npy", rows)
    np.save(folder / "stamped.npy", rows[:5].astype(np.float16))
    (folder / "stamped.npy.beholder.json").write_text('{"backbone": "openai/clip-vit-large-patch14"}')
    np.savez(folder / "rows.npz", embeddings=rows[:5], names=np.array(list("abcde")), label=np.arange(5))
    header = ",".join(["sample", "fold", *(str(number) for number in range(DIM))])
    texts = [[f"{value:.6g}" for value in row] for row in rows[10:16]]
    (folder / "rows.csv").write_text(
        "\n".join([header, *(",".join([f"r{n}", "007", *row]) for n, row in enumerate(texts))]) + "\n"
    )
    (folder / "torn.csv").write_text("\n".join([header, f"r0,007,{','.join(texts[0][:-1])}"]) + "\n")
    softmax = ",".join(["sample", "prediction", *(str(number) for number in range(DIM))])
    (folder / "softmax.csv").write_text("\n".join([softmax, f"r0,3,{','.join(texts[0])}"]) + "\n")
    lines = [
        json.dumps({"id": f"j{n}", "note": {"n": n}, "embedding": [float(value) for value in row]})
        for n, row in enumerate(texts[:4])
    ]
    (folder / "rows.jsonl").write_text("\n".join([*lines, json.dumps({"id": "j4", "note": None, "embedding": None})]) + "\n")
    vectors = [*rows[:4].tolist(), None, rows[5, :20].tolist(), rows[0].tolist()]
    table = {
        "sample": [f"t{number}" for number in range(7)],
        "emb": pa.array(vectors, pa.list_(pa.float32())),
        "caption": ["one", "two", None, "four, with a comma", 'five "quoted"', "six é", "seven"],
        "hash": pa.array([2**60 + number for number in range(7)], pa.int64()),
    }
    pq.write_table(pa.table(table), folder / "table.parquet")
    numbered: dict[str, Any] = {"key": ["n0", "n1"], **{f"v_{number}": rows[10:12, number] for number in range(DIM)}}
    pq.write_table(pa.table(numbered), folder / "numbered.parquet")
    for name in ("clip", "uneven"):
        (folder / name / "img_emb").mkdir(parents=True)
        (folder / name / "metadata").mkdir()
    for part in range(2):
        np.save(folder / "clip" / "img_emb" / f"img_emb_{part}.npy", rows[10 + 5 * part : 15 + 5 * part].astype(np.float16))
        described = {
            "image_path": [f"{part}{row}" for row in range(5)],
            "url": [f"https://example.org/{part}/{row}" for row in range(5)],
        }
        pq.write_table(pa.table(described), folder / "clip" / "metadata" / f"metadata_{part}.parquet")
    np.save(folder / "uneven" / "img_emb" / "img_emb_0.npy", rows[:5])
    pq.write_table(pa.table({"image_path": ["0", "1"]}), folder / "uneven" / "metadata" / "metadata_0.parquet")
    (folder / "mixed").mkdir()
    np.save(folder / "mixed" / "a.npy", rows[:5])
    pq.write_table(pa.table(table), folder / "mixed" / "b.parquet")
    np.save(folder / "wide.npy", rng.standard_normal((4, 32)).astype(np.float32))
    np.save(folder / "line.npy", rows[0])
    np.save(folder / "whole.npy", np.ones((3, DIM), np.int8))
    np.save(folder / "none.npy", rows[:0])
    (folder / "broken.npy").write_bytes(b"\x93NUMPY not really")
    (folder / "cut.npy").write_bytes((folder / "rows.npy").read_bytes()[:1000])
    (folder / "text.npy").write_text("<html>not found</html>")
    (folder / "zero.npy").write_bytes(b"")
    np.save(folder / "objects.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    (folder / "broken.parquet").write_bytes(b"PAR1 not really PAR1")
    pq.write_table(
        pa.table({"sample": [f"t{n}" for n in range(7)], "aesthetic_score": [5.0, 4, 3, 2, 1, 6, 5.5]}),
        folder / "vectors.parquet",
    )


def make_heads(folder: Path) -> None:
    """Heads: affine in two layouts, with a name for its tower, of two layers, and one that is none."""
    rng = np.random.default_rng(8)
    weight = rng.standard_normal((1, DIM)).astype(np.float32)
    save_file({"weight": weight, "bias": np.array([5.0], np.float32)}, folder / "head.safetensors")
    np.savez(folder / "other.npz", coef_=rng.standard_normal(DIM), intercept_=np.array(4.0))
    layers = {
        "0.weight": rng.standard_normal((8, DIM)), "0.bias": rng.standard_normal(8),
        "2.weight": rng.standard_normal((1, 8)), "2.bias": np.array([3.0]),
    }  # fmt: skip
    np.savez(folder / "layers.npz", **layers)
    np.savez(folder / "broken.npz", colour=np.arange(3))


def make_scores(folder: Path) -> None:
    """Tables of scores as others write them, tables to join, lists to keep and to drop."""
    lines = ["sample,aesthetic_score,width,kind,num_bytes"]
    for number in range(24):
        score = 3 + (number * 7 % 24) / 6
        lines.append(
            f"{'ab'[number % 2]}/s{number:02}.jpg,{score:.4f},{256 * (1 + number % 4)},{'xyz'[number % 3]},{400 + number}"
        )
    (folder / "scores.csv").write_text("\n".join(lines) + "\n")
    meta = [
        "sample,license",
        *(f"{'ab'[number % 2]}/s{number:02}.jpg,{'cc' if number % 3 else '0012'}" for number in range(24)),
    ]
    (folder / "meta.csv").write_text("\n".join(meta) + "\n")
    (folder / "exclude.txt").write_text("a/s00.jpg\nb/s01.jpg\nnobody.jpg\n")
    marks = [{"sample": "a/s00.jpg", "mark": "keep"}, {"sample": "b/s23.jpg", "mark": "drop"}]
    (folder / "marks.jsonl").write_text("".join(json.dumps(mark) + "\n" for mark in marks))
    (folder / "pair.csv").write_text("sample,aesthetic_score\nx,5\ny,6\n")
    (folder / "twice.csv").write_text("sample,aesthetic_score\nx,5\ny,6\nx,7\n,3\nz,\n")
    (folder / "heads.csv").write_text("sample,a,b\nx,5,1\ny,6,3\nz,4,2\nw,4,9\n")
    (folder / "broken.csv").write_text('sample,aesthetic_score\nx,"5\n')
    captioned = [
        "sample,aesthetic_score,caption",
        "photos/p00.jpg,6.5,first",
        "photos/a/p01.png,6,second",
        "photos/gone.jpg,5.5,lost",
    ]
    captioned += ["photos/p02.webp,5,", "photos/p04.png,4.5,fifth"]
    (folder / "list_of_photos.csv").write_text("\n".join(captioned) + "\n")


def make_inputs(folder: Path) -> None:
    """Everything that the scenarios read; all files of one age, but for the oldest."""
    (folder / "empty").mkdir(parents=True)
    (folder / "full").mkdir()
    (folder / "full" / "thing.txt").write_text("of somebody else")
    (folder / "notes.txt").write_text("nothing of interest\n")
    make_tower(folder / "tower")
    make_photos(folder / "photos")
    make_archives(folder)
    make_embeddings(folder)
    make_heads(folder)
    make_scores(folder)
    for path in sorted(folder.rglob("*")):
        os.utime(path, (1.6e9, 1.6e9))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs, made once."""
    folder = tmp_path_factory.mktemp("golden") / "inputs"
    make_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    """A process that has loaded everything; each scenario is a fork of it."""
    process = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, str(Path(__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    yield process
    process.communicate()


@pytest.mark.parametrize("name", SCENARIOS)
def test_commands_do_what_they_did(name: str, inputs: Path, driver: Driver, tmp_path: Path) -> None:
    here = started_in(tmp_path, inputs)
    given = set(all_files(here))
    compare(name, [*said(SCENARIOS[name], here, driver), *described_files(here, given)])


@pytest.mark.parametrize("name", PYTHON)
def test_python_does_what_it_did(name: str, inputs: Path, driver: Driver, tmp_path: Path) -> None:
    here = started_in(tmp_path, inputs)
    given = set(all_files(here))
    compare(name, [*said([f">{code}" for code in PYTHON[name]], here, driver), *described_files(here, given)])


def test_the_page_is_answered_as_it_was(inputs: Path, driver: Driver, tmp_path: Path) -> None:
    here = started_in(tmp_path, inputs)
    given = set(all_files(here))
    compare("browse", [*answers(here, driver), *described_files(here, given)])


def started_in(folder: Path, inputs: Path) -> Path:
    """A folder of its own with a copy of the inputs."""
    here = folder / "work"
    shutil.copytree(inputs, here)
    (folder / "temporary").mkdir()
    return here


def environment_of(folder: Path) -> dict[str, str]:
    """What a scenario sees: nothing of the machine's terminal, network, caches, time zone and number of cores."""
    own = {name: str(folder.parent / "cache" / name) for name in ("BEHOLDER_CACHE", "HF_HOME", "XDG_CACHE_HOME")}
    return ENVIRONMENT | own | {"TMPDIR": str(folder.parent / "temporary")}


def ask(driver: Driver, request: object) -> str:
    """A line to the driver, and the line that comes back."""
    assert driver.stdin is not None
    assert driver.stdout is not None
    driver.stdin.write(json.dumps(request) + "\n")
    driver.stdin.flush()
    return driver.stdout.readline()


@contextlib.contextmanager
def scenario(folder: Path, driver: Driver) -> Iterator[None]:
    """A fork of the driver in the folder answers meanwhile."""
    assert ask(driver, [str(folder), environment_of(folder)]) == "begun\n"
    try:
        yield
    finally:
        last = ask(driver, None)
        while last.startswith("["):  # answers that nobody waited for
            last = driver.stdout.readline() if driver.stdout else ""
        assert last == "ended\n", last


def said(commands: list[str], folder: Path, driver: Driver) -> Iterator[str]:
    """What was typed, and what came of it. Lines that begin with ! are the shell's, with > Python's."""
    with scenario(folder, driver):
        for command in commands:
            if command.startswith("!"):
                yield f"$ {command[1:]}"
                subprocess.run(shlex.split(command[1:]), cwd=folder, check=True)
                continue
            if command.startswith(">"):
                yield from (f">>> {line}" for line in command[1:].splitlines())
                answer = ask(driver, ("python", command[1:]))
            else:
                yield f"$ beholder {command}"
                answer = ask(driver, ("command", shlex.split(command)))
            assert answer.startswith("["), answer
            status, out, err = json.loads(answer)
            yield from shown(out, err, folder)
            if not command.startswith(">"):
                yield f"  status {status}"
            yield ""


def shown(out: str, err: str, folder: Path) -> Iterator[str]:
    """What was printed, and what went to the error stream."""
    yield from cut([f"  {line}".rstrip() for line in scrubbed(out, folder).splitlines()], MOST_SAID)
    yield from (f"  2> {line}".rstrip() for line in scrubbed(err, folder).splitlines())


def cut(lines: list[str], most: int) -> list[str]:
    """The first lines, and how many there are besides."""
    return lines if len(lines) <= most else [*lines[:most], f"  ... {len(lines) - most} more lines"]


def answers(folder: Path, driver: Driver) -> Iterator[str]:
    """The live page of a table of scores with pictures: each address that it asks, and the wrong questions."""
    assert driver.stdout is not None
    groups = "group,sample,similarity,kept,row\n0,photos/p00.jpg,1.0,true,0\n0,photos/a/p01.png,0.97,false,1\n"
    (folder / "groups.csv").write_text(groups)
    line = "browse list_of_photos.csv --no-open --port 0 --groups groups.csv --where 'aesthetic_score > 1' --json"
    yield f"$ beholder {line}"
    with scenario(folder, driver):
        number = int(ask(driver, ("server", shlex.split(line))))
        told = driver.stdout.readline()
        try:
            yield from shown(told, "", folder)
            yield from asked(int(re.findall(r":(\d+)/", told)[0]), folder)
        finally:
            os.kill(number, signal.SIGINT)
        status, _, err = json.loads(driver.stdout.readline())
    yield from shown("", err, folder)
    yield f"  status {status}"


def asked(port: int, folder: Path) -> Iterator[str]:
    """Questions to the server and its answers; RUN, VIEW and LIST stand for names that it gave."""
    known: dict[str, str] = {}

    def question(address: str, body: object = None, *, own: bool = True) -> Iterator[str]:
        method = "GET" if body is None else "POST"
        yield f"{method} {address}{'' if body is None else ' ' + json.dumps(body)}{'' if own else ' from elsewhere'}"
        text = None if body is None else json.dumps(body)
        for word, value in known.items():
            address = address.replace(word, value)
            text = None if text is None else text.replace(word, value)
        origin = f"http://127.0.0.1:{port}" if own else "http://example.org"
        headers = {"content-type": "application/json", "origin": origin} if body is not None or not own else {}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            connection.request(method, address, body=text, headers=headers)
            reply = connection.getresponse()
            kind, data = reply.headers.get("content-type", ""), reply.read()
        finally:
            connection.close()
        yield f"  {reply.status} {kind}"
        if kind.split(";")[0] == "application/json":
            found = json.loads(data)
            for key, word in (("run", "RUN"), ("view", "VIEW"), ("listing", "LIST"), ("key", "VIEW")):
                if isinstance(found.get(key), str):
                    known[word] = found[key]
            text = re.sub(
                r"\[[^\[\]{}]*\]", lambda match: " ".join(match[0].split()), json.dumps(found, indent=1, ensure_ascii=False)
            )
            for word, value in known.items():
                text = text.replace(value, word)
            yield from cut([f"  {item}".rstrip() for item in scrubbed(text, folder).splitlines()], MOST_ANSWERED)
        elif kind.startswith(("text/", "application/jsonl")) and "html" not in kind and "static" not in address:
            yield from (f"  {item}" for item in data.decode().splitlines())
        yield ""

    yield from question("/")
    yield from question("/static/style.css")
    yield from question("/static/../app.py")
    yield from question("/api/set")
    yield from question("/api/values?column=caption")
    yield from question("/api/values?column=nothing")
    yield from question("/api/range?column=aesthetic_score")
    yield from question("/api/view", {"score": "aesthetic_score", "where": "", "filters": []})
    yield from question("/api/count?view=VIEW&threshold=5.5")
    yield from question("/api/count?view=other&threshold=5.5")
    for tab in ("all", "kept", "dropped", "bucket", "marked_keep", "marked_drop", "no_score", "stacks"):
        body = {"view": "VIEW", "tab": tab, "sort": "worst", "threshold": 5.2, "low": 5.0, "high": 6.2}
        yield from question("/api/listing", body)
        yield from question("/api/rows?listing=LIST&score=aesthetic_score&start=0&count=3")
    yield from question("/api/listing", {"view": "VIEW", "tab": "stack", "stack": 0})
    yield from question("/api/listing", {"view": "VIEW", "tab": "stack", "stack": 99})
    yield from question("/api/listing", {"view": "VIEW", "tab": "all", "sort": "random", "seed": 3})
    yield from question("/api/selection?listing=LIST&start=0&count=5")
    yield from question("/api/selection?listing=LIST&start=0&count=500000")
    yield from question("/api/row/0")
    yield from question("/api/row/99")
    yield from question("/api/rejects")
    yield from question("/api/marks", {"rows": [0, 3], "mark": "keep"})
    yield from question("/api/marks", {"rows": [1], "mark": "drop"})
    yield from question("/api/marks", {"rows": [3], "mark": None})
    yield from question("/api/marks?since=0")
    yield from question("/api/marks", {"rows": [99], "mark": "keep"})
    yield from question("/api/marks", {"rows": [], "mark": "keep"})
    yield from question("/api/marks", {"rows": [0], "mark": "keep"}, own=False)
    yield from question("/api/set", own=False)
    yield from question("/thumb/RUN/240/0")
    yield from question("/thumb/RUN/3/0")
    yield from question("/thumb/RUN/240/2")
    yield from question("/picture/RUN/1")
    yield from question("/seen/RUN/1")
    yield from question("/api/turned?rows=0,1")
    for ending in ("txt", "csv", "jsonl", "parquet", "xlsx"):
        yield from question(f"/api/command?view=VIEW&threshold=5.2&format={ending}")
        yield from question(f"/api/export?view=VIEW&threshold=5.2&format={ending}")
    filters = [{"column": "caption", "kind": "contains", "text": "f"}, {"column": "aesthetic_score", "kind": "range", "low": 5}]
    yield from question("/api/view", {"score": "aesthetic_score", "where": "caption is not null", "filters": filters})
    yield from question("/api/view", {"score": "aesthetic_score", "where": "nothing > 1", "filters": []})
    yield from question("/api/view", {"score": "nothing", "where": "", "filters": []})
    yield from question("/api/view", {"colour": "red"})
    yield from question("/api/nothing")


_UNSTEADY_KEYS = (
    r"\w*seconds|\w*_s|\w*per_second|\w*time\w*|\w*bytes\w*|\w+version|host\w*|size|pid|bottleneck|python|platform|inode|"
    r"machine|sum|check|id|written|fingerprint|contents|device_name|batch_size|num_lanes|length|offset|bins|arrow"
)
_SCRUBS = [
    (r"\b[0-9a-f]{64}\b", "SHA256"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "UUID"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?", "TIME"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "TIME"),
    (r"\d[\d,]*(\.\d+)? (pictures|rows)/s", r"N \2/s"),
    (r"\d[\d,]*(\.\d+)? GB/s", "N GB/s"),
    (r"(?<![\d.])\d[\d,]*(\.\d+)? s\b", "N s"),
    (r", mostly waiting for: \w+", ""),
    (r'"waited_for": "\w*"', '"waited_for": X'),
    (r'("(?:beholder|torch)"): ?"[^"]*"', r'\1: "VERSION"'),
    (r"beholder \d+\.\d+\.\d+", "beholder VERSION"),
    (r"(?<![\d.])\d{19}\b", "NANOSECONDS"),
    (r"(?<=[\[,])\d+,NANOSECONDS", "N,NANOSECONDS"),
    (r"'num_bytes': \d+", "'num_bytes': N"),
    (r"(?m)^(6  pictures ).*?(?=^7  select)", "\\1...\n"),
    (r"\d+ thumbnails", "N thumbnails"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
    (rf'("(?:{_UNSTEADY_KEYS})"): ?("[^"]*"|-?[\d.e+-]+|null|\[\[[^"]*?\]\])', r"\1: X"),
    (r'(?<="files":)\s*\{[^}]*\}', " {...}"),
    (r"batches of \d+", "batches of N"),
    (r"(?<![\d.])\d[\d.,]* (kB|MB|GB|bytes)\b", r"N \1"),
]  # fmt: skip


def scrubbed(text: str, folder: Path) -> str:
    """Text without what differs from run to run and from machine to machine."""
    text = text.replace(str(folder), "HERE").replace(str(folder.parent), "ABOVE")
    for pattern, name in _SCRUBS:
        text = re.sub(pattern, name, text, flags=re.DOTALL)
    return text


def all_files(folder: Path) -> list[str]:
    """Names of all files but segments of indices, whose names are other ones in each run."""
    found = (path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return sorted(str(path.relative_to(folder)) for path in found if not path.match("done/index-*.jsonl.zst"))


def described_files(folder: Path, given: set[str]) -> Iterator[str]:
    """Every file that was made, with what it holds; and the inputs that are gone."""
    now = all_files(folder)
    told: set[str] = set()
    yield from (f"gone: {name}" for name in sorted(given - set(now)))
    for name in now:
        if name not in given:
            yield f"file: {named(name)}"
            lines = [f"  {line[:300]}".rstrip() for line in described(folder / name, folder)]
            if name.endswith("beholder.json"):  # records are much alike: the first of them, and what others have besides
                lines = [line for line in lines if line not in told]
                told.update(lines)
                yield from lines
            else:
                yield from cut(lines, MOST_PAGE_LINES if name.endswith(".html") else MOST_LINES)


def named(name: str) -> str:
    """The name of a file without the digits of an act."""
    return re.sub(r"\.[0-9a-f]{8,}\.undone$", ".ID.undone", name)


def described(path: Path, folder: Path) -> Iterator[str]:
    """What a file holds, by its suffix."""
    suffix = path.suffix
    if path.parent.name == "_inputs" or "photographs" in path.relative_to(folder).as_posix() or path.name == "run.json":
        return  # about files that differ from machine to machine: the demo's are those of other packages, run.json tells of it
    if path.is_symlink():
        yield f"link to {scrubbed(str(path.readlink()), folder)}"
    elif path.name.endswith("beholder.json"):
        yield from flattened(json.loads(path.read_text()), folder)
    elif suffix == ".parquet":
        table = pq.read_table(path)
        yield ", ".join(f"{field.name}: {field.type}" for field in list(table.schema)[:MOST_COLUMNS])
        yield f"metadata: {', '.join(sorted(key.decode() for key in table.schema.metadata or {}))}"
        for row in table.to_pylist():
            yield scrubbed(", ".join(cell(value, name) for name, value in list(row.items())[:MOST_COLUMNS]), folder)
    elif suffix == ".csv":
        rows = list(csv.reader(io.StringIO(path.read_text())))
        for number, row in enumerate(rows):
            names = rows[0] if number and len(row) == len(rows[0]) else [""] * len(row)
            yield scrubbed(
                ", ".join(cell(value, name) for name, value in list(zip(names, row, strict=True))[:MOST_COLUMNS]), folder
            )
    elif suffix == ".npy":
        array = np.load(path)
        yield f"{array.dtype} {array.shape}"
        yield from (cell(row.tolist(), "") for row in np.atleast_2d(array)[:5])
    elif suffix == ".tar":
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                is_text = file is not None and member.name.endswith((".txt", ".json"))
                yield f"{member.name} {scrubbed(file.read().decode(), folder)}" if file and is_text else member.name
    elif suffix == ".html":
        yield from page_text(path.read_text(), folder)
    elif suffix in (".txt", ".json", ".jsonl", ".undone", ".md"):
        yield from scrubbed(path.read_text(), folder).splitlines()


def flattened(value: object, folder: Path, name: str = "") -> Iterator[str]:
    """A record of a run, a line for each value; what tells of single machines by its name alone."""
    if isinstance(value, dict) and name not in ("software", "machine", "stats", "files") and value:
        for key, item in value.items():
            yield from flattened(item, folder, f"{name}.{key}" if name else key)
        return
    last = name.rsplit(".", 1)[-1]
    text = scrubbed(json.dumps({last: value}, ensure_ascii=False), folder)[1:-1]
    is_short = len(text) < 200 and last not in ("software", "machine", "stats", "files", "inputs", "schema")
    yield f"{name.rpartition('.')[0]}.{text}".lstrip(".") if is_short else f"{name}: {type(value).__name__}"


_UNSTEADY = {"num_bytes", "size", "mtime", "sha256", "bytes"}


def cell(value: object, name: str) -> str:
    """A value of a table, long ones by their beginning, sizes of files by a letter."""
    if name in _UNSTEADY and value not in (None, ""):
        return "N"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {cell(item, key)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + " ".join(cell(item, "") for item in value[:MOST_NUMBERS]) + (" ...]" if len(value) > MOST_NUMBERS else "]")
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, bytes):
        return f"bytes {hashlib.sha256(value).hexdigest()[:8]}"
    return str(value)


class _Page(HTMLParser):
    """The text of a page, a line for each block."""

    _INLINE = frozenset({"a", "b", "i", "em", "strong", "code", "span", "small", "sup", "sub", "abbr", "td", "th", "tspan"})

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = [""]
        self._hidden = 0
        self._in_chart = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("style", "script")
        if tag in ("td", "th"):
            self.lines[-1] += " | "
        if tag == "svg":
            self._in_chart = True
        if tag not in self._INLINE and not self._in_chart:
            self.lines.append(f"{tag}: " if tag in ("title", "h1", "h2", "h3") else "")
        if tag == "img":
            self.lines[-1:] = [f"picture: {dict(attrs).get('alt')}", ""]

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("style", "script")
        if tag == "svg":
            self._in_chart = False
        if tag not in self._INLINE and not self._in_chart:
            self.lines.append("")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.lines[-1] += f" {data}" if self._in_chart else data


def page_text(page: str, folder: Path) -> list[str]:
    """What a page says, without pictures, styles and scripts."""
    reader = _Page()
    reader.feed(page)
    lines = (" ".join(line.split()).strip("| ") for line in scrubbed("\n".join(reader.lines), folder).splitlines())
    return [line for line in lines if line]


_FRACTION = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?")


def compare(name: str, lines: list[str]) -> None:
    """Fail with what differs from the kept text, if anything does; or write the text anew."""
    found = "\n".join(lines).rstrip("\n").split("\n")
    kept = GOLDEN / f"{name}.txt"
    if os.environ.get("BEHOLDER_WRITE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        kept.write_text("\n".join(found) + "\n", encoding="utf-8")
    expected = kept.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    difference = list(difflib.unified_diff(expected, settled(found, expected), "was", "is now", lineterm=""))
    if difference:
        pytest.fail("\n".join([f"{kept.name} is not what came this time:", *difference]), pytrace=False)


def settled(found: list[str], expected: list[str]) -> list[str]:
    """The lines that were found, with the numbers that were expected where they differ by no more than TOLERANCE.

    How many blanks stand beside a number is not compared: numpy fills up the shorter ones.
    """
    patterns = [[re.sub(" +", " ", _FRACTION.sub("F", line)) for line in lines] for lines in (expected, found)]
    result = list(found)
    for old, new, length in difflib.SequenceMatcher(None, *patterns, autojunk=False).get_matching_blocks():
        for place in range(length):
            if alike(found[new + place], expected[old + place]):
                result[new + place] = expected[old + place]
    return result


def alike(found: str, expected: str) -> bool:
    """Whether two lines of one pattern differ by no more than TOLERANCE (of large numbers: in their sixth digit)."""
    pairs = zip(_FRACTION.findall(found), _FRACTION.findall(expected), strict=True)
    return all(abs(float(one) - float(other)) <= max(TOLERANCE, 1e-6 * abs(float(other))) for one, other in pairs)
