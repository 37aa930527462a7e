"""Explanations by a language model on this machine, whose answers are computed from the questions."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import zarr

import lmsae as package
from lmsae.artifacts.artifact import Artifacts
from lmsae.commands.explaining import read_settings
from lmsae.dictionary.dictionary import Dictionary
from lmsae.interpretation.explaining.config import Settings, parse_latents
from lmsae.interpretation.explaining.material import choose_latents, choose_material
from lmsae.interpretation.opening import open_features
from lmsae.runtime.runtime import Runtime
from lmsae.stages.inputs.silence import gather_pool
from tests.interpretation import measured
from tests.local_endpoint import Model, start_model
from tests.miniature import Said, manifests

Lmsae = Callable[..., Said]
KEY = "sk-secret"
PIECE = re.compile(r"^Piece \d+: (.*)$", re.MULTILINE)


def pieces_in(user: str) -> list[str]:
    return PIECE.findall(user)


def plain(text: str) -> str:
    return text.replace("<<", "").replace(">>", "")


class Judge:
    """A model that explains a latent by all active tokens of its pieces in the artifact, and judges by those.

    It knows the truth, so its scores must be perfect. As an explanation it gives the number of the latent.
    """

    def __init__(self, folder: Path) -> None:
        rows = pq.read_table(folder / "contexts.parquet").to_pylist()
        self.latent_of = dict[str, int]()
        self.active = dict[int, set[str]]()
        for row in rows:
            text = "".join(row["texts"]).replace("\r", "").replace("\n", "⏎")
            self.active.setdefault(row["latent"], set()).add(text)
        self.marked = dict[int, set[str]]()
        for row in rows:
            sizes = [abs(code or 0.0) for code in row["activations"]]
            parts = []
            for place, text in enumerate(row["texts"]):
                on = [sizes[one] >= 0.3 * max(sizes) and sizes[one] > 0 for one in range(len(sizes))]
                opens = on[place] and not (place and on[place - 1])
                closes = on[place] and not (place + 1 < len(on) and on[place + 1])
                parts.append(("<<" if opens else "") + text.replace("\n", "⏎") + (">>" if closes else ""))
            self.marked.setdefault(row["latent"], set()).add("".join(parts))

    def __call__(self, system: str, user: str) -> str:
        pieces = pieces_in(user)
        if not user.startswith("Description: "):
            (latent,) = (one for one, marked in self.marked.items() if marked >= {*pieces})
            return f"Explanation: latent {latent}"
        latent = int(re.findall(r"^Description: latent (\d+)$", user, re.MULTILINE)[0])
        known = self.marked[latent] if "description fits" in system else self.active[latent]
        return f"These are my verdicts: {[int(piece in known) for piece in pieces]}"


def guess(system: str, user: str) -> str:
    """A model that knows nothing: its verdicts are digests of the pieces."""
    if not user.startswith("Description: "):
        return "Explanation: something"
    return str([zlib.crc32(f"{number}{piece}".encode()) >> 7 & 1 for number, piece in enumerate(pieces_in(user))])


@pytest.fixture
def described(made: Path) -> Path:
    return (made / "results/rows/top/features").resolve()


@pytest.fixture
def judge(described: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with start_model(Judge(described)) as model:
        yield model


def flags(model: Model, *more: str) -> tuple[str, ...]:
    return ("explain", "top", "--endpoint", model.url, "--model", "m", *more)


def rare(folder: Path, count: int) -> str:
    """Latents that fire on half a percent to five percent of the tokens: in most pieces of others they are silent."""
    latents = pq.read_table(folder / "latents.parquet").to_pydict()
    found = [one for one, rate in zip(latents["latent"], latents["firing_rate"], strict=True) if 0.005 < rate < 0.05]
    return ",".join(map(str, found[:count]))


def explanations_in(made: Path, described: Path) -> list[dict[str, Any]]:
    return pq.read_table(made / "results/explanations" / described.name / "explanations.parquet").to_pylist()


def test_without_leave_the_cost_is_told_and_nothing_is_asked(
    judge: Model, made: Path, described: Path, lmsae: Lmsae
) -> None:
    said = lmsae(*flags(judge, "--latents", rare(described, 8), "--price-in", "1000", "--price-out", "0"))
    assert (said.code, judge.asked, judge.keys) == (0, [], [])
    assert said.out.endswith("Nothing was asked. Add --yes to ask.\n")
    assert not (made / "results/explanations").exists()
    told = re.search(
        r"8 latents of .* by m: (\d+) requests, about .* tokens .*: about ([\d.]+) at the prices", said.out
    )
    assert told
    assert lmsae(*flags(judge, "--latents", rare(described, 8), "--yes")).code == 0
    assert len(judge.asked) == int(told[1])
    characters = sum(len(one["content"]) for body in judge.asked for one in body["messages"])
    assert float(told[2]) == pytest.approx(1e-3 * characters / 4, rel=0.15)


def test_a_perfect_explainer_scores_one_and_is_shown_in_the_page_and_by_lmsae_features(
    judge: Model, made: Path, described: Path, lmsae: Lmsae
) -> None:
    before = manifests(made)
    said = lmsae(*flags(judge, "--latents", rare(described, 10), "--yes"))
    assert said.code == 0, said.err
    assert "10 of 10 latents are explained" in said.out
    assert "detection: 1.000 balanced accuracy, mean of 10 latents" in said.out
    assert "fuzzing: 1.000 balanced accuracy, mean of 10 latents" in said.out
    rows = explanations_in(made, described)
    latents = [row["latent"] for row in rows]
    assert latents == sorted({*latents})
    for row in rows:
        assert row["explanation"] == f"latent {row['latent']}"
        assert (row["detection"], row["fuzzing"]) == (1.0, 1.0)
        assert row["detection_active"] == row["detection_active_right"]
        assert row["detection_silent"] == row["detection_active"]
    found = package.features("top")
    assert found.latent(rows[0]["latent"])["explanation"] == rows[0]["explanation"]
    table = found.latents()
    assert table["detection"].null_count == 64 - 10
    assert table["explanation"][latents[3]].as_py() == f"latent {latents[3]}"
    page = made / "results/explanations" / described.name / "page"
    assert "explanation" not in (made / "results/rows/top/page/data/latents.js").read_text()
    shown = json.loads((page / "data/latents.js").read_text()[len('take("latents",') : -2])["columns"]
    assert shown["explanation"][latents[0]] == f"latent {latents[0]}"
    assert [shown["detection"][latent] for latent in latents] == [1.0] * 10
    assert manifests(made) == before
    assert lmsae("verify").code == 0


def test_a_guesser_scores_about_a_half_by_counts_that_add_up(made: Path, described: Path, lmsae: Lmsae) -> None:
    with start_model(guess) as model:
        assert lmsae(*flags(model, "--latents", "64", "--yes")).code == 0
    rows = explanations_in(made, described)
    for scorer in ("detection", "fuzzing"):
        for row in rows:
            shares = [
                row[f"{scorer}_{kind}_right"] / row[f"{scorer}_{kind}"]
                for kind in ("active", "silent")
                if row[f"{scorer}_{kind}"]
            ]
            assert row[scorer] == (pytest.approx(sum(shares) / 2) if len(shares) == 2 else None)
        scores = [row[scorer] for row in rows if row[scorer] is not None]
        assert len(scores) > 30
        assert sum(scores) / len(scores) == pytest.approx(0.5, abs=0.05)


def test_pieces_that_are_called_silent_are_so_by_every_code(made: Path, described: Path) -> None:
    artifacts, latents = Artifacts(Path("artifacts")), [0, 5, 9, 33]
    artifact = artifacts[f"features/{described.name}"]
    pool = gather_pool(artifact, artifacts, Runtime(device="cpu"), latents, pieces=30, length=12, seed=1)
    inputs = {name: artifacts[one] for name, one in artifact.spec().inputs.items()}
    stored = zarr.open_array(inputs["activations"].path / "activations.zarr")
    dictionary = Dictionary.load(inputs["dictionary"].path)
    assert len({(piece.context, piece.start) for piece in pool.pieces}) == 30
    for piece, silent in zip(pool.pieces, pool.is_silent, strict=True):
        x = torch.from_numpy(np.asarray(stored[piece.context : piece.context + 1], "float32"))
        codes = dictionary.encode(x)[0, piece.start : piece.start + 12]
        first = 1 if piece.start == 0 else 0  # the first token of a context is special, and does not count
        assert silent.tolist() == [not codes[first:, latent].any() for latent in latents]
    assert pool.is_silent.any(0).all()
    assert not pool.is_silent.all()


def test_what_is_scored_shares_no_token_with_what_is_shown(described: Path) -> None:
    opened = open_features(described)
    settings = Settings(endpoint="http://x", model="m", latents=20, shown=6, scored=4)
    for latent in choose_latents(opened, settings):
        material = choose_material(opened, latent, settings)
        assert len(material.shown) <= 6
        assert len(material.active) <= 4
        tokens = [
            {(one.context, one.start + place) for place in range(len(one.texts))}
            for one in (*material.shown, *material.active)
        ]
        assert sum(map(len, tokens)) == len(set().union(*tokens))
        assert material == choose_material(opened, latent, settings)


def test_the_latents_can_be_named_and_later_ones_join_those_that_are_there(
    judge: Model, made: Path, described: Path, lmsae: Lmsae
) -> None:
    first, second, third = map(int, rare(described, 3).split(","))
    assert lmsae(*flags(judge, "--latents", f"{third},{second}", "--yes")).code == 0
    assert [row["latent"] for row in explanations_in(made, described)] == [second, third]
    assert lmsae(*flags(judge, "--latents", f"{first},", "--scorers", "none", "--yes")).code == 0
    rows = explanations_in(made, described)
    assert [row["latent"] for row in rows] == [first, second, third]
    assert (rows[0]["detection"], rows[1]["detection"]) == (None, 1.0)
    assert lmsae(*flags(judge, "--latents", f"{second},", "--scorers", "none", "--yes")).code == 0
    assert explanations_in(made, described)[1]["detection"] == 1.0
    said = lmsae(*flags(judge, "--latents", "7,64", "--yes"))
    assert (said.code, "--latents: latent 64: there are 64, counted from 0" in said.err) == (2, True)


def test_latents_that_never_fire_are_left_out(tmp_path: Path) -> None:
    opened = open_features(measured.write_measured(tmp_path, [measured.latent(one, 12) for one in range(12)], []))
    dead = [one["latent"] for one in opened.latents().to_pylist() if not one["active_tokens"]]
    assert dead
    for wanted in (12, tuple(range(12))):
        chosen = choose_latents(opened, Settings(endpoint="http://x", model="m", latents=wanted))
        assert chosen == [one for one in range(12) if one not in dead]
    few = Settings(endpoint="http://x", model="m", latents=4)
    assert len(choose_latents(opened, few)) == 4
    assert choose_latents(opened, few) != choose_latents(opened, few.model_copy(update={"seed": 1}))


def test_a_second_run_asks_only_what_has_no_answer_and_the_order_is_the_same(
    judge: Model, made: Path, described: Path, lmsae: Lmsae
) -> None:
    assert lmsae(*flags(judge, "--latents", rare(described, 6), "--yes", "--concurrency", "6")).code == 0
    first, count = explanations_in(made, described), len(judge.asked)
    said = lmsae(*flags(judge, "--latents", rare(described, 6), "--yes", "--concurrency", "1"))
    assert (said.code, len(judge.asked)) == (0, count)
    assert "asked 0 times now" in said.out
    assert explanations_in(made, described) == first
    assert lmsae(*flags(judge, "--latents", rare(described, 6), "--yes", "--scored", "5")).code == 0
    again = [json.dumps(body) for body in judge.asked]
    assert len(again) == len({*again}) > count


def test_a_limit_of_requests_is_waited_for_and_an_error_of_the_server_too(
    judge: Model, made: Path, described: Path, lmsae: Lmsae
) -> None:
    judge.errors += [(429, {"Retry-After": "0"}, b""), (503, {"Retry-After": "0"}, b"")]
    said = lmsae(*flags(judge, "--latents", rare(described, 2), "--yes", "--concurrency", "1"))
    assert said.code == 0, said.err
    assert "2 requests were made again, the last because it answers with error 503" in said.out
    assert len(judge.keys) == len(judge.asked) + 2


def test_an_endpoint_that_refuses_is_told_in_a_sentence_and_the_key_stands_nowhere(
    judge: Model, made: Path, described: Path, lmsae: Lmsae
) -> None:
    judge.errors += [(401, {}, f"wrong key {KEY}".encode())] * 8
    said = lmsae(*flags(judge, "--latents", rare(described, 4), "--yes"))
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "it answers with error 401 (wrong key ...); set OPENAI_API_KEY to a key that it knows" in said.err
    judge.errors.clear()
    assert lmsae(*flags(judge, "--latents", rare(described, 4), "--yes")).code == 0
    assert {*judge.keys} == {f"Bearer {KEY}"}
    files = [path for path in made.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in path.read_bytes() for path in files)
    assert KEY not in said.out + said.err


def test_a_redirect_is_not_followed_for_the_key_would_go_along(
    judge: Model, made: Path, described: Path, lmsae: Lmsae
) -> None:
    with start_model(guess) as elsewhere:
        judge.errors += [(307, {"Location": f"{elsewhere.url}/chat/completions"}, b"")] * 2
        said = lmsae(*flags(judge, "--latents", rare(described, 2), "--yes"))
        assert (said.code, "it answers with error 307" in said.err) == (2, True)
        assert elsewhere.keys == []


def test_one_latent_without_an_answer_costs_no_other_its_own(
    judge: Model, made: Path, described: Path, lmsae: Lmsae
) -> None:
    truth = judge.answer
    judge.errors.append((400, {}, b"too long"))
    said = lmsae(*flags(judge, "--latents", rare(described, 5), "--yes", "--concurrency", "2"))
    assert said.code == 1, said
    assert "1 latents got no answer" in said.out
    assert "error 400 (too long)" in said.out
    assert len(explanations_in(made, described)) == 4
    judge.answer = truth
    assert lmsae(*flags(judge, "--latents", rare(described, 5), "--yes")).code == 0
    assert len(explanations_in(made, described)) == 5


def test_malformed_answers_are_counted_and_left_out(made: Path, described: Path, lmsae: Lmsae) -> None:
    truth = Judge(described)

    def sloppy(system: str, user: str) -> str:
        said = truth(system, user)
        if "description fits" in system:
            return "I would rather not say."
        return "[1, 0, 1]" if said.startswith("These") and "Piece 5" in user and zlib.crc32(user.encode()) & 1 else said

    with start_model(sloppy) as model:
        said = lmsae(*flags(model, "--latents", rare(described, 8), "--yes"))
    assert said.code == 0
    rows = explanations_in(made, described)
    asked = [one["messages"] for one in model.asked]
    bad = sum(
        "Piece 5" in user and zlib.crc32(user.encode()) & 1
        for (_, user) in ([one["content"] for one in m] for m in asked)
        if "anywhere in it" in _
    )
    fuzzed = sum("description fits" in one[0]["content"] for one in asked)
    assert bad > 0
    assert sum(row["malformed"] for row in rows) == bad + fuzzed
    assert f"{bad + fuzzed} answers did not have the form that was asked for; they are left out" in said.out
    assert {row["fuzzing"] for row in rows} == {None}
    assert {row["detection"] for row in rows} <= {1.0, None}
    assert "fuzzing: 8 latents have no score" in said.out


@pytest.mark.slow
def test_a_killed_run_goes_on_and_pays_nothing_twice(judge: Model, made: Path, described: Path, lmsae: Lmsae) -> None:
    arrived, count = threading.Event(), 0

    def hold() -> None:
        nonlocal count
        count += 1
        if count > 20:
            arrived.set()
            threading.Event().wait(600)

    judge.wait = hold
    arguments = flags(judge, "--latents", rare(described, 10), "--yes", "--concurrency", "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "lmsae.cli", *arguments], env=os.environ | {"OPENAI_API_KEY": KEY}
    )
    assert arrived.wait(120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(judge.asked) == 20
    ledger = made / "results/explanations" / described.name / "answers.jsonl"
    assert len(ledger.read_text().splitlines()) == 20
    ledger.write_bytes(ledger.read_bytes()[:-9])  # the last one was being written
    judge.wait = lambda: None
    said = lmsae(*arguments)
    assert said.code == 0, said.err
    texts = [json.dumps(body) for body in judge.asked]
    assert len(texts) == len({*texts}) + 1
    assert texts.count(texts[19]) == 2
    assert {row["detection"] for row in explanations_in(made, described)} == {1.0}
    assert len(ledger.read_text().splitlines()) == len({*texts}) + 1


@pytest.mark.parametrize(
    ("text", "latents"), [("100", 100), ("3,", (3,)), ("3,7", (3, 7)), ("9-11,3", (9, 10, 11, 3)), (" 1 , 2 ", (1, 2))]
)
def test_latents_are_a_count_or_numbers(text: str, latents: object) -> None:
    assert parse_latents(text) == latents


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"endpoint": "host/v1"}, "--endpoint"),
        ({"endpoint": "http://user:pass@host/v1"}, "an address holds no key"),
        ({"model": ""}, "--model"),
        ({"latents": "5-3"}, "--latents: found '5-3'"),
        ({"temperature": "hot"}, "--temperature"),
        ({"concurrency": "0"}, "--concurrency"),
    ],
)
def test_wrong_settings_are_refused_by_their_flags(given: dict[str, str], told: str) -> None:
    from lmsae.errors import ConfigError

    with pytest.raises(ConfigError) as raised:
        read_settings({"endpoint": "http://host/v1", "model": "m", **given})
    assert told in str(raised.value)
