"""Decoder priors in files: saved, shipped with the package, loaded by the format that they name."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from topoprior.priors.base import WeightPrior
from topoprior.priors.decoded.decoder import KernelDecoder
from topoprior.priors.hub import OnHub, find_folder
from topoprior.priors.registry import register_format
from topoprior.utils import files
from topoprior.utils.files import CheckpointError
from topoprior.utils.version import __version__

if TYPE_CHECKING:
    from typing_extensions import Self

_OPTIONS = (
    "gain",
    "mean_fraction",
    "init_scale",
    "init_latent_scale",
    "residual_fraction",
    "empirical_bayes",
)
_LARGEST_NUMBER = 1e6  # that an option in a file may have
_LONGEST_TEXT = 1000
_PRETRAINED = Path(str(resources.files("topoprior.priors"))) / "pretrained"


class SavedPrior(OnHub, WeightPrior):
    """A prior that is a decoder and a few options, as a folder of config.json and model.safetensors.

    A subclass has these options as attributes, and its constructor takes a decoder and the options.
    """

    decoder: KernelDecoder
    #: Which decoders it is of: what `from_pretrained` takes.
    decoder_type: ClassVar[type] = KernelDecoder
    #: What a checkpoint says of where it is from: `data`, `licence`, `authors`, `date` and `version` (of this package).
    about: Mapping[str, str] = {}

    def __init__(self, decoder: KernelDecoder, **options: Any) -> None:
        raise NotImplementedError

    def _options(self) -> dict[str, Any]:
        return {option: getattr(self, option) for option in _OPTIONS}

    def save_pretrained(
        self,
        folder: Path | str,
        *,
        data: str | None = None,
        licence: str | None = None,
        authors: str | None = None,
    ) -> None:
        """Write config.json and model.safetensors to ``folder``, atomically.

        Args:
            data: what the decoder was trained on, a sentence; default what :attr:`about` says, of a prior that was loaded.
            licence: of its numbers, such as "apache-2.0"; default the same.
            authors: of them; default the same.

        The day and the version of this package are written too; a day that is known stays.
        """
        given = {"data": data, "licence": licence, "authors": authors}
        said = {name: _text(name, value) for name, value in given.items() if value is not None}
        today = datetime.date.today().isoformat()
        about = {"date": today, **self.about, **said, "version": __version__}
        absent, options = self.decoder.left_out, self._options().items()
        chosen = {name: value for name, value in options if name not in absent or absent[name] != value}
        config = {"format": self.decoder.format, **self.decoder.to_config(), **chosen}
        files.save(folder, {**config, "about": about}, self.decoder.tensors())

    @classmethod
    @files.on_cpu
    def from_pretrained(
        cls, name_or_folder: Path | str, *, revision: str | None = None, **options: Any
    ) -> Self:
        """A prior shipped with the package, by name, one saved in a folder, or one of a model hub.

        Args:
            name_or_folder: "klein-3x3", a folder with config.json and model.safetensors, or "user/name".
            revision: of the hub: a branch, a tag or a commit.
            options: override those that were saved: ``gain``, ``mean_fraction``, ``init_scale``,
                ``init_latent_scale``, ``residual_fraction``, ``empirical_bayes``.

        Raises:
            CheckpointError: unknown name, missing or damaged file, the format of another class.
            TypeError: an option that there is not.
            ValueError: an option out of its range.
        """
        files.check_options(options, _OPTIONS)
        shipped = {name: _PRETRAINED / name for name in pretrained_names()}
        folder = find_folder(name_or_folder, shipped, revision)
        formats = [name for name, (kind, _) in _DECODERS.items() if issubclass(kind, cls.decoder_type)]
        config, tensors = files.load(folder, *formats)
        decoder_type, of_format = _DECODERS[config["format"]]
        prior: type[Self] = of_format if issubclass(of_format, cls) else cls
        try:
            decoder, given = decoder_type.from_checkpoint(config, tensors), _given_options(config)
            saved, about = prior(decoder, **given), _given_about(config)
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            where = folder / files.CONFIG
            raise CheckpointError(f"{where}: does not describe a decoder prior ({error!r})") from None
        if options:  # apart from the above: what is wrong with them is no fault of the file
            saved = prior(decoder, **{**given, **options})
        saved.name, saved.about, saved._folder = str(name_or_folder), about, folder
        return saved


def _given_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a file holds; what is wrong with their types is said by the constructor."""
    given = {option: config[option] for option in _OPTIONS if option in config}
    if not isinstance(given.get("empirical_bayes", False), bool):
        raise TypeError(f"empirical_bayes: expected true or false, found {given['empirical_bayes']!r}")
    for name, value in given.items():
        if isinstance(value, int | float) and abs(value) > _LARGEST_NUMBER:
            raise ValueError(f"{name}: expected at most {_LARGEST_NUMBER:g}, found {value}")
    return given


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a str, found {type(value).__name__}")
    if len(value) > _LONGEST_TEXT:
        raise ValueError(f"{name}: expected at most {_LONGEST_TEXT} characters, found {len(value)}")
    return value


def _given_about(config: Mapping[str, Any]) -> dict[str, str]:
    about = config.get("about", {})
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise TypeError("about: expected strings by name")
    return about


_DECODERS: dict[str, tuple[type[KernelDecoder], type[SavedPrior]]] = {}


def register_decoder(kind: type[KernelDecoder], prior: type[SavedPrior]) -> None:
    """Make checkpoints of decoders of this class, by its ``format``, known to `from_pretrained` and `load_prior`."""
    if not kind.format:
        raise ValueError(f"kind: expected a class with a format, found {kind.__name__}")
    _DECODERS[kind.format] = kind, prior
    register_format(kind.format, prior.from_pretrained)


def pretrained_names() -> list[str]:
    """Decoder priors shipped with the package."""
    return sorted(p.parent.name for p in _PRETRAINED.glob(f"*/{files.CONFIG}"))
