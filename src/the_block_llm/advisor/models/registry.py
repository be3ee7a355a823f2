"""Which model answers: a profile, with one of its adapters or without."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from the_block_llm.advisor.params import AdvisorParams
from the_block_llm.errors import AdapterError, ProfileError, RoleError
from the_block_llm.models.adapter.manifest import list_adapters, open_adapter
from the_block_llm.models.profiles import ModelProfile, ModelProfiles, resolve_profile

Role = Literal["advisor", "completion"]
BASE: Final = "base"
_DOES: Final[dict[Role, str]] = {"advisor": "answer questions", "completion": "complete code"}


@dataclass(frozen=True)
class Choice:
    """A model that can be asked."""

    profile: ModelProfile
    adapter: Path | None
    """A complete adapter folder; none: the base model."""

    @property
    def name(self) -> str:
        """As the HTTP interface and the answers call it: ``profile@version`` or ``profile@base``.

        It says which adapter answered, also where the newest was asked for.
        """
        return f"{self.profile.name}@{self.adapter.name if self.adapter else BASE}"


class Choices:
    """The models that the parameters offer: the chosen one, and the one that completes code."""

    def __init__(self, parameters: Mapping[str, Any], params: AdvisorParams) -> None:
        profiles = ModelProfiles.model_validate(parameters["models"])
        self._params = params
        self._all = profiles
        self._offered = {
            profile.name: profile
            for model in (parameters["model"], params.completion_model)
            for profile in [resolve_profile(profiles, model)]
        }

    def choose(self, role: Role, model: str | None = None, adapter: str | None = None) -> Choice:
        """Find a model that can do ``role``.

        Args:
            role: What it is to do.
            model: A profile, or ``profile@version`` or ``profile@base``; by default the one
                that the parameters choose for the role.
            adapter: A version, or ``base``; by default the pinned one, else the newest.

        Raises:
            RoleError: The model cannot do it; the message names one that can.
            ProfileError: There is no such profile.
            AdapterError: There is no such adapter, or none at all.
        """
        name, _, version = (model or "").partition("@")
        profile = self._profile(name, role)
        if profile.role != role:
            able = self._able(role)
            raise RoleError(
                f"{profile.name} is there to {_DOES[profile.role]} and cannot {_DOES[role]}. "
                + (f"Ask {' or '.join(able)} instead." if able else _how_to_offer(role))
            )
        return Choice(profile, self._adapter(profile, adapter or version or None))

    def listed(self) -> list[Choice]:
        """Everything that can be asked by name: adapters, the newest first, then the base."""
        found = []
        for profile in self._offered.values():
            folders = list_adapters(self._params.adapters_folder / profile.name)
            found += [Choice(profile, folder.path) for folder in reversed(folders)]
            found.append(Choice(profile, None))
        return found

    def _able(self, role: Role) -> list[str]:
        return [profile.name for profile in self._offered.values() if profile.role == role]

    def _profile(self, name: str, role: Role) -> ModelProfile:
        if not name:
            able = self._able(role)
            if not able:
                offered = ", ".join(self._offered)
                raise RoleError(f"None of {offered} can {_DOES[role]}. {_how_to_offer(role)}")
            name = able[0]
        if name in self._offered:
            return self._offered[name]
        return resolve_profile(self._all, name)

    def _adapter(self, profile: ModelProfile, version: str | None) -> Path | None:
        if version == BASE:
            return None
        folder = self._params.adapters_folder / profile.name
        known = {adapter.path.name: adapter.path for adapter in list_adapters(folder)}
        wanted = version or self._params.adapters.get(profile.name)
        if wanted is None:
            if not known:
                raise AdapterError(
                    f"There is no trained adapter of {profile.name} in {folder}. Train one with "
                    f"`kedro run --params=model={profile.name}`, or ask the base model: "
                    f"{profile.name}@{BASE}, on the command line --base."
                )
            return list(known.values())[-1]
        if wanted not in known:
            there = ", ".join(known) or "none"
            raise AdapterError(
                f"There is no adapter {wanted!r} of {profile.name} in {folder}. There: {there}."
            )
        return open_adapter(known[wanted]).path


def check_model_name(name: str) -> str:
    """``name``, where it can be a profile's and no path.

    A client of the server chooses among what the configuration offers; a path would let it
    look for folders on this machine.

    Raises:
        ProfileError: It holds anything else.
    """
    if not name or any(c in name for c in "/\\~") or name.startswith(".") or not name.isprintable():
        raise ProfileError(f"There is no model {name[:100]!r}. /v1/models lists those there are.")
    return name


def _how_to_offer(role: Role) -> str:
    if role == "completion":
        return "Set advisor.completion_model to a profile with the role completion."
    return "Set model to a profile with the role advisor, such as smollm2-135m."
