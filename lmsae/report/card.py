"""The model card of a repository on the hub: what its dictionaries are, what was measured, and how to load them."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from lmsae.artifacts.parcel import Parcel
from lmsae.report.main_metrics import MAIN_METRICS
from lmsae.runtime.numbers import format_count, format_share

BEGIN, END = "<!-- lmsae -->", "<!-- /lmsae -->"
"""The ends of the part of a card that lmsae writes. What stands outside of them is the owner's, and is kept."""
_BETWEEN = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
_FRONT = re.compile(r"\A---\r?\n(.*?)^---\r?\n?", re.DOTALL | re.MULTILINE)
_COMMIT = re.compile(r"[0-9a-f]{40}")
TAGS = ("sparse-autoencoder", "mechanistic-interpretability", "lmsae")


def write_card(
    parcels: Sequence[Parcel],
    repository: str,
    *,
    revision: str | None = None,
    license: str | None = None,
    old: str = "",
) -> str:
    """The text of README.md for a repository with such dictionaries; the same text for the same parcels.

    `old` is the card that stands there. Its own words and those fields of its front matter that lmsae does not know
    stay, its license too unless another is given.
    """
    front, body = _divide(old)
    ours = "\n".join([BEGIN, *_sections(parcels, repository, revision), END])
    if _BETWEEN.search(body):
        body = _BETWEEN.sub(lambda _: ours, body, count=1)
    else:
        body = "\n\n".join(part for part in (body.strip() or f"# {repository.partition('/')[2]}", ours) if part) + "\n"
    fields = {**front, **_front_matter(parcels, front), **({"license": license} if license else {})}
    return f"---\n{yaml.safe_dump(fields, sort_keys=True, allow_unicode=True)}---\n\n{body.lstrip()}"


def _divide(card: str) -> tuple[dict[str, Any], str]:
    """The fields of a card's front matter, and its text. A front matter that is none is text."""
    if match := _FRONT.match(card):
        try:
            fields = yaml.safe_load(match[1])
        except yaml.YAMLError:
            fields = None
        if isinstance(fields, dict):
            return {str(name): value for name, value in fields.items()}, card[match.end() :]
    return {}, card


def _front_matter(parcels: Sequence[Parcel], there: Mapping[str, Any]) -> dict[str, Any]:
    in_saelens = any(parcel.in_saelens for parcel in parcels)
    configs = [spec.config for parcel in parcels for spec in parcel.specs.values()]
    kept = there.get("tags") if isinstance(there.get("tags"), list) else []
    tags = [*map(str, kept or ()), *TAGS, *(["saelens"] if in_saelens else [])]
    fields: dict[str, Any] = {
        "library_name": "saelens" if in_saelens else "lmsae",
        "tags": list(dict.fromkeys(tags)),
        "base_model": _names_on_hub(configs, "source"),
        "datasets": _names_on_hub(configs, "dataset"),
    }
    return {name: value for name, value in fields.items() if value}


def _names_on_hub(configs: Sequence[Any], role: str) -> list[str]:
    """The names of the sources of a role, `source` of models or `dataset`, that are repositories of the hub: those that
    are pinned to a commit."""
    return list(dict.fromkeys(one["name"] for one in _sources(configs, role) if _is_commit(one.get("revision"))))


def _sources(value: Any, role: str, is_inside: bool = False) -> Iterator[Mapping[str, Any]]:
    """Every named thing below a field that is called by its role, in the order of the configs."""
    if isinstance(value, Mapping):
        if is_inside and isinstance(value.get("name"), str) and "sources" not in value:
            yield value
        for name, inner in value.items():
            yield from _sources(inner, role, is_inside or name == role)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            yield from _sources(inner, role, is_inside)


def _is_commit(revision: object) -> bool:
    return isinstance(revision, str) and _COMMIT.fullmatch(revision) is not None


def _sections(parcels: Sequence[Parcel], repository: str, revision: str | None) -> Iterator[str]:
    yield "Dictionaries of language-model activations, trained, evaluated and uploaded with lmsae.\n"
    yield from _table(parcels)
    yield from _loading(parcels, repository, revision)
    yield "\n## Evaluation\n"
    yield (
        "Measured on held-out text that training never saw. L0 is the number of active latents a token. A CE score of "
        "1 means that the model loses nothing when the reconstruction takes the place of the activation, and 0 that it "
        "loses as much as with the mean activation, or with zero. All metrics stand in `FOLDER/eval/metrics.json`, "
        "firing rates of latents in `FOLDER/eval/latents.safetensors`.\n"
    )
    yield from _training(parcels)
    yield from _provenance(parcels)


def _table(parcels: Sequence[Parcel]) -> Iterator[str]:
    present = [one for one in MAIN_METRICS if any(one.name in parcel.metrics for parcel in parcels)]
    heads = ["folder", "hook point", "architecture", "latents", *(one.heading for one in present), "SAELens"]
    yield _line(heads)
    yield _line(["---"] * len(heads))
    for parcel in parcels:
        read, written = " ".join(parcel.reads), " ".join(parcel.writes)
        parts = _parts(parcel)
        values = [_number(parcel.metrics.get(one.name), one.is_share) for one in present]
        place = _code(read) if read == written else f"{_code(read)} → {_code(written)}"
        link = f" ([Neuronpedia](https://www.neuronpedia.org/{parcel.neuronpedia_id}))" if parcel.neuronpedia_id else ""
        opens = "yes" if parcel.in_saelens else "no"
        yield _line([f"{_code(parcel.name)}{link}", place, parts[0], parts[1], *values, opens])


