"""An agent's settings: explained where they stand, and refused where they cannot be."""

import pytest

from tacit.client.proxy import read_proxy
from tacit.client.settings import Settings, default_settings_toml, parse_settings
from tacit.models.errors import InputError


def test_the_default_file_explains_every_key_and_says_what_the_defaults_say() -> None:
    text = default_settings_toml("ward-7")
    assert parse_settings(text, where="settings.toml") == Settings(name="ward-7")
    for key, field in Settings.model_fields.items():
        comment, _, _ = text.partition(f"\n{key} = ")
        said = comment.rpartition("\n\n")[2].replace("\n# ", " ")
        assert said == f"# {field.description}"
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("name = ''", "'name' is not usable; a name has 1 to 64 ASCII letters"),
        ("device = 'gpu'", "'device' is not usable"),
        ("device = 'cuda:x'", "'device' is not usable"),
        ("threads = -1", "'threads' is not usable; input should be greater than or equal to 0"),
        ("threads = '2'", "'threads' is not usable; input should be a valid integer"),
        ("treads = 2", "unknown key 'treads'; the nearest is 'threads'"),
        ("proxy = 'proxy.example'", "'proxy' is not usable; write http://HOST:PORT"),
        ("proxy = 'https://proxy.example:1'", "'proxy' is not usable"),
        ("proxy = 'http://proxy.example:x'", "'proxy' is not usable"),
        ("proxy = 'http://me:pass@proxy.example:1'", "'proxy' is not usable"),
        ("proxy = 'http://proxy.example:3128/path'", "'proxy' is not usable"),
        ("threads =", "is not valid TOML"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(line: str, why: str) -> None:
    text = line if line.startswith("name") else f"name = 'a'\n{line}"
    with pytest.raises(InputError) as caught:
        parse_settings(text, where="settings.toml")
    assert str(caught.value).startswith("settings.toml: ") and why in str(caught.value)
    assert "pass" not in str(caught.value)


def test_a_proxy_is_a_host_and_a_port() -> None:
    proxied = parse_settings("name = 'a'\nproxy = 'http://proxy.example:3128/'", where="x")
    assert read_proxy(proxied.proxy) == ("proxy.example", 3128)
    assert Settings(name="a").proxy == "" and Settings(name="a", proxy="none").proxy == "none"


def test_an_owner_who_names_a_device_is_obeyed_and_one_who_does_not_leaves_it_to_the_recipe() -> None:
    assert Settings(name="a").own_device is None
    assert Settings(name="a", device="cpu").own_device == "cpu"
