"""Registry of the models that can be used: each profile with its adapters and its base."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from the_block_llm.advisor.params import AdvisorParams
from the_block_llm.errors import AdapterError, ProfileError, RoleError
from the_block_llm.models.adapter.manifest import list_adapters, newest_adapter, open_adapter
from the_block_llm.models.profiles import ModelProfile, ModelProfiles, resolve_profile

Role = Literal["advisor", "completion"]
BASE: Final = "base"
_TASKS: Final[dict[Role, str]] = {"advisor": "answer questions", "completion": "complete code"}


@dataclass(frozen=True)
class ModelVersion:
    """A profile with one of its adapters, or its base model."""

    profile: ModelProfile
    adapter: Path | None
    """Folder of a complete adapter; None for the base model."""

    @property
    def name(self) -> str:
        """The name in answers and over HTTP: ``profile@version`` or ``profile@base``.

        It always contains the version, also if the newest adapter was requested implicitly.
        """
        return f"{self.profile.name}@{self.adapter.name if self.adapter else BASE}"


class ModelRegistry:
    """The configured profiles: ``model`` and ``advisor.completion_model``."""

    def __init__(self, parameters: Mapping[str, Any], params: AdvisorParams) -> None:
        self._params = params
        self._profiles = ModelProfiles.model_validate(parameters["models"])
        self._configured = {
            profile.name: profile
            for model in (parameters["model"], params.completion_model)
            for profile in [resolve_profile(self._profiles, model)]
        }

    def resolve(
        self, role: Role, model: str | None = None, adapter: str | None = None
    ) -> ModelVersion:
        """Return the model version for ``role``.

        Args:
            role: Required role of the profile.
            model: A profile, ``profile@version`` or ``profile@base``; by default the configured
                profile with this role.
            adapter: A version, or ``base``; by default the pinned version, else the newest.

        Raises:
            RoleError: The model has another role; the message names a model with this one.
            ProfileError: The profile does not exist.
            AdapterError: The adapter does not exist, or the profile has none.
        """
        name, version = self._split(model or "")
        profile = self._resolve_profile(name, role)
        if profile.role != role:
            candidates = self._profiles_with_role(role)
            raise RoleError(
                f"{profile.name} can {_TASKS[profile.role]} but cannot {_TASKS[role]}. "
                + (f"Use {' or '.join(candidates)} instead." if candidates else _role_remedy(role))
            )
        return ModelVersion(profile, self._resolve_adapter(profile, adapter or version or None))

    def find(self, name: str) -> ModelVersion:
        """Return the version that a name of :meth:`list_models`, or of a profile, selects.

        Raises:
            ProfileError: No configured model has that name.
            AdapterError: The profile has no adapter.
        """
        for version in self.list_models():
            if version.name == name:
                return version
        if name not in self._configured:
            raise _unknown_model(name)
        return self.resolve(self._configured[name].role, name)

    def list_models(self) -> list[ModelVersion]:
        """Return all versions of each configured profile: adapters, newest first, then the base."""
        versions = []
        for profile in self._configured.values():
            adapters = list_adapters(self._params.adapters_folder / profile.name)
            versions += [ModelVersion(profile, adapter.path) for adapter in reversed(adapters)]
            versions.append(ModelVersion(profile, None))
        return versions

    def _split(self, model: str) -> tuple[str, str]:
        """Split ``profile@version``; a profile named after its folder may contain an @."""
        if model in self._configured or "@" not in model:
            return model, ""
        name, _, version = model.rpartition("@")
        return name, version

    def _profiles_with_role(self, role: Role) -> list[str]:
        return [profile.name for profile in self._configured.values() if profile.role == role]

    def _resolve_profile(self, name: str, role: Role) -> ModelProfile:
        if not name:
            candidates = self._profiles_with_role(role)
            if not candidates:
                configured = ", ".join(self._configured)
                raise RoleError(f"None of {configured} can {_TASKS[role]}. {_role_remedy(role)}")
            name = candidates[0]
        if name in self._configured:
            return self._configured[name]
        return resolve_profile(self._profiles, name)

    def _resolve_adapter(self, profile: ModelProfile, version: str | None) -> Path | None:
        if version == BASE:
            return None
        folder = self._params.adapters_folder / profile.name
        requested = version or self._params.adapters.get(profile.name)
        if requested is None:
            newest = newest_adapter(folder)
            if newest is None:
                raise AdapterError(
                    f"There is no trained adapter of {profile.name} in {folder}. Train one with "
                    f"`kedro run --params=model={profile.name}`, or use the base model: "
                    f"{profile.name}@{BASE}, on the command line --base."
                )
            return newest.path
        adapters = {adapter.path.name: adapter.path for adapter in list_adapters(folder)}
        if requested not in adapters:
            available = ", ".join(adapters) or "none"
            raise AdapterError(
                f"There is no adapter {requested!r} of {profile.name} in {folder}. "
                f"Available: {available}."
            )
        return open_adapter(adapters[requested]).path


def check_model(
    parameters: Mapping[str, Any], model: str | None = None, adapter: str | None = None
) -> None:
    """Check the advisor model that a command names, before torch is imported.

    Args:
        parameters: All parameters of the project.
        model: A profile, ``profile@version`` or ``profile@base``; None: the configured one.
        adapter: A version, or ``base``.

    Raises:
        BlockError: As :meth:`ModelRegistry.resolve`; or the Hub cannot be reached.
    """
    registry = ModelRegistry(parameters, AdvisorParams.model_validate(parameters["advisor"]))
    profile = registry.resolve("advisor", model, adapter).profile
    if profile.hub_id is not None:
        # Imported here, since other profiles do not need the library.
        from the_block_llm.models.base.hub import check_hub  # noqa: PLC0415

        check_hub(profile)


def check_model_name(name: str) -> str:
    """Return ``name`` if it cannot be a path.

    An HTTP client may select among the configured models; a path would let it probe for folders
    of the server.

    Raises:
        ProfileError: The name is empty or contains characters of a path.
    """
    if not name or any(c in name for c in "/\\~") or name.startswith(".") or not name.isprintable():
        raise _unknown_model(name)
    return name


def _unknown_model(name: str) -> ProfileError:
    return ProfileError(
        f"There is no model {name[:100]!r}. GET /v1/models lists the available ones."
    )


def _role_remedy(role: Role) -> str:
    if role == "completion":
        return "Set advisor.completion_model to a profile with the role completion."
    return "Set model to a profile with the role advisor, such as smollm2-135m."
