"""How an agent works on its owner's machine: what only the owner decides, and no coordinator hears of."""

from __future__ import annotations

import json
import textwrap
import tomllib

from pydantic import Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from tacit.client.proxy import DIRECT, read_proxy
from tacit.models.errors import InputError
from tacit.models.sections import Section
from tacit.models.spelling import suggestion
from tacit.privacy.identity import check_name


class Settings(Section):
    """The settings of one agent."""

    name: str = Field(description="The agent's name, as the federation will know it.")
    device: str = Field(
        default="recipe",
        pattern=r"^(recipe|auto|cpu|mps|cuda(:\d+)?)$",
        description="Where it trains: recipe is where the recipe says; auto, cpu, mps, cuda or cuda:1 come before it.",
    )
    threads: int = Field(
        default=0, ge=0, le=1024, description="Threads that training may use; 0 for as many as there are."
    )
    nice: int = Field(
        default=0,
        ge=0,
        le=19,
        description="How far it steps back behind other programs, for the processor and the disk; 19 most.",
    )
    memory_mb: int = Field(
        default=0,
        ge=0,
        le=1 << 24,
        description="Megabytes that the whole process may have in memory: a round without room for its model is "
        "refused before it begins, and training that passes the limit is abandoned; 0 for any amount.",
    )
    round_seconds: int = Field(
        default=0,
        ge=0,
        le=1 << 24,
        description="Seconds that the work of a round may take; what takes longer is abandoned, and nothing of it "
        "leaves; 0 for any time.",
    )
    proxy: str = Field(
        default="",
        description="The HTTPS proxy that leads to the coordinator, as in http://proxy.example:3128; none for a direct "
        "way; empty for what the environment's HTTPS_PROXY and NO_PROXY say.",
    )
    organisation_key: str = Field(
        default="",
        description="The file of the organisation's key, so that certificates renew by themselves; empty for a member "
        "of its own, or where the organisation keeps its key elsewhere.",
    )

    @field_validator("name")
    @classmethod
    def _usable_name(cls, name: str) -> str:
        try:
            check_name(name)
        except ValueError as error:
            raise PydanticCustomError("name", "{why}", {"why": str(error)}) from None
        return name

    @field_validator("proxy")
    @classmethod
    def _usable_proxy(cls, proxy: str) -> str:
        if proxy not in ("", DIRECT) and read_proxy(proxy) is None:
            raise PydanticCustomError("proxy", "write http://HOST:PORT, or none")
        return proxy

    @property
    def uses(self) -> str:
        """Return in one line what it may use of the machine."""
        said = [
            "the device of the recipe" if self.device == "recipe" else f"device {self.device}",
            f"{self.threads} threads" if self.threads else "as many threads as there are",
            f"nice {self.nice}",
            f"{self.memory_mb} MB of memory" if self.memory_mb else "any amount of memory",
            f"{self.round_seconds} s a round" if self.round_seconds else "any time in a round",
        ]
        return ", ".join(said)

    @property
    def own_device(self) -> str | None:
        """Return the device that the owner has chosen, as `Workbench` takes it; None for the recipe's."""
        return None if self.device == "recipe" else self.device


def parse_settings(text: str, *, where: str) -> Settings:
    """Read settings from TOML text.

    Raises:
        InputError: it is no TOML, or says something that settings cannot say.
    """
    try:
        return Settings.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"is not valid TOML: {error}", where=where) from None
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ".".join(map(str, problem["loc"]))[:64]
        if problem["type"] == "extra_forbidden":
            right = suggestion(key, Settings.model_fields)
            raise InputError(f"unknown key {key!r}", where=where, right=right) from None
        message = problem["msg"][:1].lower() + problem["msg"][1:]
        raise InputError(f"{key!r} is not usable", where=where, right=message) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or as many brackets
        raise InputError(f"is not usable TOML ({type(error).__name__})", where=where) from None


def default_settings_toml(name: str) -> str:
    """Return a file that says what every setting means."""
    lines = ["# How this agent works on this machine. No coordinator sees any of it but the name."]
    for key, field in Settings.model_fields.items():
        value = name if key == "name" else field.get_default()
        comment = textwrap.wrap(field.description or "", 100, initial_indent="# ", subsequent_indent="# ")
        lines += ["", *comment, f"{key} = {json.dumps(value)}"]
    return "\n".join(lines) + "\n"
