"""Which source classes, in which label order: a name or a few lines of YAML, resolved to a class list with a digest."""

from pydantic import BaseModel, ConfigDict


class SubsetSpec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str

    @property
    def needs_ranking(self) -> str | None:
        return None