def _parts(parcel: Parcel) -> tuple[str, str]:
    """The kinds of a dictionary's parts, and the number of its latents."""
    config = parcel.specs[parcel.dictionary].config.get("dictionary", {})
    kinds = [config.get(part, {}).get("kind", "?") for part in ("geometry", "act_fn")]
    return f"{kinds[0]}, {kinds[1]}", format_count(config["d_sae"], 6) if "d_sae" in config else "?"


def _number(value: object, is_share: bool) -> str:
    if not isinstance(value, int | float):
        return ""
    return format_share(value) if is_share else f"{value:.4g}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _code(text: str) -> str:
    return f"`{text.replace('`', '')}`" if text else ""


def _loading(parcels: Sequence[Parcel], repository: str, revision: str | None) -> Iterator[str]:
    at = f"@{revision}" if revision else ""
    yield "\n## Load\n"
    if chosen := [parcel.name for parcel in parcels if parcel.in_saelens]:
        yield "In SAELens:\n\n```python\nfrom sae_lens import SAE\n"
        yield f'sae = SAE.from_pretrained("{repository}", "{chosen[0]}")\n```\n'
        if at:
            yield f"SAELens reads the main branch. Of {_code(revision or '')}, fetch the folder and call "
            yield "`SAE.load_from_disk(FOLDER)`.\n"
    name, read, written = parcels[0].name, " ".join(parcels[0].reads), " ".join(parcels[0].writes)
    columns = ["hook_point"] if read == written else ["hook_point_in", "hook_point_out"]
    places = "\t".join([read] if read == written else [read, written])
    yield "In lmsae, as a row of a sweep that is evaluated with your own (`init.from` trains it further):\n"
    heads = "\t".join(["name", "sae.from", *(f"sae.{column}" for column in columns)])
    yield f"```tsv\n{heads}\n{name}\t{repository}{at}:{name}\t{places}\n```\n"
    yield f"or in Python, after `lmsae pull {repository}{at}:{name} {name}`:\n"
    yield "```python\nfrom lmsae.dictionary.dictionary import Dictionary\n"
    yield f'dictionary = Dictionary.load("{name}")\n```'


def _training(parcels: Sequence[Parcel]) -> Iterator[str]:
    """The settings of the dictionaries: those that all share once, and of each the others."""
    settings = {parcel.name: _flatten(parcel.specs[parcel.dictionary].config) for parcel in parcels}
    first, *others = settings.values()
    shared = {name: value for name, value in first.items() if all(_has(one, name, value) for one in others)}
    yield "\n## Training\n"
    models, texts = ([one for parcel in parcels for one in _of(parcel, role)] for role in ("source", "dataset"))
    yield f"Models: {', '.join(dict.fromkeys(map(_code, models))) or 'not known'}. "
    yield f"Text: {', '.join(dict.fromkeys(map(_code, texts))) or 'not known'}.\n"
    yield _details("Settings of all" if others else "Settings", shared)
    for name, own in settings.items():
        if different := {key: value for key, value in own.items() if key not in shared}:
            yield _details(f"Settings of {name}", different)


def _of(parcel: Parcel, role: str) -> list[str]:
    found = _sources([spec.config for spec in parcel.specs.values()], role)
    return [f"{one['name']}@{one['revision']}" if one.get("revision") else one["name"] for one in found]


def _flatten(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """The values of a config by dotted names; those that are empty are left out."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{before}{name}.")
        elif value not in (None, [], ()):
            flat[before + name] = value
    return flat


def _has(settings: Mapping[str, Any], name: str, value: object) -> bool:
    return name in settings and settings[name] == value


def _details(title: str, settings: Mapping[str, Any]) -> str:
    lines = "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in settings.items())
    return f"<details><summary>{title}</summary>\n\n```yaml\n{lines}\n```\n\n</details>\n"


def _provenance(parcels: Sequence[Parcel]) -> Iterator[str]:
    yield "\n## Provenance\n"
    yield (
        "A dictionary is named by the hash of all that determined it. `FOLDER/lmsae.json` holds the configs of all "
        "stages behind it, and a digest of each file. `lmsae pull --restore` puts it back among the artifacts.\n"
    )
    yield _line(["folder", "artifact", "finished", "lmsae", "device"])
    yield _line(["---"] * 5)
    for parcel in parcels:
        for reference, sent in parcel.sent.items():
            told = {name: str(sent.provenance.get(name) or "") for name in ("finished", "lmsae", "commit", "device")}
            version = " ".join(filter(None, (told["lmsae"], told["commit"] and f"({told['commit']})")))
            yield _line([_code(parcel.name), _code(reference), told["finished"], version, told["device"]])
