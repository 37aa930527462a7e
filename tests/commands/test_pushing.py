"""Dictionaries to and from the hub, by its real client and a hub on this machine."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from sae_lens import SAE

from lmsae.dictionary.dictionary import Dictionary
from tests.local_hub import Hub, Repository, start_hub, turn_client_to
from tests.miniature import ROWS, Said, keys, manifests, write_config, write_sweep

Lmsae = Callable[..., Said]
TOKEN = "hf_writes"
# The hub's client sends large files in a way that its own HTTP library, httpx2, wants otherwise by now.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the client in this process talks to, with a cache of its own and a token that may write."""
    with start_hub() as started:
        turn_client_to(started, tmp_path / "cache", monkeypatch)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield started


@pytest.fixture
def here(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished miniature as the working directory; pushing changes nothing in it."""
    monkeypatch.chdir(finished)
    return finished


def front_matter(card: bytes) -> dict[str, object]:
    return yaml.safe_load(card.decode().split("---\n")[1])


def told_of(said: Said, *parts: str) -> None:
    """The command ended with code 2, one line behind the client's bars that says all of this, and no token."""
    assert said.code == 2, said
    for part in parts:
        assert part in said.err.splitlines()[-1]
    assert TOKEN not in said.err + said.out


def test_a_pushed_dictionary_comes_back_to_the_byte_and_opens_in_saelens_and_here(
    hub: Hub, here: Path, tmp_path: Path, lmsae: Lmsae
) -> None:
    before = manifests(here)
    said = lmsae("push", "top", "me/mine", "--license", "mit")
    assert said.code == 0, said.err
    files = hub.repositories["me/mine"].files
    artifact, evaluation = (here / "artifacts" / stage / keys(here, stage)[0] for stage in ("train", "eval"))
    for name in ("dictionary.json", "dictionary.safetensors", "curves.csv"):
        assert files[f"top/{name}"] == (artifact / name).read_bytes()
    assert files["top/eval/metrics.json"] == (evaluation / "metrics.json").read_bytes()
    published = here / "results/saelens/top"
    for name in ("cfg.json", "sae_weights.safetensors", "sparsity.safetensors"):
        assert files[f"top/{name}"] == (published / name).read_bytes()

    pulled = tmp_path / "pulled"
    said = lmsae("pull", "me/mine:top", str(pulled))
    assert said.code == 0, said.err
    found = {path.relative_to(pulled).as_posix(): path.read_bytes() for path in pulled.rglob("*") if path.is_file()}
    assert found == {name.removeprefix("top/"): content for name, content in files.items() if name.startswith("top/")}
    mine = Dictionary.load(pulled)
    x = 3 * torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mine(x), Dictionary.load(artifact)(x))
    torch.testing.assert_close(SAE.load_from_disk(str(pulled))(x), mine(x), rtol=1e-4, atol=1e-4)
    assert manifests(here) == before


def test_saelens_opens_it_by_the_names_of_the_repository_and_the_folder(hub: Hub, here: Path, lmsae: Lmsae) -> None:
    assert lmsae("push", "batch", "me/mine", "--neuronpedia-id", "model/0-res").code == 0
    sae = SAE.from_pretrained("me/mine", "batch")
    x = 3 * torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    original = Dictionary.load(here / "artifacts/train" / keys(here, "train")[1])
    torch.testing.assert_close(sae(x), original(x), rtol=1e-4, atol=1e-4)
    assert sae.cfg.metadata.neuronpedia_id == "model/0-res"
    assert "https://www.neuronpedia.org/model/0-res" in hub.repositories["me/mine"].files["README.md"].decode()


def test_a_row_takes_a_pushed_dictionary_by_its_place_on_the_hub(hub: Hub, made: Path, lmsae: Lmsae) -> None:
    assert lmsae("push", "top", "me/mine").code == 0
    card = hub.repositories["me/mine"].files["README.md"].decode()
    columns, cells = (line.split("\t") for line in card.split("```tsv\n")[1].splitlines()[:2])
    write_sweep(made, [dict(zip(columns, cells, strict=True))])
    assert lmsae("plan", "--quiet").code == 0
    assert lmsae("import").code == 0
    (key,) = keys(made, "import")
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    original = Dictionary.load((made / "results/rows/top/train").resolve())
    assert torch.equal(Dictionary.load(made / "artifacts/import" / key)(x), original(x))


