"""The finder: the name of a finished dictionary in a row -> what it is at this moment, and where it lies."""

from pathlib import Path

from lmsae.artifacts.artifact import SPEC, Artifact, Artifacts, digest_of_file
from lmsae.artifacts.digests import DigestCache
from lmsae.errors import ArtifactError, FolderError
from lmsae.interop import located
from lmsae.interop.finished import FILES, Content, Description, Finished, Origin, Release, Repository, format_of
from lmsae.runtime.version import __version__
from lmsae.stages import DICTIONARIES
from lmsae.stages.sites import inputs_from


class Finder:
    """Finds dictionaries, and describes each content once."""

    def __init__(self, artifacts: Artifacts, digests: DigestCache) -> None:
        self._artifacts, self._digests = artifacts, digests

    def find(self, name: str) -> Finished:
        """The finished dictionary that a name means. Raises LmsaeError if there is none that lmsae can read."""
        folder = Path(name).expanduser()
        if folder.is_dir():
            return self._in_folder(name, folder)
        if located.KEY.fullmatch(name):
            return self._in_folder(name, self._artifact(name).path)
        if (place := located.parse(name)) is not None:
            return self._on_hub(name, place)
        raise FolderError(
            f"no dictionary {name!r}: there is no such folder (looked for {folder.absolute()}), and it has the form of "
            "no other place: owner/name@revision:folder on the hub, a KEY of an artifact, RELEASE:ID of SAELens' table"
        )

    def _artifact(self, name: str) -> Artifact:
        """The finished artifact with a dictionary that a key means."""
        keys = [name] if "/" in name else [f"{stage}/{name}" for stage in DICTIONARIES]
        found, errors = [], []
        for key in keys:
            try:
                found.append(self._artifacts.find(key))
            except ArtifactError as error:
                errors.append(error)
        if not found:
            raise FolderError(
                f"no dictionary {name!r}: there is no such folder, and no finished dictionary under "
                f"{self._artifacts.root} has a key that begins so (`lmsae plan` lists keys)"
            ) from errors[0]
        if len(found) > 1:
            raise FolderError(
                f"{name!r} begins several keys: {', '.join(one.reference for one in found)}; give more digits"
            )
        found[0].manifest()
        return found[0]

    def _in_folder(self, name: str, folder: Path) -> Finished:
        kind = format_of(folder)
        digest = located.digest_of(folder, kind, self._digest_file)
        described = self._describe(f"{digest} {folder.absolute()}", folder)
        origin = _origin_of_artifact(folder, self._artifacts) if kind == "lmsae" else described.origin
        content = Content(format=kind, digest=digest, dictionary=described.dictionary)
        return Finished(name, content, origin, folder)

    def _on_hub(self, name: str, place: located.OnHub) -> Finished:
        repository = Repository(name=place.name, commit=located.commit_of(place), folder=place.folder)
        if place.release is not None:
            return self._released(name, repository, place.release)
        folder = located.fetch(repository, located.CONFIGS)
        try:
            described = self._describe(repository.model_dump_json(), folder)
        except FolderError:  # its config does not have all sizes, and its weights are not there
            located.fetch(repository, FILES[format_of(folder)])
            described = self._describe(repository.model_dump_json(), folder)
        content = Content(format=described.format, repository=repository, dictionary=described.dictionary)
        return Finished(name, content, described.origin)

    def _released(self, name: str, repository: Repository, release: Release) -> Finished:
        def compute() -> str:
            from lmsae.interop.saelens.released import describe_release

            dictionary, origin = describe_release(release)
            return Description(format="saelens", dictionary=dictionary, origin=origin).model_dump_json()

        key = f"described by {__version__}: {release} {repository.model_dump_json()}"
        described = Description.model_validate_json(self._digests.look_up(key, compute))
        content = Content(format="saelens", repository=repository, release=release, dictionary=described.dictionary)
        return Finished(name, content, described.origin)

    def _describe(self, key: str, folder: Path) -> Description:
        """The description of what is in a folder. It takes torch, so it is remembered by the content."""

        def compute() -> str:
            from lmsae.interop.loading import describe

            return describe(folder).model_dump_json()

        return Description.model_validate_json(self._digests.look_up(f"described by {__version__}: {key}", compute))

    def _digest_file(self, path: Path) -> str:
        state = path.stat()
        key = f"blake3 {path.resolve()}:{state.st_size}:{state.st_mtime_ns}"
        return self._digests.look_up(key, lambda: digest_of_file(path))


def _origin_of_artifact(folder: Path, known: Artifacts) -> Origin:
    """The models and hook points of a dictionary in a folder of artifacts, by the specs that it was made from."""
    artifact = Artifact(folder)
    if not (folder / SPEC).is_file():
        return Origin()
    try:
        spec, artifacts = artifact.spec(), known.around(folder)
        captures = [artifacts[one].spec().config for one in inputs_from("activations", spec.inputs)]
    except ArtifactError:
        return Origin()
    if not captures:
        return Origin()
    models = tuple(dict.fromkeys(capture["model"]["source"]["name"] for capture in captures))
    reads, writes = (
        tuple(
            captures[n]["hook_point"]
            for n in spec.config["sites"][side]
            if captures[n]["model"]["source"]["name"] == models[0]
        )
        for side in ("reads", "writes")
    )
    return Origin(models=models, reads=reads, writes=writes)
