"""A `Schema` as JSON, checked strictly when it is read: it comes from files and from other machines."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from tacit.models.data.classes import MAX_CLASSES
from tacit.models.data.rows import Column, ColumnKind, Schema
from tacit.models.errors import InputError

MAX_COLUMNS = 100_000
MAX_IMAGE_VALUES = 1 << 26

Name = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class StrictModel(BaseModel):
    """Outside data: no unknown keys, no conversions, no infinities."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ColumnModel(StrictModel):
    """A column; only an image has a shape, of three positive sizes."""

    name: Name
    kind: ColumnKind
    shape: Annotated[list[Annotated[int, Field(ge=1, le=MAX_IMAGE_VALUES)]], Field(max_length=3)]

    @model_validator(mode="after")
    def _shape_fits_kind(self) -> Self:
        if len(self.shape) != (3 if self.kind == "image" else 0):
            raise ValueError("an image has three sizes, any other column none")
        values = 1
        for size in self.shape:
            values *= size
        if values > MAX_IMAGE_VALUES:
            raise ValueError("the image is too large")
        return self


class SchemaModel(StrictModel):
    """A schema whose names are unique and whose classes are none or at least two."""

    columns: Annotated[list[ColumnModel], Field(min_length=1, max_length=MAX_COLUMNS)]
    label: Name
    classes: Annotated[list[Annotated[str, StringConstraints(max_length=1024)]], Field(max_length=MAX_CLASSES)]

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [column.name for column in self.columns] + [self.label]
        if len(set(names)) != len(names) or len(set(self.classes)) != len(self.classes):
            raise ValueError("a name occurs twice")
        if len(self.classes) == 1:
            raise ValueError("there is one class")
        return self

    def schema_value(self) -> Schema:
        """Return the schema itself."""
        columns = tuple(Column(column.name, column.kind, tuple(column.shape)) for column in self.columns)
        return Schema(columns, self.label, tuple(self.classes))


def schema_to_json_dict(schema: Schema) -> dict[str, Any]:
    """Return `schema` as plain dictionaries, lists, strings and numbers."""
    return {
        "columns": [
            {"name": column.name, "kind": column.kind, "shape": list(column.shape)} for column in schema.columns
        ],
        "label": schema.label,
        "classes": list(schema.classes),
    }


def schema_from_json_dict(value: object) -> Schema:
    """Read what `schema_to_json_dict` wrote.

    Raises:
        InputError: something is missing, unknown, of another type or contradicts the rest.
    """
    try:
        return SchemaModel.model_validate(value).schema_value()
    except ValidationError as error:
        raise validation_refused(error, "schema") from None


def validation_refused(error: ValidationError, where: str) -> InputError:
    """Return the first finding of pydantic as one line that holds none of the values."""
    found = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = ".".join(str(part) for part in found["loc"])[:200]
    return InputError(found["msg"].splitlines()[0][:200], where=f"{where}: {path!r}" if path else where)