def test_the_card_has_what_was_measured_and_how_to_load_it(hub: Hub, here: Path, lmsae: Lmsae) -> None:
    assert lmsae("push", "all", "me/mine", "--license", "cc-by-4.0").code == 0
    card = hub.repositories["me/mine"].files["README.md"]
    tags = ["sparse-autoencoder", "mechanistic-interpretability", "lmsae", "saelens"]
    assert front_matter(card) == {"library_name": "saelens", "license": "cc-by-4.0", "tags": tags}
    text = card.decode()
    for row in ROWS:
        metrics = json.loads((here / "results/rows" / row["name"] / "eval/metrics.json").read_text())
        (line,) = [
            line for line in text.splitlines() if line.startswith(f"| `{row['name']}` | `{row['sae.hook_point']}`")
        ]
        assert f"| {metrics['l0']:.4g} | {metrics['explained_variance']:.4g} |" in line
    assert 'SAE.from_pretrained("me/mine", "batch")' in text
    assert "batch\tme/mine:batch\tblocks.0.hook_resid_post" in text
    assert "lr: 0.001" in text
    for key in (*keys(here, "train"), *keys(here, "eval")):
        assert key in text


def test_models_and_texts_of_the_hub_stand_in_the_front_matter_and_local_ones_do_not(hub: Hub) -> None:
    from lmsae.artifacts.artifact import Spec
    from lmsae.artifacts.parcel import Parcel
    from lmsae.report.card import write_card

    def source(name: str, revision: str | None) -> dict[str, object]:
        return {"name": name, "revision": revision}

    configs = [
        {"model": {"source": source("EleutherAI/pythia-70m", "a" * 40)}},
        {"model": {"source": source("models/mine", "digest:0123")}},
        {"dataset": {"sources": [{"weight": 1, "dataset": source("owner/text", "b" * 40)}], "name": "mixture"}},
        {"dataset": source("text", None), "tokenizer": source("owner/tokenizer", "c" * 40)},
        {"dictionary": {"geometry": {"kind": "clt"}, "act_fn": {"kind": "jumprelu"}, "d_sae": 64}},
    ]
    specs = [Spec(stage="train", version=1, config=config, inputs={}) for config in configs]
    parcel = Parcel(name="a", dictionary=specs[-1].reference, specs={spec.reference: spec for spec in specs}, sent={})
    card = write_card([parcel], "me/mine", revision=None, license=None, old="")
    fields = front_matter(card.encode())
    assert fields["base_model"] == ["EleutherAI/pythia-70m"]
    assert fields["datasets"] == ["owner/text"]
    assert fields["library_name"] == "lmsae"
    assert "from_pretrained" not in card


def test_an_owners_own_words_and_license_stay_in_the_card(hub: Hub, here: Path, lmsae: Lmsae) -> None:
    assert lmsae("push", "top", "me/mine", "--license", "mit").code == 0
    repository = hub.repositories["me/mine"]
    first = repository.files["README.md"].decode()
    written = first.replace("license: mit", "license: mit\npipeline_tag: other").replace("# mine", "# My own title")
    repository.files["README.md"] = f"{written}\nMy own end.\n".encode()
    assert lmsae("push", "batch", "me/mine").code == 0
    card = repository.files["README.md"].decode()
    assert "# My own title" in card
    assert card.endswith("My own end.\n")
    assert front_matter(card.encode())["pipeline_tag"] == "other"
    assert front_matter(card.encode())["license"] == "mit"
    assert card.count("<!-- lmsae -->") == 1
    assert "| `top` |" in card
    assert "| `batch` |" in card


