"""`tacit predict`: ask a running service for predictions about the rows of a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

import click
from pydantic import BaseModel, ValidationError

from tacit.models.errors import InputError
from tacit.printing import Format, cell, format_option, print_json, print_table
from tacit.server.cli.inputs import ModelInput, read_records

if TYPE_CHECKING:
    import httpx

_KEY_VARIABLE = "TACIT_API_KEY"
_TIMEOUT_SECONDS = 60.0
# Well below what a service takes by default in one request.
_REQUEST_ROWS = 1000
_REQUEST_BYTES = 4 * 2**20


Parsed = TypeVar("Parsed", bound=BaseModel)


class _TensorMetadata(BaseModel):
    name: str
    datatype: str
    shape: list[int]


class _Metadata(BaseModel):
    inputs: list[_TensorMetadata]


class _Class(BaseModel):
    label: str
    score: float
    scores: dict[str, float]


class _Value(BaseModel):
    value: float


class _Answer(BaseModel):
    model: str
    version: int
    predictions: list[_Class] | list[_Value]


@click.command()
@click.option("--url", required=True, help="The service, for example http://127.0.0.1:8100.")
@click.option("--model", required=True, help="The model's name.")
@click.option(
    "--input",
    "paths",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="A .csv, .json, .npy, .npz or .png file; can be given several times.",
)
@click.option("--version", help="A version or an alias; without it the champion, else the latest version.")
@format_option
def predict(url: str, model: str, paths: Sequence[Path], version: str | None, output: Format) -> None:
    """Predict the rows of a file with a model of a running service.

    A CSV file names the columns in its first line; an empty cell is a missing value. The API key, if the service asks
    for one, is read from the environment variable TACIT_API_KEY.

    Example: tacit predict --url http://127.0.0.1:8100 --model adult --input people.csv
    """
    address = _checked_url(url)
    with _Service(address, model, version) as service:
        inputs = service.inputs()
        records = [record for path in paths for record in read_records(path, inputs)]
        answers = [service.predict(body) for body in _bodies(records)]
    predictions = [prediction for answer in answers for prediction in answer.predictions]
    if output == "json":
        shown = [prediction.model_dump() for prediction in predictions]
        print_json({"model": answers[0].model, "version": answers[0].version, "predictions": shown})
    elif isinstance(predictions[0], _Value):
        print_table(
            ("row", "value"), [(row, one.value) for row, one in enumerate(predictions) if isinstance(one, _Value)]
        )
    else:
        rows = [(row, one.label, one.score) for row, one in enumerate(predictions) if isinstance(one, _Class)]
        print_table(("row", "label", "score"), rows)


class _Service:
    """A connection to one model of a service; after the first answer all others come from the same version."""

    def __init__(self, url: str, model: str, version: str | None) -> None:
        import httpx

        key = os.environ.get(_KEY_VARIABLE, "").strip()
        if not key.isascii() or not key.isprintable():
            raise InputError("is no API key", where=f"environment variable {_KEY_VARIABLE}")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT_SECONDS)
        self._url = url
        self._model = quote(model, safe="")
        self._version = version

    def __enter__(self) -> _Service:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def inputs(self) -> list[ModelInput]:
        """Return the model's inputs."""
        metadata = self._parsed(_Metadata, self._ask("GET", f"/v2/models/{self._selected()}"))
        return [ModelInput(one.name, one.datatype, tuple(one.shape[1:])) for one in metadata.inputs]

    def predict(self, body: str) -> _Answer:
        """Return the predictions for one request body."""
        path = f"/api/v1/models/{self._selected()}/predict"
        answer = self._parsed(_Answer, self._ask("POST", path, body))
        self._version = str(answer.version)
        return answer

    def _selected(self) -> str:
        return self._model if self._version is None else f"{self._model}/versions/{quote(self._version, safe='')}"

    def _ask(self, method: str, path: str, body: str | None = None) -> httpx.Response:
        import httpx

        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            response = self._client.request(method, path, content=body, headers=headers)
        except httpx.TimeoutException:
            raise click.ClickException(f"{self._url} did not answer within {_TIMEOUT_SECONDS:g} seconds") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise click.ClickException(f"{self._url} cannot be reached ({cell(str(error))})") from None
        if response.status_code == 200:
            return response
        problem = _problem(response)
        match response.status_code:
            case 401:
                raise InputError(problem, where=self._url, right=f"a valid key in {_KEY_VARIABLE}")
            case 400 | 403 | 404 | 413 | 415 | 422:
                raise InputError(problem, where=self._url)
        raise click.ClickException(f"{self._url}: {problem} (status {response.status_code})")

    def _parsed(self, kind: type[Parsed], response: httpx.Response) -> Parsed:
        try:
            return kind.model_validate_json(response.content)
        except ValidationError:
            raise click.ClickException(f"{self._url}: the answer is not that of a Tacit service") from None


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise InputError("is no address", where="--url", right="http://HOST:PORT or https://HOST") from None
    if parts.scheme not in ("http", "https") or not host or port == 0 or parts.query or parts.fragment:
        raise InputError("is no address of a service", where="--url", right="http://HOST:PORT or https://HOST")
    if parts.username is not None or parts.password is not None:
        raise InputError("holds a password", where="--url", right=f"put the API key into {_KEY_VARIABLE}")
    if parts.scheme == "http" and not _is_loopback(host):
        click.echo("warning: over http, the key and the rows travel in the clear", err=True)
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bodies(records: Sequence[Any]) -> Iterator[str]:
    """Pack rows into request bodies of a size that services take."""
    packed: list[str] = []
    size = 0
    for record in records:
        text = json.dumps(record, allow_nan=False)
        if packed and (len(packed) == _REQUEST_ROWS or size + len(text) > _REQUEST_BYTES):
            yield f'{{"inputs": [{", ".join(packed)}]}}'
            packed, size = [], 0
        packed.append(text)
        size += len(text)
    yield f'{{"inputs": [{", ".join(packed)}]}}'


def _problem(response: httpx.Response) -> str:
    """Return what a service says is wrong, on one line and without control characters."""
    try:
        body = response.json()
        text = body.get("detail") or body.get("error")
    except (ValueError, AttributeError):
        text = None
    return cell(text)[:500] if isinstance(text, str) else "the service refuses without saying why"