def test_a_second_push_sends_only_what_is_missing(hub: Hub, here: Path, lmsae: Lmsae) -> None:
    assert lmsae("push", "top", "me/mine").code == 0
    repository = hub.repositories["me/mine"]
    assert len(repository.messages) == 1
    said = lmsae("push", "top", "me/mine")
    assert (said.code, "me/mine has all 13 files already" in said.out) == (0, True), said
    assert len(repository.messages) == 1
    del repository.files["top/curves.csv"]
    repository.files["top/cfg.json"] = b"{}"
    arrived = len(hub.arrived)
    said = lmsae("push", "top", "me/mine")
    assert "sending 2 of 13 files" in said.out
    assert len(hub.arrived) == arrived
    assert repository.files["top/curves.csv"]
    assert json.loads(repository.files["top/cfg.json"])["architecture"] == "topk"


def test_the_card_of_many_is_the_same_text_whichever_of_them_is_pushed_again(
    hub: Hub, here: Path, lmsae: Lmsae
) -> None:
    assert lmsae("push", "top", "batch", "me/mine").code == 0
    assert len(hub.repositories["me/mine"].messages) == 1
    for row in ("top", "batch"):
        assert "me/mine has all 13 files already" in lmsae("push", row, "me/mine").out
    assert len(hub.repositories["me/mine"].messages) == 1


def test_all_rows_that_are_made_go_in_one_commit_and_the_others_are_named(hub: Hub, made: Path, lmsae: Lmsae) -> None:
    write_sweep(made, [*ROWS, {**ROWS[0], "name": "later", "train.lr": "0.5"}])
    assert lmsae("plan", "--quiet").code == 0
    damaged = made / "artifacts/train" / keys(made, "train")[2] / "dictionary.safetensors"
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    said = lmsae("push", "all", "me/mine")
    assert said.code == 1
    assert "later: not made yet" in said.out
    assert "plain: " in said.out
    assert "its bytes are not those that were written" in said.out
    files = hub.repositories["me/mine"].files
    assert {path.partition("/")[0] for path in files} == {".gitattributes", "README.md", "top", "batch", "jump"}
    assert len(hub.repositories["me/mine"].messages) == 1


def test_an_interrupted_push_goes_on_and_sends_no_large_file_twice(hub: Hub, here: Path, lmsae: Lmsae) -> None:
    hub.errors.append(("POST /api/models/me/mine/commit/", 503, {}))
    said = lmsae("push", "all", "me/mine")
    told_of(said, "me/mine: the hub answers with error 503; run again later, what has arrived is kept")
    assert len(hub.arrived) == 16
    assert [*hub.repositories["me/mine"].files] == [".gitattributes"]
    assert lmsae("push", "all", "me/mine").code == 0
    assert len(hub.arrived) == len({*hub.arrived}) == 16
    assert len(hub.repositories["me/mine"].files) == 50


def test_a_dry_run_names_all_files_and_asks_no_network(
    hub: Hub, here: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    said = lmsae("push", "top", "me/mine", "--dry-run")
    assert (said.code, hub.asked) == (0, [])
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert lmsae("push", "top", "me/mine").code == 0
    sent = {path: len(content) for path, content in hub.repositories["me/mine"].files.items()}
    told = {line[12:]: line[:10].strip() for line in said.out.splitlines()[:-1]}
    assert told.keys() == sent.keys() - {".gitattributes"}
    weights = "top/dictionary.safetensors"
    assert told[weights] == f"{sent[weights] / 1000:.2f} kB"
    assert "1 dictionary, 13 files" in said.out.splitlines()[-1]


def test_a_branch_is_made_and_leaves_the_main_one_alone(hub: Hub, here: Path, tmp_path: Path, lmsae: Lmsae) -> None:
    assert lmsae("push", "top", "me/mine", "--revision", "second").code == 0
    repository = hub.repositories["me/mine"]
    assert [*repository.files] == [".gitattributes"]
    assert "me/mine@second:top" in repository.commits[repository.branches["second"]]["README.md"].decode()
    assert lmsae("pull", "me/mine@second:top", str(tmp_path / "there")).code == 0
    told_of(lmsae("pull", "me/mine:top", str(tmp_path / "main")), "has no folder 'top'")
    told_of(lmsae("pull", "me/mine@third", str(tmp_path / "main")), "me/mine: it has no revision 'third'")


def test_a_private_repository_is_made_and_a_public_one_is_not_taken_for_one(
    hub: Hub, here: Path, tmp_path: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lmsae("push", "top", "me/secret", "--private").code == 0
    assert hub.repositories["me/secret"].private
    hub.repositories["me/open"] = Repository()
    told_of(lmsae("push", "top", "me/open", "--private"), "me/open is there already, and public", "/settings")
    assert [*hub.repositories["me/open"].files] == [".gitattributes"]
    monkeypatch.delenv("HF_TOKEN")
    told_of(
        lmsae("pull", "me/secret", str(tmp_path / "new")), "or it is private; mend the spelling, or `hf auth login`"
    )
    assert not (tmp_path / "new").exists()


def test_what_the_hub_refuses_is_told_in_a_sentence_each(
    hub: Hub, here: Path, tmp_path: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_of(lmsae("push", "top", "mine"), "'mine' is no possible name on the hub; wanted: owner/name")
    told_of(lmsae("push", "top", "others/theirs"), "others/theirs: your token may not do this there; make one")
    hub.errors.append(("POST /api/repos/create", 429, {"Retry-After": "17"}))
    told_of(lmsae("push", "top", "me/mine"), "limit of requests is reached; run again in 17 seconds")
    hub.errors.append(("POST /api/models/me/mine/commit", 412, {}))
    told_of(lmsae("push", "top", "me/mine"), "somebody else has changed it at the same time; run again")
    told_of(lmsae("pull", "me/nothing", str(tmp_path / "new")), "me/nothing: the hub has no such repository")
    told_of(lmsae("pull", "topk", str(tmp_path / "new")), "'topk' is no place on the hub; wanted: owner/name")
    monkeypatch.setenv("HF_TOKEN", "hf_reads")
    hub.repositories["me/mine"] = Repository()
    told_of(lmsae("push", "top", "me/mine"), "me/mine: your token may not do this there")
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    told_of(lmsae("push", "top", "me/mine"), "the hub does not know your token; `hf auth login`")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    told_of(lmsae("push", "top", "me/mine"), "there is no token of the hub here: `hf auth login`, or set HF_TOKEN")


def test_a_hub_that_cannot_be_reached_is_told(
    hub: Hub, here: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    told_of(lmsae("push", "top", "me/mine"), "me/mine: the hub cannot be reached (ConnectError:", "run again")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    told_of(lmsae("push", "top", "me/mine"), "HF_HUB_OFFLINE is set, so the hub is not asked")


@pytest.mark.parametrize(
    ("name", "why"),
    [("norm", "is no dictionary: name a row"), ("nothing", "no artifact under"), ("eval", "is no dictionary")],
)
def test_what_is_no_dictionary_is_refused_before_the_hub_is_asked(
    hub: Hub, here: Path, lmsae: Lmsae, name: str, why: str
) -> None:
    asked = f"{name}/{keys(here, name)[0]}" if name != "nothing" else name
    said = lmsae("push", asked, "me/mine")
    assert (said.code, why in said.err, hub.asked) == (2, True, [])


def test_a_dictionary_without_a_counterpart_in_saelens_goes_for_lmsae_alone(
    hub: Hub, fresh: Path, tmp_path: Path, lmsae: Lmsae
) -> None:
    from tests.miniature import make_until, row_of

    write_config(fresh, train={"tokens": 1024}, eval={"tokens": 128})
    write_sweep(fresh, [row_of("crosscoder")])
    make_until("train")
    said = lmsae("push", "crosscoder", "me/mine")
    assert "crosscoder: for lmsae only; crosscoder/why-not.txt says why" in said.out
    files = hub.repositories["me/mine"].files
    assert "crosscoder/cfg.json" not in files
    assert "crosscoder/eval/metrics.json" not in files
    assert b"`blocks.0.hook_resid_post blocks.1.hook_resid_post`" in files["README.md"]
    assert front_matter(files["README.md"])["library_name"] == "lmsae"
    assert lmsae("pull", "me/mine:crosscoder", str(tmp_path / "new")).code == 0
    assert Dictionary.load(tmp_path / "new").config.geometry.kind == "crosscoder"


def test_pulled_artifacts_take_their_place_again_and_no_row_is_trained_anew(hub: Hub, made: Path, lmsae: Lmsae) -> None:
    assert lmsae("push", "all", "me/mine").code == 0
    before = {name: content for name, content in manifests(made).items() if name.split("/")[0] in ("train", "eval")}
    shutil.rmtree(made / "artifacts")
    said = lmsae("pull", "me/mine", "copy", "--restore")
    assert said.code == 0, said.err
    assert said.out.count("restored ") == 8
    assert manifests(made) == before
    assert lmsae("verify", *before).code == 0
    assert lmsae("plan").code == 0
    assert {name for name in before if name in manifests(made)} == {f"train/{key}" for key in keys(made, "train")} | {
        f"eval/{key}" for key in keys(made, "eval")
    }
    again = lmsae("pull", "me/mine", "copy", "--restore")
    assert (again.code, "restored" in again.out) == (0, False)


def test_a_file_that_was_changed_on_the_hub_is_not_taken_for_the_pushed_one(hub: Hub, made: Path, lmsae: Lmsae) -> None:
    assert lmsae("push", "top", "me/mine").code == 0
    files = hub.repositories["me/mine"].files
    files["top/curves.csv"] += b"1"
    shutil.rmtree(made / "artifacts")
    said = lmsae("pull", "me/mine:top", "copy", "--restore")
    assert (said.code, "copy/curves.csv: its bytes are not those that were written" in said.err) == (2, True)
    assert not (made / "artifacts").exists()


@pytest.mark.parametrize("path", ["../../out.txt", "/etc/out.txt"])
def test_a_parcel_that_names_a_file_elsewhere_is_refused(hub: Hub, made: Path, lmsae: Lmsae, path: str) -> None:
    assert lmsae("push", "top", "me/mine").code == 0
    files = hub.repositories["me/mine"].files
    parcel = json.loads(files["top/lmsae.json"])
    next(iter(parcel["sent"].values()))["files"][0]["path"] = path
    files["top/lmsae.json"] = json.dumps(parcel).encode()
    said = lmsae("pull", "me/mine:top", "copy", "--restore")
    assert (said.code, f"names {path!r}" in said.err) == (2, True)


def test_what_is_in_the_folder_already_is_kept_if_it_is_the_same_and_else_left_alone(
    hub: Hub, here: Path, tmp_path: Path, lmsae: Lmsae
) -> None:
    assert lmsae("push", "top", "me/mine").code == 0
    folder = tmp_path / "new"
    assert lmsae("pull", "me/mine:top", str(folder)).code == 0
    (folder / "notes.txt").unlink()
    assert lmsae("pull", "me/mine:top", str(folder)).code == 0
    assert (folder / "notes.txt").exists()
    (folder / "notes.txt").unlink()
    (folder / "cfg.json").write_text("mine")
    said = lmsae("pull", "me/mine:top", str(folder))
    assert (said.code, "cfg.json is there already, with other bytes" in said.err) == (2, True)
    assert not (folder / "notes.txt").exists()


@pytest.mark.slow
def test_a_push_that_is_killed_is_ended_by_the_next_one_and_no_file_holds_the_token(made: Path, tmp_path: Path) -> None:
    """The command in a process of its own, which knows the hub by HF_ENDPOINT as a user's would."""
    with start_hub() as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-m", "lmsae.cli", "push", "all", "me/mine"]
        hub.errors += [("PUT /large/", 503, {})] * 1000  # the client waits, and asks again
        begun = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 120
        while not hub.count("PUT /large/") and time.monotonic() < deadline:
            time.sleep(0.05)
        begun.send_signal(signal.SIGKILL)
        out, err = begun.communicate()
        hub.errors.clear()
        assert [*hub.repositories["me/mine"].files] == [".gitattributes"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert len(hub.repositories["me/mine"].files) == 50
        assert TOKEN not in out.decode() + err.decode() + done.stdout + done.stderr
        assert not any(TOKEN.encode() in content for content in hub.repositories["me/mine"].files.values())
    files = [path for path in made.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in path.read_bytes() for path in files)


def test_only_large_files_are_sent_apart(hub: Hub, here: Path, lmsae: Lmsae) -> None:
    assert lmsae("push", "top", "me/mine").code == 0
    files = hub.repositories["me/mine"].files
    large = {hashlib.sha256(content).hexdigest() for path, content in files.items() if re.search("safetensors$", path)}
    assert {*hub.arrived} == large
